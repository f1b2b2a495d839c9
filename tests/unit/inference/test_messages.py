"""The wire form of what server and worker say to each other."""

import json
from pathlib import Path
from typing import Any, get_args

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from maquette.core.drawing import (
    LENGTH_BYTES,
    MAX_MESSAGE,
    NOTHING_LOADED,
    BaseUse,
    BrokenMessage,
    Compare,
    Compared,
    Difference,
    Draw,
    Drawn,
    DrawRequest,
    EmbeddingUse,
    HiresFix,
    Loaded,
    LoadedBase,
    LoraUse,
    Message,
    Original,
    PictureFormat,
    Progress,
    Ready,
    RefinerUse,
    Refusal,
    Refused,
    Sampler,
    body_length,
    pack,
    unpack,
)

GOLDEN = Path(__file__).parents[2] / "golden" / "inference"
BASE = BaseUse("/bases/b", 64 * "b")

FULL = DrawRequest(
    prompt="a photo of ohwx",
    negative_prompt="(blurry:1.2)",
    width=512,
    height=768,
    steps=20,
    guidance_scale=7.5,
    seed=2**32 - 1,
    sampler=Sampler.DPMPP_2M_KARRAS,
    clip_skip=2,
    loras=(LoraUse("/loras/a.safetensors", 0.5), LoraUse("/loras/b.safetensors")),
    embeddings=(EmbeddingUse("/embeddings/e.safetensors", 64 * "d", "<e>"),),
    vae=BaseUse("/vaes/v", 64 * "f"),
    hires_fix=HiresFix(width=1024, height=1536, strength=0.5),
    refiner=RefinerUse(base=BaseUse("/bases/refiner", 64 * "e"), switch_at=0.8),
    original=Original(picture=b"\x89PNG", strength=0.7),
)
PLAIN = DrawRequest(prompt="a cat", width=64, height=64, steps=2, guidance_scale=1.0, seed=0)
LOADED = Loaded(
    bases=(LoadedBase(BaseUse("/bases/a", 64 * "a"), ()), LoadedBase(BASE, ("/loras/a.safetensors",))), room=False
)

EXAMPLES: dict[str, Message] = {
    "draw": Draw(number=1, base=BASE, request=FULL, format=PictureFormat.WEBP),
    "draw_plain": Draw(number=2, base=BASE, request=PLAIN, format=PictureFormat.PNG),
    "compare": Compare(number=3, base=BASE, request=PLAIN, sample=b"\x89PNG"),
    "ready": Ready(protocol=3, device="cuda NVIDIA H200", versions={"torch": "2.13.0"}),
    "progress": Progress(number=1, step=7, steps=20),
    "drawn": Drawn(number=1, picture=b"RIFF", loaded=LOADED),
    "compared": Compared(
        number=3, from_sample=Difference(mean=0.125, largest=2), from_base=Difference(31.5, 255), loaded=LOADED
    ),
    "refused": Refused(
        number=1,
        reason=Refusal.UNMATCHED_LORA,
        message="no key matches",
        clean=True,
        loaded=NOTHING_LOADED,
    ),
}


def golden(name: str) -> dict[str, Any]:
    return json.loads((GOLDEN / f"{name}.json").read_text())


def readable(value: Any) -> Any:
    """Bytes can't stand in JSON; they are shown in hex."""
    if isinstance(value, bytes):
        return {"bytes": value.hex()}
    if isinstance(value, dict):
        return {key: readable(entry) for key, entry in value.items()}
    return [readable(entry) for entry in value] if isinstance(value, list) else value


@pytest.mark.parametrize("name", EXAMPLES)
class TestGolden:
    def test_a_message_is_written_as_ever(self, name: str) -> None:
        wire = pack(EXAMPLES[name])
        assert {"map": readable(msgspec.msgpack.decode(wire[LENGTH_BYTES:])), "wire": wire.hex()} == golden(name)

    def test_what_was_written_is_read(self, name: str) -> None:
        wire = bytes.fromhex(golden(name)["wire"])
        assert body_length(wire[:LENGTH_BYTES]) == len(wire) - LENGTH_BYTES
        assert unpack(wire[LENGTH_BYTES:]) == EXAMPLES[name]


def test_every_message_has_a_golden_form() -> None:
    assert {type(message) for message in EXAMPLES.values()} == set(get_args(Message))
    assert {path.stem for path in GOLDEN.iterdir()} == set(EXAMPLES)


def test_words_that_the_wire_carries_stay() -> None:
    assert [sampler.value for sampler in Sampler] == [
        *("Euler a", "Euler", "LMS", "Heun", "DPM2", "DPM2 a", "DPM++ 2S a", "DPM++ 2M", "DPM++ SDE"),
        *("LMS Karras", "DPM2 Karras", "DPM2 a Karras", "DPM++ 2S a Karras", "DPM++ 2M Karras"),
        *("DPM++ SDE Karras", "DDIM", "PLMS", "UniPC"),
    ]
    assert [refusal.value for refusal in Refusal] == [
        *("unmatched_lora", "broken_lora", "broken_base", "unsupported", "bad_picture", "not_finite"),
        *("out_of_memory", "internal"),
    ]


class TestBroken:
    @given(st.binary())
    def test_any_bytes_are_a_message_or_refused(self, body: bytes) -> None:
        read_or_refused(body)

    @given(st.sampled_from(sorted(EXAMPLES)), st.data())
    def test_a_damaged_message_is_a_message_or_refused(self, name: str, data: st.DataObject) -> None:
        body = bytearray(pack(EXAMPLES[name])[LENGTH_BYTES:])
        for place in data.draw(st.lists(st.integers(0, len(body) - 1), min_size=1, max_size=4)):
            body[place] = data.draw(st.integers(0, 255))
        read_or_refused(bytes(body[: data.draw(st.integers(0, len(body)))]))

    @given(
        st.recursive(
            st.none() | st.booleans() | st.integers(-(2**63), 2**64 - 1) | st.floats() | st.text() | st.binary(),
            lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
        ),
        st.sampled_from(["draw", "compare", "ready", "progress", "drawn", "compared", "refused", "other"]),
    )
    def test_well_formed_nonsense_is_a_message_or_refused(self, value: Any, kind: str) -> None:
        read_or_refused(msgspec.msgpack.encode(value))
        read_or_refused(msgspec.msgpack.encode({"type": kind, "number": 1, "request": value, "loaded": value}))

    def test_deep_nesting_is_refused(self) -> None:
        deep = b"\x91" * 100_000
        read_or_refused(deep)
        read_or_refused(b"\x82\xa4type\xa8progress\xa7unknown" + deep)

    def test_an_option_that_a_worker_does_not_know_is_refused(self) -> None:
        """A newer server's option must not be ignored: the picture would be another."""
        request = msgspec.to_builtins(PLAIN) | {"tiling": True}
        body = msgspec.msgpack.encode(
            {"type": "draw", "number": 1, "base": {"path": "b", "sha256": "b"}, "format": "png", "request": request}
        )
        with pytest.raises(BrokenMessage, match="tiling"):
            unpack(body)

    def test_a_length_beyond_any_message_is_refused(self) -> None:
        assert body_length(MAX_MESSAGE.to_bytes(LENGTH_BYTES, "big")) == MAX_MESSAGE
        with pytest.raises(BrokenMessage, match="the most is"):
            body_length(b"HTTP")


def read_or_refused(body: bytes) -> None:
    try:
        message = unpack(body)
    except BrokenMessage:
        return
    assert isinstance(message, get_args(Message))
    assert type(unpack(pack(message)[LENGTH_BYTES:])) is type(message)
