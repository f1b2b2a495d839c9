"""Latents and prompts are computed once: in a run, and among a tenant's runs."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from PIL import Image

from maquette.families.base import TEXT_ENCODERS, Conditioning, LatentPosterior, Noising, OriginalSize, Part, all_there
from maquette.families.flux1.pipeline import Flux1Pipeline
from maquette.families.pixels import to_pixels
from maquette.families.sd15.pipeline import Sd15Pipeline
from maquette.testing.tiny_family import build_tiny_base
from maquette.testing.tiny_flux1 import build_tiny_flux1
from maquette.trainer.cache import EncodedExamples
from maquette.trainer.captions import NOTHING
from maquette.trainer.data import Example
from maquette.trainer.tensor_store import Entry, TensorStore

pytestmark = pytest.mark.torch

CPU = torch.device("cpu")
NOTHING_KEPT = TensorStore(Path("nowhere"), 0, "base")
"""A store that has room for nothing."""


@pytest.fixture(scope="module")
def pipeline(tmp_path_factory: pytest.TempPathFactory) -> Sd15Pipeline:
    return Sd15Pipeline.load(build_tiny_base(tmp_path_factory.mktemp("bases") / "tiny"), CPU)


class Counting:
    """A pipeline that counts what it is asked to encode, in order, and remembers what sizes it was told last."""

    def __init__(self, pipeline: Sd15Pipeline) -> None:
        self.pipeline = pipeline
        self.asked: list[str] = []
        self.original_sizes: Sequence[OriginalSize] = ()

    def encode_pictures(self, pixels: torch.Tensor) -> LatentPosterior:
        self.asked.append("picture")
        return self.pipeline.encode_pictures(pixels)

    def encode_prompts(self, prompts: Sequence[str]) -> Conditioning:
        self.asked += prompts
        return self.pipeline.encode_prompts(prompts)

    @property
    def modules(self) -> Mapping[Part, Sequence[torch.nn.Module]]:
        return self.pipeline.modules

    def encode_trained(self, prompts: Sequence[str]) -> Conditioning:
        self.asked += prompts
        return self.pipeline.encode_trained(prompts)

    def with_original_sizes(self, conditioning: Conditioning, original_sizes: Sequence[OriginalSize]) -> Conditioning:
        self.original_sizes = original_sizes
        return self.pipeline.with_original_sizes(conditioning, original_sizes)


class Broken(Counting):
    """A pipeline whose autoencoder is damaged."""

    def encode_pictures(self, pixels: torch.Tensor) -> LatentPosterior:
        said = super().encode_pictures(pixels)
        return replace(said, mean=said.mean * torch.nan)


@pytest.fixture
def counting(pipeline: Sd15Pipeline) -> Counting:
    return Counting(pipeline)


def picture(hue: int = 0, size: tuple[int, int] = (64, 64)) -> Image.Image:
    """Red on the left and blue on the right, so that it differs from its mirror image."""
    image = Image.new("RGB", size, (200, hue, 0))
    image.paste((0, hue, 200), (size[0] // 2, 0, *size))
    return image


def example(
    number: int = 0, size: tuple[int, int] = (64, 64), *, mirrored: bool = False, dropout: float = 0.0
) -> Example:
    return Example(
        picture=lambda: picture(40 * number, size),
        wordings=(f"picture {number}",),
        original_size=OriginalSize(400, 100 + number, left=30, right=2),
        mirrored=mirrored,
        dropout=dropout,
        kept_as=Entry(f"sha-{number}", "prepared", {"facts": "{}"}),
    )


def encode(
    pipeline: Counting, *examples: Example, store: TensorStore = NOTHING_KEPT, text: bool = False
) -> EncodedExamples:
    return EncodedExamples.encode(
        pipeline,  # pyright: ignore[reportArgumentType]
        examples,
        train_text_encoder=text,
        before_each=lambda: None,
        store=store,
        bring=all_there,
    )


def pair() -> tuple[torch.Tensor, torch.Tensor]:
    """A picture's pixels, and its mirror image's."""
    pixels = to_pixels(picture())[None]
    return pixels, pixels.flip(3)


def random(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


class Certain:
    """An objective, as far as showing asks for it, that leaves nothing to chance."""

    def noising(self, latents: torch.Tensor, random: torch.Generator) -> Noising:
        return Noising(latents + 1, torch.arange(len(latents)))

    def losses(self, latents: torch.Tensor, conditioning: Conditioning, noising: Noising) -> torch.Tensor:
        raise NotImplementedError


def only(examples: EncodedExamples, rows: Sequence[int], seed: int = 0) -> tuple[torch.Tensor, Conditioning]:
    return drawn(examples, rows, random(seed))


def drawn(examples: EncodedExamples, rows: Sequence[int], source: torch.Generator) -> tuple[torch.Tensor, Conditioning]:
    """What a step of these rows, which have one size, gives to the denoiser."""
    (shown,) = examples.show(rows, Certain(), source)
    latents, conditioning, _ = examples.batch(shown, CPU)
    return latents, conditioning


def test_all_pictures_come_before_all_prompts_and_each_prompt_once(counting: Counting) -> None:
    encode(counting, example(0), example(1), example(0))
    assert counting.asked == ["picture"] * 3 + ["picture 0", "picture 1"]


def test_each_part_of_the_pipeline_is_asked_for_when_it_is_needed_and_no_sooner(
    pipeline: Sd15Pipeline, tmp_path: Path
) -> None:
    store = TensorStore(tmp_path, 1 << 20, "base")

    def brought() -> list[tuple[Part, ...]]:
        parts: list[tuple[Part, ...]] = []
        EncodedExamples.encode(
            pipeline,
            [example(0), example(1)],
            train_text_encoder=False,
            before_each=lambda: None,
            store=store,
            bring=lambda *asked: parts.append(asked),
        )
        return parts

    assert brought() == [(Part.AUTOENCODER,)] * 2 + [TEXT_ENCODERS] * 2
    assert brought() == []


def test_a_batch_is_what_the_pipeline_says_of_its_rows(counting: Counting, pipeline: Sd15Pipeline) -> None:
    latents, conditioning = only(encode(counting, example(0), example(1)), [1, 0])
    posteriors = [pipeline.encode_pictures(to_pixels(picture(hue))[None]) for hue in (40, 0)]
    noise = torch.randn(latents.shape, generator=random())
    mean, std = (torch.cat([getattr(one, name) for one in posteriors]) for name in ("mean", "std"))
    assert torch.equal(latents, mean + std * noise)
    said = [pipeline.encode_prompts([f"picture {number}"])["prompt_embeds"] for number in (1, 0)]
    assert torch.equal(conditioning["prompt_embeds"], torch.cat(said))


def test_latents_are_drawn_anew_each_time(counting: Counting) -> None:
    encoded, source = encode(counting, example()), random()
    (one, _), (other, _) = (drawn(encoded, [0], source) for _ in range(2))
    assert not torch.equal(one, other)


def test_pictures_of_one_size_are_shown_together_wherever_they_stand(counting: Counting) -> None:
    wide = (128, 64)
    encoded = encode(counting, example(0), example(1, wide), example(2), example(3, wide))
    shown = list(encoded.show([0, 1, 2, 3], Certain(), random()))
    assert [(batch.places, batch.prompts) for batch in shown] == [
        ([0, 2], ["picture 0", "picture 2"]),
        ([1, 3], ["picture 1", "picture 3"]),
    ]
    assert [tuple(batch.latents.shape) for batch in shown] == [(2, 4, 16, 16), (2, 4, 16, 32)]
    assert all(torch.equal(batch.noising.noise, batch.latents + 1) for batch in shown)


def test_parts_are_the_whole(counting: Counting) -> None:
    encoded = encode(counting, *(example(number, mirrored=True) for number in range(3)))
    (whole,) = encoded.show([2, 0, 1], Certain(), random())
    parts = list(whole.split(2))
    assert [len(part.places) for part in parts] == [2, 1]
    for name in ("places", "prompts", "original_sizes"):
        assert [one for part in parts for one in getattr(part, name)] == list(getattr(whole, name))
    assert torch.equal(torch.cat([part.latents for part in parts]), whole.latents)
    assert torch.equal(torch.cat([part.noising.noise for part in parts]), whole.noising.noise)
    assert torch.equal(torch.cat([part.noising.times for part in parts]), whole.noising.times)


def test_a_text_encoder_that_trains_is_asked_at_each_step(counting: Counting) -> None:
    encoded = encode(counting, example(0), text=True)
    assert encoded.all_encoders_train
    assert counting.asked == ["picture"]
    only(encoded, [0])
    only(encoded, [0])
    assert counting.asked == ["picture", "picture 0", "picture 0"]


def tagged(*wordings: str) -> Example:
    return replace(example(), wordings=wordings)


def test_tags_come_in_any_order_where_prompts_are_read_anew(counting: Counting) -> None:
    encoded = encode(counting, tagged("ohwx, a, b, c, d", "ohwx, d, c, b, a"), text=True)
    (shown,) = encoded.show([0] * 200, Certain(), random())
    prompts = shown.prompts
    # Of 24 orders.
    assert len(set(prompts)) > 20
    assert {tuple(sorted(prompt.split(", "))) for prompt in prompts} == {("a", "b", "c", "d", "ohwx")}
    assert all(prompt.startswith("ohwx, ") for prompt in prompts)


def test_and_in_those_that_were_encoded_elsewhere(counting: Counting, tmp_path: Path) -> None:
    flux = Flux1Pipeline.load(build_tiny_flux1(tmp_path / "base"), CPU)
    orders = ("ohwx, a, b, c, d", "ohwx, d, c, b, a")
    for encoded in (
        encode(counting, tagged(*orders)),
        encode(flux, tagged(*orders), text=True),  # pyright: ignore[reportArgumentType]
    ):
        (shown,) = encoded.show([0] * 50, Certain(), random())
        assert set(shown.prompts) == set(orders)


def test_what_is_one_caption_is_not_shuffled(counting: Counting) -> None:
    (shown,) = encode(counting, tagged("ohwx, a, b"), text=True).show([0] * 20, Certain(), random())
    assert set(shown.prompts) == {"ohwx, a, b"}


def test_a_text_encoder_that_can_not_train_reads_each_prompt_once_beside_one_that_does(tmp_path: Path) -> None:
    pipeline = Flux1Pipeline.load(build_tiny_flux1(tmp_path / "base"), CPU)
    read: list[int] = []
    pipeline.parts.text_encoder_2.register_forward_hook(lambda *_: read.append(1))
    store = TensorStore(tmp_path / "kept", 1 << 20, "base")
    first, again = (
        encode(pipeline, example(0), example(1), store=store, text=True)  # pyright: ignore[reportArgumentType]
        for _ in range(2)
    )
    for encoded in (first, again):
        only(encoded, [0, 1])
    _, told = only(again, [1, 0])
    assert len(read) == 2
    whole = pipeline.encode_prompts(["picture 1", "picture 0"])
    assert told.keys() == whole.keys()
    for name, values in whole.items():
        torch.testing.assert_close(told[name], values)


def test_a_dropped_caption_is_nothing(counting: Counting, pipeline: Sd15Pipeline) -> None:
    _, conditioning = only(encode(counting, example(dropout=1.0)), [0])
    assert NOTHING in counting.asked
    assert torch.equal(conditioning["prompt_embeds"], pipeline.encode_prompts([NOTHING])["prompt_embeds"])


def test_a_mirrored_picture_is_shown_both_ways(counting: Counting, pipeline: Sd15Pipeline) -> None:
    encoded = encode(counting, example(mirrored=True))
    ways = [pipeline.encode_pictures(view).mean for view in pair()]
    assert not torch.equal(*ways)
    assert torch.equal(encoded.posteriors[0].mean, torch.cat(ways))
    source = random()
    nearest = [
        min((0, 1), key=lambda way: float((latents - ways[way]).abs().mean()))
        for _ in range(20)
        for latents, _ in [drawn(encoded, [0], source)]
    ]
    assert 5 < sum(nearest) < 15


@pytest.mark.parametrize("text", [False, True])
def test_a_batch_is_told_what_its_pictures_were(counting: Counting, text: bool) -> None:
    only(encode(counting, example(0), example(1), text=text), [1, 0])
    assert list(counting.original_sizes) == [
        OriginalSize(400, 101, left=30, right=2),
        OriginalSize(400, 100, left=30, right=2),
    ]


def test_of_a_mirror_image_what_was_cut_off_on_the_right_was_on_the_left(
    counting: Counting, pipeline: Sd15Pipeline
) -> None:
    encoded = encode(counting, example(mirrored=True))
    straight, mirrored = (pipeline.encode_pictures(view).mean for view in pair())
    source, seen = random(), set[bool]()
    for _ in range(20):
        latents, _ = drawn(encoded, [0], source)
        is_mirrored = bool((latents - mirrored).abs().mean() < (latents - straight).abs().mean())
        seen.add(is_mirrored)
        (original_size,) = counting.original_sizes
        assert (original_size.left, original_size.right) == ((2, 30) if is_mirrored else (30, 2))
    assert seen == {True, False}


class TestKept:
    def test_a_second_run_encodes_nothing_and_sees_the_same_bits(self, counting: Counting, tmp_path: Path) -> None:
        fresh = only(encode(counting, example(0), example(1, mirrored=True)), [0, 1])
        first = TensorStore(tmp_path, 1 << 20, "base")
        encode(counting, example(0), example(1, mirrored=True), store=first)
        counting.asked.clear()
        second = TensorStore(tmp_path, 1 << 20, "base")
        again = only(encode(counting, example(0), example(1, mirrored=True), store=second), [0, 1])
        assert counting.asked == []
        assert torch.equal(again[0], fresh[0])
        assert torch.equal(again[1]["prompt_embeds"], fresh[1]["prompt_embeds"])

    def test_a_kept_picture_is_not_even_made(self, counting: Counting, tmp_path: Path) -> None:
        store = TensorStore(tmp_path, 1 << 20, "base")
        encode(counting, example(), store=store)

        def never() -> Image.Image:
            raise AssertionError

        encode(counting, replace(example(), picture=never), store=store)

    def test_only_what_is_missing_is_encoded(self, counting: Counting, tmp_path: Path) -> None:
        store = TensorStore(tmp_path, 1 << 20, "base")
        encode(counting, example(0), store=store)
        counting.asked.clear()
        encode(counting, example(0), example(1), store=store)
        assert counting.asked == ["picture", "picture 1"]

    def test_what_is_damaged_is_encoded_anew_to_the_same_bits_and_kept_again(
        self, counting: Counting, tmp_path: Path
    ) -> None:
        store = TensorStore(tmp_path, 1 << 20, "base")
        fresh = only(encode(counting, example(), store=store), [0])
        kept = {file: file.read_bytes() for file in tmp_path.rglob("*.safetensors")}
        for file, data in kept.items():
            file.write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
        counting.asked.clear()
        again = only(encode(counting, example(), store=store), [0])
        assert counting.asked == ["picture", "picture 0"]
        assert torch.equal(again[0], fresh[0])
        assert torch.equal(again[1]["prompt_embeds"], fresh[1]["prompt_embeds"])
        assert {file: file.read_bytes() for file in kept} == kept

    def test_what_a_broken_autoencoder_says_is_shown_and_not_kept(self, counting: Counting, tmp_path: Path) -> None:
        """Shown, so that the base is told to be damaged; with a sound one the picture is encoded anew."""
        broken, store = Broken(counting.pipeline), TensorStore(tmp_path, 1 << 20, "base")
        latents, _ = only(encode(broken, example(), store=store), [0])
        assert latents.isnan().all()
        assert store.read(example().kept_as) is None
        encode(counting, example(), store=store)
        assert counting.asked == ["picture"]

    def test_notes_are_kept_beside_latents(self, counting: Counting, tmp_path: Path) -> None:
        store = TensorStore(tmp_path, 1 << 20, "base")
        encode(counting, example(0), store=store)
        assert store.notes("sha-0", "prepared") == {"facts": "{}"}
