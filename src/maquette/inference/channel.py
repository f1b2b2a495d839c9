"""The worker's end of the socket: messages of `maquette.core.drawing`, one after the other."""

import socket

from maquette.core.drawing import (
    LENGTH_BYTES,
    BrokenMessage,
    Compare,
    Draw,
    FromWorker,
    ToWorker,
    body_length,
    pack,
    unpack,
)


class HungUp(Exception):
    """The server's end is closed; nobody waits for an answer any more."""


class Channel:
    """Blocking, for one request at a time."""

    def __init__(self, connection: socket.socket) -> None:
        connection.setblocking(True)
        self._connection = connection

    def receive(self) -> ToWorker:
        """The next request.

        Raises:
            HungUp: the server is gone.
            BrokenMessage: what came is no request.
        """
        message = unpack(self._read(body_length(self._read(LENGTH_BYTES))))
        if not isinstance(message, Draw | Compare):
            raise BrokenMessage(f"a worker is asked to draw or compare, not told {type(message).__name__}")
        return message

    def send(self, message: FromWorker) -> None:
        """Send a message.

        Raises:
            HungUp: the server is gone.
        """
        try:
            self._connection.sendall(pack(message))
        except (BrokenPipeError, ConnectionResetError) as error:
            raise HungUp from error

    def check(self) -> None:
        """Look whether the server is there, without waiting.

        Raises:
            HungUp: it is gone.
        """
        try:
            if not self._connection.recv(1, socket.MSG_PEEK | socket.MSG_DONTWAIT):
                raise HungUp
        except BlockingIOError:
            pass
        except ConnectionResetError as error:
            raise HungUp from error

    def _read(self, count: int) -> bytes:
        data = bytearray()
        while len(data) < count:
            try:
                chunk = self._connection.recv(count - len(data))
            except ConnectionResetError as error:
                raise HungUp from error
            if not chunk:
                raise HungUp
            data += chunk
        return bytes(data)
