"""The worker's end of the socket, with a real one."""

import socket
from collections.abc import Generator

import pytest

from maquette.core.drawing import (
    LENGTH_BYTES,
    MAX_MESSAGE,
    BaseUse,
    BrokenMessage,
    Draw,
    DrawRequest,
    PictureFormat,
    Progress,
    pack,
    unpack,
)
from maquette.inference.channel import Channel, HungUp

REQUEST = DrawRequest(prompt="a cat", width=64, height=64, steps=2, guidance_scale=1.0, seed=0)
DRAWS = [
    Draw(number=number, base=BaseUse("/bases/b", 64 * "b"), request=REQUEST, format=PictureFormat.PNG)
    for number in range(3)
]
PATIENCE = 10


@pytest.fixture
def ends() -> Generator[tuple[socket.socket, socket.socket]]:
    """The server's end and the worker's."""
    server, worker = socket.socketpair()
    with server, worker:
        server.settimeout(PATIENCE)
        yield server, worker


@pytest.fixture
def server(ends: tuple[socket.socket, socket.socket]) -> socket.socket:
    return ends[0]


@pytest.fixture
def channel(ends: tuple[socket.socket, socket.socket]) -> Channel:
    return Channel(ends[1])


def test_requests_come_in_order_however_they_are_cut(server: socket.socket, channel: Channel) -> None:
    wire = b"".join(pack(draw) for draw in DRAWS)
    server.sendall(wire[:-5])
    assert [channel.receive(), channel.receive()] == DRAWS[:2]
    server.sendall(wire[-5:])
    assert channel.receive() == DRAWS[2]


def test_answers_are_whole_messages(server: socket.socket, channel: Channel) -> None:
    channel.send(Progress(1, 2, 3))
    wire = server.recv(1000)
    assert unpack(wire[LENGTH_BYTES:]) == Progress(1, 2, 3)


@pytest.mark.parametrize("sent", [b"", pack(DRAWS[0])[:2], pack(DRAWS[0])[:-1]])
def test_a_server_that_is_gone_hung_up(server: socket.socket, channel: Channel, sent: bytes) -> None:
    server.sendall(sent)
    server.close()
    with pytest.raises(HungUp):
        channel.receive()
    with pytest.raises(HungUp):
        channel.send(Progress(1, 1, 2))


def test_a_look_takes_nothing_and_waits_for_nothing(server: socket.socket, channel: Channel) -> None:
    channel.check()
    server.sendall(pack(DRAWS[0]))
    channel.check()
    assert channel.receive() == DRAWS[0]
    server.close()
    with pytest.raises(HungUp):
        channel.check()


@pytest.mark.parametrize(
    "garbage",
    [
        b"GET / HTTP/1.1\r\n\r\n",
        (MAX_MESSAGE + 1).to_bytes(LENGTH_BYTES, "big"),
        (0).to_bytes(LENGTH_BYTES, "big"),
        (4).to_bytes(LENGTH_BYTES, "big") + b"\xff\xff\xff\xff",
        pack(Progress(1, 1, 2)),
    ],
)
def test_what_is_no_request_is_refused(server: socket.socket, channel: Channel, garbage: bytes) -> None:
    server.sendall(garbage)
    with pytest.raises(BrokenMessage):
        channel.receive()
