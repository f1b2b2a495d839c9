"""A real worker process with the bundled base: what it draws, what it refuses, and how it ends."""

import json
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import msgspec
import pytest
import torch
from msgspec.structs import replace
from PIL import Image

from maquette.bases.catalogue import BUNDLED_PATH
from maquette.core.drawing import (
    LENGTH_BYTES,
    PROTOCOL,
    BaseUse,
    Compare,
    Compared,
    Difference,
    Draw,
    Drawn,
    DrawRequest,
    FromWorker,
    HiresFix,
    Loaded,
    LoadedBase,
    LoraUse,
    Message,
    Original,
    PictureFormat,
    Progress,
    Ready,
    Refusal,
    Refused,
    Sampler,
    body_length,
    pack,
    unpack,
)
from maquette.core.weights import read_header
from maquette.families.sd15.adapters import Sd15Adapters
from maquette.families.sd15.pipeline import Sd15Pipeline
from maquette.inference.pictures import decoded, difference, encoded
from maquette.testing.factories import training_spec
from maquette.testing.tiny_family import build_tiny_base, registered
from maquette.trainer.tensors import read_tensors, write_tensors

pytestmark = pytest.mark.torch

PATIENCE = 300
STEPS = 2
REQUEST = DrawRequest(prompt="a red creature", width=128, height=128, steps=STEPS, guidance_scale=3.0, seed=7)
BASE = registered(BUNDLED_PATH)
ANOTHER_SIZE = replace(REQUEST, width=64, height=64)
BROKEN = {
    "missing": Refusal.BROKEN_LORA,
    "cut off": Refusal.BROKEN_LORA,
    "not finite": Refusal.BROKEN_LORA,
    "foreign": Refusal.UNMATCHED_LORA,
    "half its layers": Refusal.UNMATCHED_LORA,
    "half its pairs": Refusal.UNMATCHED_LORA,
    "another base's": Refusal.UNMATCHED_LORA,
}


class Server:
    """The server's end: a worker process, asked one thing after the other."""

    def __init__(self, process: subprocess.Popen[bytes], connection: socket.socket, errors: Path) -> None:
        self.process = process
        self.connection = connection
        self.errors = errors
        self.number = 0

    def receive(self) -> Message:
        return unpack(self._read(body_length(self._read(LENGTH_BYTES))))

    def ask(self, message: Draw | Compare) -> tuple[list[Progress], FromWorker]:
        """Send a request; answer all that came of it."""
        self.connection.sendall(pack(message))
        told: list[Progress] = []
        while isinstance(answer := self.receive(), Progress):
            told.append(answer)
        assert isinstance(answer, Drawn | Compared | Refused)
        assert {message.number} == {answer.number, *(progress.number for progress in told)}
        return told, answer

    def draw(
        self,
        request: DrawRequest = REQUEST,
        *loras: LoraUse,
        base: BaseUse = BASE,
        form: PictureFormat = PictureFormat.PNG,
    ) -> Drawn | Refused:
        _, answer = self.ask(Draw(number=self.next(), base=base, request=replace(request, loras=loras), format=form))
        assert isinstance(answer, Drawn | Refused)
        return answer

    def picture(self, request: DrawRequest = REQUEST, *loras: LoraUse) -> bytes:
        answer = self.draw(request, *loras)
        assert isinstance(answer, Drawn), answer
        return answer.picture

    def next(self) -> int:
        self.number += 1
        return self.number

    def hang_up(self) -> int:
        """Close the socket; answer the worker's exit code."""
        self.connection.close()
        return self.process.wait(PATIENCE)

    def _read(self, count: int) -> bytes:
        data = bytearray()
        while len(data) < count:
            chunk = self.connection.recv(count - len(data))
            assert chunk, f"the worker hung up: {self.errors.read_text()}"
            data += chunk
        return bytes(data)


@contextmanager
def started(folder: Path, *options: str) -> Generator[Server]:
    """A worker that has not said yet that it is ready."""
    ours, theirs = socket.socketpair()
    command = (sys.executable, "-m", "maquette.inference", "serve", "--fd", str(theirs.fileno()), *options)
    errors = folder / "worker.log"
    with errors.open("wb") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log, pass_fds=(theirs.fileno(),))
    theirs.close()
    ours.settimeout(PATIENCE)
    try:
        with ours:
            yield Server(process, ours, errors)
    finally:
        process.kill()
        process.wait()


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Generator[Server]:
    """A worker that serves every test here; each leaves it as it was."""
    with started(tmp_path_factory.mktemp("worker"), "--device", "cpu", "--lora-bytes", "10000000") as server:
        ready = server.receive()
        assert isinstance(ready, Ready)
        assert (ready.protocol, ready.device) == (PROTOCOL, "cpu")
        assert ready.versions["torch"] == torch.__version__
        assert set(ready.versions) == {"maquette", "torch", "diffusers", "transformers"}
        yield server
        assert server.hang_up() == 0, server.errors.read_text()


@pytest.fixture(scope="module")
def plain(server: Server) -> bytes:
    """What the base itself draws."""
    return server.picture()


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Image.Image]:
    """A LoRA of random weights, and what its trainer would draw with it as its sample."""
    pipeline = Sd15Pipeline.load(BUNDLED_PATH, torch.device("cpu"))
    adapters = Sd15Adapters(pipeline)
    adapters.attach(replace(training_spec().settings, train_text_encoder=True, lora_r=4, lora_alpha=8))
    random = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in adapters.parameters().values():
            parameter.copy_(torch.randn(parameter.shape, generator=random) * 0.05)
    path = tmp_path_factory.mktemp("lora") / "lora.safetensors"
    write_tensors(path, adapters.parameters(), adapters.metadata())
    return path, pipeline.draw(REQUEST)


@pytest.fixture(scope="module")
def lora(trained: tuple[Path, Image.Image]) -> LoraUse:
    return LoraUse(str(trained[0]))


@pytest.fixture
def broken(lora: LoraUse, tmp_path: Path) -> Callable[[str], LoraUse]:
    """Makes a LoRA file that is broken in a way."""

    def make(how: str) -> LoraUse:
        path, whole = tmp_path / "broken.safetensors", Path(lora.path)
        tensors, metadata = read_tensors(whole), read_header(whole).metadata
        names = sorted(tensors)
        match how:
            case "cut off":
                path.write_bytes(whole.read_bytes()[:-100])
            case "not finite":
                tensors[names[5]].view(-1)[3] = float("nan")
                write_tensors(path, tensors, metadata)
            case "foreign":
                write_tensors(path, {f"transformer.{name}": tensor for name, tensor in tensors.items()}, metadata)
            case "half its layers":
                write_tensors(path, {name: tensors[name] for name in names[: len(names) // 4 * 2]}, metadata)
            case "half its pairs":
                write_tensors(path, {name: tensors[name] for name in names if ".lora_A." in name}, metadata)
            case "another base's":
                base = build_tiny_base(tmp_path / "tiny")
                adapters = Sd15Adapters(Sd15Pipeline.load(base, torch.device("cpu")))
                adapters.attach(training_spec().settings)
                write_tensors(path, adapters.parameters(), adapters.metadata())
            case _:
                pass
        return LoraUse(str(path))

    return make


class TestDrawing:
    def test_a_seed_decides_the_picture(self, server: Server, plain: bytes) -> None:
        assert server.picture(replace(REQUEST, seed=8)) != plain
        assert server.picture() == plain

    def test_progress_is_told_step_by_step(self, server: Server) -> None:
        message = Draw(number=server.next(), base=BASE, request=REQUEST, format=PictureFormat.PNG)
        told, answer = server.ask(message)
        assert [(progress.step, progress.steps) for progress in told] == [(1, STEPS), (2, STEPS)]
        assert isinstance(answer, Drawn)

    @pytest.mark.parametrize("form", PictureFormat)
    def test_every_format_is_the_same_picture(self, server: Server, plain: bytes, form: PictureFormat) -> None:
        answer = server.draw(form=form)
        assert isinstance(answer, Drawn)
        assert difference(decoded(answer.picture), decoded(plain)).mean < 4

    def test_a_lora_acts_for_its_request_alone(self, server: Server, plain: bytes, lora: LoraUse) -> None:
        first = server.draw(REQUEST, lora)
        assert isinstance(first, Drawn)
        (loaded,) = first.loaded.bases
        assert loaded.base == BASE
        assert lora.path in loaded.loras
        assert first.picture != plain
        assert server.picture() == plain
        assert server.picture(REQUEST, lora) == first.picture
        assert server.picture(REQUEST, replace(lora, strength=0.5)) not in {plain, first.picture}
        halves = server.picture(REQUEST, replace(lora, strength=0.5), replace(lora, strength=0.5))
        assert halves == first.picture
        assert server.picture(REQUEST, replace(lora, strength=0.0)) == plain

    def test_every_way_of_drawing_works_as_deterministically_as_a_worker_does(
        self, server: Server, plain: bytes
    ) -> None:
        """Some operations have no deterministic form, and are errors then; what a request asks for needs none."""
        start = Original(picture=plain, strength=0.6)
        requests = [
            replace(REQUEST, sampler=Sampler.DPMPP_SDE_KARRAS, clip_skip=2),
            replace(REQUEST, original=start, hires_fix=HiresFix(width=192, height=160, strength=0.6)),
        ]
        pictures = [server.picture(request) for request in requests]
        assert len({plain, *pictures}) == 3
        assert [decoded(picture).size for picture in pictures] == [(128, 128), (192, 160)]

    def test_requests_that_wait_are_answered_each_with_its_own(self, server: Server, plain: bytes) -> None:
        seeds = {server.next(): seed for seed in (7, 8, 7)}
        for number, seed in seeds.items():
            request = replace(REQUEST, seed=seed)
            server.connection.sendall(pack(Draw(number=number, base=BASE, request=request, format=PictureFormat.PNG)))
        answers: list[Drawn] = []
        while len(answers) < len(seeds):
            answer = server.receive()
            if isinstance(answer, Drawn):
                answers.append(answer)
            else:
                # No word of a request before the one before it is answered.
                assert isinstance(answer, Progress)
                assert answer.number == list(seeds)[len(answers)]
        assert [answer.number for answer in answers] == list(seeds)
        assert [answer.picture == plain for answer in answers] == [True, False, True]

    def test_another_base_takes_the_place_of_the_first(
        self, server: Server, plain: bytes, lora: LoraUse, tmp_path: Path
    ) -> None:
        tiny = registered(build_tiny_base(tmp_path / "tiny"))
        small = server.draw(ANOTHER_SIZE, base=tiny)
        assert isinstance(small, Drawn)
        assert small.loaded == Loaded(bases=(LoadedBase(tiny, ()),), room=False)
        assert decoded(small.picture).size == (64, 64)
        refused = server.draw(ANOTHER_SIZE, lora, base=tiny)
        assert isinstance(refused, Refused)
        assert refused.reason is Refusal.UNMATCHED_LORA
        assert server.picture() == plain

    def test_a_base_put_in_the_place_of_another_is_loaded_anew(self, server: Server, tmp_path: Path) -> None:
        tiny = build_tiny_base(tmp_path / "tiny")
        earlier = registered(tiny)
        first = server.draw(ANOTHER_SIZE, base=earlier)
        tiny.rename(tmp_path / "earlier")
        build_tiny_base(tiny, seed=1)
        assert isinstance(first, Drawn)
        again = server.draw(ANOTHER_SIZE, base=earlier)
        assert isinstance(again, Drawn)
        assert again.picture == first.picture, "it stays loaded"
        second = server.draw(ANOTHER_SIZE, base=registered(tiny))
        assert isinstance(second, Drawn)
        assert second.picture != first.picture
        refused = server.draw(ANOTHER_SIZE, base=earlier)
        assert isinstance(refused, Refused)
        assert (refused.reason, refused.clean) == (Refusal.BROKEN_BASE, True)
        assert refused.message.startswith("tiny is not what was registered: ")


class TestComparing:
    def test_a_file_equals_its_trainers_sample(
        self, server: Server, plain: bytes, trained: tuple[Path, Image.Image], lora: LoraUse
    ) -> None:
        sample = encoded(trained[1], PictureFormat.PNG)
        message = Compare(number=server.next(), base=BASE, request=replace(REQUEST, loras=(lora,)), sample=sample)
        told, answer = server.ask(message)
        assert isinstance(answer, Compared)
        assert answer.from_sample == Difference(mean=0.0, largest=0)
        assert answer.from_base == difference(trained[1], decoded(plain))
        assert answer.from_base.mean > 1
        assert [(progress.step, progress.steps) for progress in told] == [
            (step, 2 * STEPS) for step in range(1, 2 * STEPS + 1)
        ]
        assert server.picture() == plain

    def test_what_does_nothing_is_as_near_as_can_be_to_the_base(
        self, server: Server, plain: bytes, lora: LoraUse
    ) -> None:
        request = replace(REQUEST, loras=(replace(lora, strength=0.0),))
        _, answer = server.ask(Compare(number=server.next(), base=BASE, request=request, sample=plain))
        assert isinstance(answer, Compared)
        assert answer.from_base == answer.from_sample == Difference(mean=0.0, largest=0)

    def test_a_sample_of_another_size_differs_most(self, server: Server, lora: LoraUse) -> None:
        sample = encoded(Image.new("RGB", (64, 128)), PictureFormat.PNG)
        request = replace(REQUEST, loras=(lora,))
        _, answer = server.ask(Compare(number=server.next(), base=BASE, request=request, sample=sample))
        assert isinstance(answer, Compared)
        assert answer.from_sample.largest == 255

    def test_a_sample_that_is_no_picture_is_refused(self, server: Server, plain: bytes) -> None:
        _, answer = server.ask(Compare(number=server.next(), base=BASE, request=REQUEST, sample=b"GIF89a"))
        assert isinstance(answer, Refused)
        assert (answer.reason, answer.clean) == (Refusal.BAD_PICTURE, True)
        assert server.picture() == plain


class TestRefusing:
    @pytest.mark.parametrize("how", BROKEN)
    def test_a_broken_lora_is_refused_and_leaves_nothing(
        self, server: Server, plain: bytes, lora: LoraUse, broken: Callable[[str], LoraUse], how: str
    ) -> None:
        """Nor does the whole one beside it act."""
        bad = broken(how)
        answer = server.draw(REQUEST, lora, bad)
        assert isinstance(answer, Refused)
        assert (answer.reason, answer.clean) == (BROKEN[how], True)
        assert answer.message.startswith(("broken.safetensors", "a LoRA can't be read: ")), "no folder is told"
        assert str(Path(bad.path).parent) not in answer.message
        assert all(bad.path not in each.loras for each in answer.loaded.bases)
        assert server.picture() == plain

    def test_a_broken_base_is_refused(self, server: Server, plain: bytes, tmp_path: Path) -> None:
        (tmp_path / "model_index.json").write_text(json.dumps({"_class_name": "StableDiffusionPipeline"}))
        for folder in (tmp_path / "nowhere", tmp_path):
            answer = server.draw(base=registered(folder))
            assert isinstance(answer, Refused)
            assert (answer.reason, answer.clean) == (Refusal.BROKEN_BASE, True)
            assert str(tmp_path.parent) not in answer.message
        assert server.picture() == plain

    def test_a_picture_beyond_all_memory_is_refused(self, server: Server, plain: bytes, lora: LoraUse) -> None:
        huge = replace(REQUEST, width=2**23, height=2**23)
        answer = server.draw(huge, lora)
        assert isinstance(answer, Refused)
        assert (answer.reason, answer.clean) == (Refusal.OUT_OF_MEMORY, True)
        assert server.picture() == plain


class TestEnding:
    """Each of these needs a process of its own."""

    @pytest.fixture
    def another(self, tmp_path: Path) -> Generator[Server]:
        with started(tmp_path) as server:
            assert isinstance(server.receive(), Ready)
            yield server

    def test_a_worker_stops_drawing_when_the_server_is_gone(self, another: Server) -> None:
        endless = replace(REQUEST, steps=1000)
        another.connection.sendall(pack(Draw(number=1, base=BASE, request=endless, format=PictureFormat.PNG)))
        assert another.receive() == Progress(1, 1, 1000)
        began = time.monotonic()
        assert another.hang_up() == 0
        assert time.monotonic() - began < 60
        assert "Traceback" not in another.errors.read_text()

    def test_garbage_ends_it_with_an_error(self, another: Server) -> None:
        another.connection.sendall(b"GET / HTTP/1.1\r\n\r\n")
        assert another.process.wait(PATIENCE) == 1
        assert "not a request: a message of" in another.errors.read_text()

    def test_an_error_that_nobody_foresaw_ends_it(self, another: Server) -> None:
        """Whatever the worker holds then is not to be trusted."""
        answer = another.draw(replace(REQUEST, width=-64))
        assert isinstance(answer, Refused)
        assert (answer.reason, answer.clean) == (Refusal.INTERNAL, False)
        assert another.process.wait(PATIENCE) == 1
        assert "Traceback" in another.errors.read_text()


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (("--fd", "99"), "--fd 99: "),
        (("--fd", "0", "--bases", "0"), "argument --bases: '0' is not 1 or more"),
        (("--fd", "0", "--lora-bytes", "-5"), "argument --lora-bytes: '-5' is not 1 or more"),
        ((), "--fd"),
    ],
)
def test_a_wrong_call_is_answered_at_once(options: tuple[str, ...], words: str) -> None:
    command: Any = (sys.executable, "-m", "maquette.inference", "serve", *options)
    done = subprocess.run(command, check=False, capture_output=True, text=True, stdin=subprocess.DEVNULL)
    assert done.returncode == 2
    assert words in done.stderr


def test_a_device_that_is_none_is_told_by_both_commands(tmp_path: Path) -> None:
    with started(tmp_path, "--device", "warp") as server:
        assert server.process.wait(PATIENCE) == 2
        assert server.errors.read_text().startswith("--device warp: ")
    requests = tmp_path / "requests.json"
    requests.write_bytes(msgspec.json.encode([REQUEST]))
    command = (sys.executable, "-m", "maquette.inference", "draw", "--base", BASE.path, "--device", "warp")
    drawn = subprocess.run([*command, str(requests), str(tmp_path)], check=False, capture_output=True, text=True)
    assert drawn.returncode == 2
    assert drawn.stderr.startswith("--device warp: ")


def test_what_a_request_may_not_ask_is_told_and_the_pictures_before_are_drawn(tmp_path: Path) -> None:
    requests = tmp_path / "requests.json"
    requests.write_bytes(msgspec.json.encode([replace(REQUEST, steps=1), replace(REQUEST, clip_skip=9)]))
    command = (sys.executable, "-m", "maquette.inference", "draw", "--base", BASE.path, str(requests), str(tmp_path))
    drawn = subprocess.run(command, check=False, capture_output=True, text=True)
    assert (drawn.returncode, (tmp_path / "000.png").exists(), (tmp_path / "001.png").exists()) == (1, True, False)
    assert drawn.stderr.startswith("clip_skip 9: ")
