"""Everything a request can ask of a Stable Diffusion base, on a base that draws in milliseconds."""

import io
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import torch
from diffusers import AutoencoderKL, StableDiffusionImg2ImgPipeline
from msgspec.structs import replace
from PIL import Image

from maquette.bases.catalogue import BUNDLED_PATH
from maquette.bases.embedding import inspect_embedding
from maquette.core.basefolder import BrokenBase
from maquette.core.drawing import BaseUse, DrawRequest, EmbeddingUse, HiresFix, Original, RefinerUse, Sampler
from maquette.core.files import file_sha256
from maquette.families.base import TEXT_ENCODERS, BadPicture, NotFinite, Part, Unsupported
from maquette.families.conditioning import PromptEncoder, _weighted, last_layer
from maquette.families.latent_pipeline import enlarged
from maquette.families.registry import layouts
from maquette.families.samplers import build_scheduler
from maquette.families.sd15.pipeline import Sd15Pipeline
from maquette.testing.tiny_family import build_tiny_base, registered

pytestmark = pytest.mark.torch

CPU = torch.device("cpu")
REQUEST = DrawRequest(
    prompt="a photo of ohwx", negative_prompt="grey", width=64, height=48, steps=4, guidance_scale=3.0, seed=5
)


@pytest.fixture(scope="module")
def bases(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """A base's folder by what its noise scheduler predicts and the seed of its weights."""
    root = tmp_path_factory.mktemp("bases")

    def base(prediction_type: str = "epsilon", seed: int = 0) -> Path:
        folder = root / f"{prediction_type}-{seed}"
        return folder if folder.exists() else build_tiny_base(folder, prediction_type=prediction_type, seed=seed)

    return base


@pytest.fixture(scope="module")
def shared(bases: Callable[..., Path]) -> Sd15Pipeline:
    return Sd15Pipeline.load(bases(), CPU)


@pytest.fixture
def pipeline(shared: Sd15Pipeline) -> Any:
    """A pipeline that must draw after the test as it drew before."""
    before = shared.draw(REQUEST)
    yield shared
    assert same(shared.draw(REQUEST), before)


@pytest.fixture(scope="module")
def bundled() -> Sd15Pipeline:
    """A base whose text encoder has two layers, and whose tokens are words."""
    return Sd15Pipeline.load(BUNDLED_PATH, CPU)


def word(file: Path, text: str = "word") -> EmbeddingUse:
    """A word for a file as it is now."""
    return EmbeddingUse(str(file), file_sha256(file), text)


def encoding(pipeline: Sd15Pipeline, **options: Any) -> Callable[..., torch.Tensor]:
    """What encodes prompts to draw with."""
    encoder = PromptEncoder(pipeline.parts.tokenizer, pipeline.text_encoder, read=last_layer, **options)
    return lambda *prompts: encoder.encode(*prompts).embeds


def same(one: Image.Image, other: Image.Image) -> bool:
    return one.size == other.size and one.tobytes() == other.tobytes()


def distance(one: Image.Image, other: Image.Image) -> float:
    """Mean absolute difference, in levels of 255."""
    return float(np.abs(np.asarray(one, dtype=np.int16) - np.asarray(other, dtype=np.int16)).mean())


def picture_file(size: tuple[int, int], file_format: str = "PNG") -> bytes:
    """A file of a picture whose left half is red and whose right half is blue."""
    picture = Image.new("RGB", size, "blue")
    picture.paste("red", (0, 0, size[0] // 2, size[1]))
    file = io.BytesIO()
    picture.save(file, format=file_format)
    return file.getvalue()


class TestPlain:
    @pytest.mark.parametrize("guidance_scale", [1.0, 3.0])
    @pytest.mark.parametrize("prediction_type", ["epsilon", "v_prediction"])
    def test_is_the_librarys_picture_bit_for_bit(
        self, bases: Callable[..., Path], prediction_type: str, guidance_scale: float
    ) -> None:
        pipeline = Sd15Pipeline.load(bases(prediction_type), CPU)
        drawn: Any = pipeline.parts(
            prompt=REQUEST.prompt,
            negative_prompt=REQUEST.negative_prompt,
            width=REQUEST.width,
            height=REQUEST.height,
            num_inference_steps=REQUEST.steps,
            guidance_scale=guidance_scale,
            generator=torch.Generator().manual_seed(REQUEST.seed),
        )
        assert same(pipeline.draw(replace(REQUEST, guidance_scale=guidance_scale)), drawn.images[0])

    @pytest.mark.parametrize(("width", "height"), [(65, 63), (50, 71)])
    def test_sides_may_be_any_number(self, pipeline: Sd15Pipeline, width: int, height: int) -> None:
        assert pipeline.draw(replace(REQUEST, width=width, height=height)).size == (width, height)

    def test_steps_are_told_of(self, pipeline: Sd15Pipeline) -> None:
        steps_told: list[tuple[int, int]] = []
        request = replace(
            REQUEST,
            sampler=Sampler.HEUN,
            original=Original(picture_file((64, 48)), 0.75),
            hires_fix=HiresFix(80, 64, strength=0.5),
        )
        pipeline.draw(request, lambda step, steps: steps_told.append((step, steps)))
        assert steps_told == [(step, 5) for step in range(1, 6)]

    @pytest.mark.parametrize("sampler", Sampler)
    def test_a_seed_decides_the_picture_with_every_sampler(self, pipeline: Sd15Pipeline, sampler: Sampler) -> None:
        request = replace(REQUEST, sampler=sampler, steps=3)
        first = pipeline.draw(request)
        torch.rand(1)
        assert same(first, pipeline.draw(request))
        assert not same(first, pipeline.draw(replace(request, seed=6)))

    def test_an_error_on_the_way_leaves_nothing_behind(self, pipeline: Sd15Pipeline, tmp_path: Path) -> None:
        def on_step(step: int, steps: int) -> None:
            raise KeyboardInterrupt

        path = tmp_path / "embedding.safetensors"
        safetensors.torch.save_file({"emb_params": torch.ones(2, 32)}, path)
        request = replace(REQUEST, prompt="a word", sampler=Sampler.DPMPP_SDE, embeddings=(word(path),))
        with pytest.raises(KeyboardInterrupt):
            pipeline.draw(request, on_step)

    @pytest.mark.parametrize("part", ["unet", "vae"])
    def test_numbers_that_are_not_finite_are_no_picture(self, bases: Callable[..., Path], part: str) -> None:
        pipeline = Sd15Pipeline.load(bases(), CPU)
        weights: torch.Tensor = next(pipeline.parts.components[part].parameters())  # pyright: ignore[reportAttributeAccessIssue]
        weights.fill_(torch.nan)
        if part == "vae":
            pipeline.autoencoder.vae.post_quant_conv.weight.fill_(torch.nan)
        with pytest.raises(NotFinite, match="denoiser" if part == "unet" else "autoencoder"):
            pipeline.draw(REQUEST)


class TestParts:
    def test_each_is_asked_for_before_it_is_at_work(self, pipeline: Sd15Pipeline) -> None:
        asked: list[tuple[Part, ...]] = []
        plain = pipeline.draw(REQUEST, bring=lambda *parts: asked.append(parts))
        assert asked == [TEXT_ENCODERS, (Part.DENOISER,), (Part.AUTOENCODER,)]
        assert same(plain, pipeline.draw(REQUEST))

    def test_a_picture_to_start_from_passes_the_autoencoder_before(self, pipeline: Sd15Pipeline) -> None:
        asked: list[tuple[Part, ...]] = []
        request = replace(REQUEST, original=Original(picture_file((64, 48)), 0.75))
        pipeline.draw(request, bring=lambda *parts: asked.append(parts))
        assert asked == [TEXT_ENCODERS, (Part.AUTOENCODER,), (Part.DENOISER,), (Part.AUTOENCODER,)]

    @pytest.mark.parametrize("waiting", [False, True])
    def test_they_wait_in_host_memory_only_if_asked_to(self, bases: Callable[..., Path], waiting: bool) -> None:
        """On a device that every machine has."""
        device = torch.device("meta")
        loaded = Sd15Pipeline.load(bases(), device, waiting=waiting)
        modules = [module for part in loaded.modules.values() for module in part]
        places = {weight.device for module in modules for weight in module.parameters()}
        assert places == {CPU if waiting else device}
        assert loaded.device == device


class TestPrompts:
    @pytest.mark.parametrize("prompt", ["", "a red circle", "a red, round circle: on blue!  "])
    def test_short_ones_are_encoded_as_in_training(self, bundled: Sd15Pipeline, prompt: str) -> None:
        assert torch.equal(encoding(bundled)(prompt), bundled.encode_prompts([prompt])["prompt_embeds"])

    def test_one_as_long_as_the_text_encoder_reads_is_one_chunk(self, bundled: Sd15Pipeline) -> None:
        longest = " ".join(["red"] * 75)
        assert bundled.reads_whole_prompt(longest)
        embeds = encoding(bundled)(longest)
        assert torch.equal(embeds, bundled.encode_prompts([longest])["prompt_embeds"])
        assert encoding(bundled)(f"{longest} blue").shape[1] == 2 * 77

    def test_longer_ones_are_read_to_their_end(self, bundled: Sd15Pipeline) -> None:
        encode = encoding(bundled)
        long = " ".join(["red"] * 75 + ["blue"])
        embeds = encode("green", long)
        assert embeds.shape[:2] == (2, 2 * 77)
        assert torch.equal(embeds[:1], torch.cat([encode("green"), encode("")], dim=1))
        assert torch.equal(embeds[1:], torch.cat([encode(" ".join(["red"] * 75)), encode("blue")], dim=1))

    def test_a_break_begins_a_chunk(self, bundled: Sd15Pipeline) -> None:
        encode = encoding(bundled)
        assert torch.equal(encode("red BREAK blue"), torch.cat([encode("red"), encode("blue")], dim=1))
        assert torch.equal(encode("BREAK blue"), torch.cat([encode(""), encode("blue")], dim=1))
        long = " ".join(["red"] * 76)
        assert encode(f"{long} BREAK blue").shape[1] == 3 * 77

    def test_weights_act_on_their_words_and_keep_the_size(self, bundled: Sd15Pipeline) -> None:
        encode = encoding(bundled)
        plain, weighted = encode("a red circle"), encode("a (red:1.5) circle")
        factors = (weighted / plain)[0].median(dim=1).values
        assert weighted.abs().mean().item() == pytest.approx(plain.abs().mean().item(), rel=1e-5)
        torch.testing.assert_close(factors[2] / factors[1], torch.tensor(1.5))
        torch.testing.assert_close(factors[3:], factors[1].expand(74))

    @pytest.mark.parametrize("mean", [-0.5, -1e-6, 0.0, 1e-6, 0.5])
    def test_weights_neither_turn_nor_blow_up_what_has_no_clear_mean(self, mean: float) -> None:
        """Dividing by the mean itself would."""
        embeds = torch.randn(1, 77, 8, generator=torch.Generator().manual_seed(1))
        embeds += mean - embeds.mean()
        for weight in (0.0, 0.3, 1.5, 4.0):
            weights = torch.ones(77)
            weights[1:40] = weight
            weighted = _weighted(embeds, weights)
            assert weighted.abs().mean().item() == pytest.approx(embeds.abs().mean().item(), rel=1e-4)
            assert torch.equal(weighted[:, 40:].sign(), embeds[:, 40:].sign())

    def test_weights_act_in_pictures_on_both_sides(self, pipeline: Sd15Pipeline) -> None:
        plain = pipeline.draw(REQUEST)
        assert not same(pipeline.draw(replace(REQUEST, prompt="a (photo:1.5) of ohwx")), plain)
        assert not same(pipeline.draw(replace(REQUEST, negative_prompt="[grey]")), plain)
        assert same(pipeline.draw(replace(REQUEST, prompt="a (photo:1) of ohwx")), plain)

    def test_long_prompts_draw(self, pipeline: Sd15Pipeline) -> None:
        long = "a" * 76
        assert not same(pipeline.draw(replace(REQUEST, prompt=long)), pipeline.draw(replace(REQUEST, prompt=long[1:])))
        assert pipeline.draw(replace(REQUEST, negative_prompt=long)).size == (64, 48)

    def test_clip_skip_leaves_out_layers_at_the_end(self, bundled: Sd15Pipeline) -> None:
        tokens = bundled.parts.tokenizer(["a cat"], padding="max_length", return_tensors="pt").input_ids
        hidden = bundled.text_encoder(tokens, output_hidden_states=True).hidden_states
        wanted = bundled.text_encoder.final_layer_norm(hidden[1])
        assert torch.equal(encoding(bundled, clip_skip=2)("a cat"), wanted)
        assert not torch.equal(encoding(bundled)("a cat"), wanted)

    def test_clip_skip_must_leave_a_layer(self, pipeline: Sd15Pipeline) -> None:
        with pytest.raises(Unsupported, match="clip_skip 2: this base's text encoder has 1 layers"):
            pipeline.draw(replace(REQUEST, clip_skip=2))


class TestEmbeddings:
    @pytest.fixture
    def cat(self, shared: Sd15Pipeline, tmp_path: Path) -> EmbeddingUse:
        """Reads like `cat`, in three vectors."""
        ids = shared.parts.tokenizer("cat", add_special_tokens=False).input_ids
        vectors = shared.text_encoder.get_input_embeddings().weight[ids].detach().clone()
        path = tmp_path / "cat.safetensors"
        safetensors.torch.save_file({"emb_params": vectors}, path)
        return word(path, "my-cat(1)")

    def test_a_word_reads_as_its_vectors(self, pipeline: Sd15Pipeline, cat: EmbeddingUse) -> None:
        drawn = pipeline.draw(replace(REQUEST, prompt=r"a My-Cat\(1\), red", embeddings=(cat,)))
        assert same(drawn, pipeline.draw(replace(REQUEST, prompt="a cat, red")))
        unread = replace(REQUEST, prompt=r"a My-Cat\(1\)s", embeddings=(cat,))
        assert same(pipeline.draw(unread), pipeline.draw(replace(unread, embeddings=())))

    @pytest.mark.parametrize("name", ["string_to_param.*", "cat"])
    def test_it_is_found_by_whatever_name_it_was_registered_with(
        self, pipeline: Sd15Pipeline, cat: EmbeddingUse, tmp_path: Path, name: str
    ) -> None:
        (vectors,) = safetensors.torch.load_file(cat.path).values()
        beside = {"string_to_token.*": torch.tensor([265])} if "*" in name else {}
        path = tmp_path / "other.safetensors"
        safetensors.torch.save_file({name: vectors, **beside}, path)
        assert inspect_embedding(path, layouts()).text_width == vectors.shape[1]
        drawn = pipeline.draw(replace(REQUEST, prompt="a word, red", embeddings=(word(path),)))
        assert same(drawn, pipeline.draw(replace(REQUEST, prompt="a cat, red")))

    def test_in_the_negative_prompt_with_a_weight(self, pipeline: Sd15Pipeline, cat: EmbeddingUse) -> None:
        drawn = pipeline.draw(replace(REQUEST, negative_prompt=r"(my-cat\(1\):1.4)", embeddings=(cat,)))
        assert same(drawn, pipeline.draw(replace(REQUEST, negative_prompt="(cat:1.4)")))

    def test_it_is_not_cut_at_the_end_of_a_chunk(self, pipeline: Sd15Pipeline, cat: EmbeddingUse) -> None:
        encode = encoding(pipeline, embeddings=(cat,))
        alone = torch.cat([encode("a" * 73), encode("cat")], dim=1)
        assert torch.equal(encode("a" * 73 + r" my-cat\(1\)"), alone)

    def test_one_that_is_not_what_was_registered_is_refused(self, pipeline: Sd15Pipeline, cat: EmbeddingUse) -> None:
        with pytest.raises(BrokenBase, match=r"cat\.safetensors is not what was registered"):
            pipeline.draw(replace(REQUEST, embeddings=(replace(cat, sha256=64 * "0"),)))

    @pytest.mark.parametrize(
        ("tensors", "words"),
        [
            ({"emb_params": torch.ones(2, 31)}, "vectors of 31 numbers, this base's have 32"),
            ({"clip_l": torch.ones(2, 32), "clip_g": torch.ones(2, 32)}, "holds 2 tensors"),
            ({"x": torch.full((1, 32), torch.nan)}, "1 to 75 vectors of finite numbers"),
            ({"x": torch.ones(76, 32)}, "1 to 75 vectors"),
            (None, "can't be read"),
        ],
    )
    def test_one_that_does_not_fit_is_refused(
        self, pipeline: Sd15Pipeline, tmp_path: Path, tensors: dict[str, torch.Tensor] | None, words: str
    ) -> None:
        path = tmp_path / "broken.safetensors"
        path.write_bytes(b"\x80\x02}q" if tensors is None else safetensors.torch.save(tensors))
        with pytest.raises(BrokenBase, match=words):
            pipeline.draw(replace(REQUEST, embeddings=(word(path),)))


class TestVae:
    def test_another_decodes_this_picture_alone(
        self, pipeline: Sd15Pipeline, bases: Callable[..., Path], tmp_path: Path
    ) -> None:
        path = tmp_path / "vae"
        (bases(seed=1) / "vae").rename(path)
        plain = pipeline.draw(REQUEST)
        vae = registered(path)
        other = pipeline.draw(replace(REQUEST, vae=vae))
        assert distance(plain, other) > 1
        (path / "diffusion_pytorch_model.safetensors").unlink()
        assert same(pipeline.draw(replace(REQUEST, vae=vae)), other), "it stays loaded"
        path.rename(tmp_path / "earlier")
        (bases(seed=3) / "vae").rename(path)
        assert same(pipeline.draw(replace(REQUEST, vae=vae)), other)
        assert not same(pipeline.draw(replace(REQUEST, vae=registered(path))), other)

    @pytest.mark.parametrize("damage", ["no folder", "half the weights", "other latents"])
    def test_one_that_does_not_fit_is_refused(self, pipeline: Sd15Pipeline, tmp_path: Path, damage: str) -> None:
        path = tmp_path / "vae"
        if damage != "no folder":
            config: dict[str, Any] = dict(pipeline.autoencoder.vae.config) | {
                "latent_channels": 8 if "other" in damage else 4
            }
            vae: Any = AutoencoderKL.from_config(config)
            vae.save_pretrained(path)
        if damage == "half the weights":
            weights = path / "diffusion_pytorch_model.safetensors"
            kept = {key: value for key, value in safetensors.torch.load_file(weights).items() if "encoder" in key}
            safetensors.torch.save_file(kept, weights)
        words = f"{path} does not exist" if damage == "no folder" else f"the autoencoder in {path}"
        with pytest.raises(BrokenBase, match=words):
            pipeline.draw(replace(REQUEST, vae=registered(path)))

    def test_one_that_is_not_what_was_registered_is_refused(
        self, pipeline: Sd15Pipeline, bases: Callable[..., Path]
    ) -> None:
        vae = BaseUse(str(bases(seed=4) / "vae"), 64 * "0")
        with pytest.raises(BrokenBase, match=r"vae is not what was registered: its hash is [0-9a-f]{64}, not 0{64}"):
            pipeline.draw(replace(REQUEST, vae=vae))


class TestHires:
    def test_the_picture_is_enlarged_and_drawn_on(self, pipeline: Sd15Pipeline) -> None:
        larger = pipeline.draw(replace(REQUEST, hires_fix=HiresFix(100, 76, strength=0.0)))
        drawn_on = pipeline.draw(replace(REQUEST, hires_fix=HiresFix(100, 76, strength=0.5)))
        assert larger.size == drawn_on.size == (100, 76)
        assert not same(larger, drawn_on)

    def test_another_aspect_cuts_and_does_not_squeeze(self) -> None:
        latents = torch.rand(1, 4, 8, 8)
        whole = enlarged(latents, (16, 16))
        assert torch.equal(enlarged(latents, (8, 16)), whole[:, :, 4:12])
        assert torch.equal(enlarged(latents, (16, 12)), whole[:, :, :, 2:14])


class TestRefiner:
    @pytest.mark.parametrize("sampler", [None, Sampler.DPMPP_2M_KARRAS, Sampler.HEUN])
    def test_the_same_base_continues_as_if_alone(
        self, pipeline: Sd15Pipeline, bases: Callable[..., Path], sampler: Sampler | None
    ) -> None:
        request = replace(REQUEST, sampler=sampler)
        refined = pipeline.draw(replace(request, refiner=RefinerUse(registered(bases()), 0.5)))
        assert same(refined, pipeline.draw(request))

    def test_it_takes_over_at_its_share(self, pipeline: Sd15Pipeline, bases: Callable[..., Path]) -> None:
        other = registered(bases(seed=2))
        plain = pipeline.draw(REQUEST)
        drawn = {share: pipeline.draw(replace(REQUEST, refiner=RefinerUse(other, share))) for share in (0, 0.5, 0.9, 1)}
        assert same(drawn[1], plain)
        assert same(drawn[0.9], plain), "four steps have no tenth left"
        assert not same(drawn[0.5], plain)
        assert not same(drawn[0.5], drawn[0])
        low = replace(REQUEST, original=Original(picture_file((64, 48)), 0.5))
        assert same(
            pipeline.draw(replace(low, refiner=RefinerUse(other, 0.5))),
            pipeline.draw(replace(low, refiner=RefinerUse(other, 0.0))),
        )

    def test_another_noise_schedule_does_not_continue(self, pipeline: Sd15Pipeline, bases: Callable[..., Path]) -> None:
        with pytest.raises(Unsupported, match=r"refiner: .* another noise schedule"):
            pipeline.draw(replace(REQUEST, refiner=RefinerUse(registered(bases("v_prediction")), 0.5)))

    def test_one_that_is_not_there_is_refused(self, pipeline: Sd15Pipeline, tmp_path: Path) -> None:
        with pytest.raises(BrokenBase, match="none does not exist"):
            pipeline.draw(replace(REQUEST, refiner=RefinerUse(registered(tmp_path / "none"), 0.5)))

    def test_one_that_is_not_what_was_registered_is_refused(
        self, pipeline: Sd15Pipeline, bases: Callable[..., Path]
    ) -> None:
        refiner = RefinerUse(BaseUse(str(bases(seed=2)), 64 * "0"), 0.5)
        with pytest.raises(BrokenBase, match="is not what was registered"):
            pipeline.draw(replace(REQUEST, refiner=refiner))

    def test_one_goes_before_another_is_loaded(
        self, pipeline: Sd15Pipeline, bases: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        first, second = (RefinerUse(registered(bases(seed=seed)), 0.5) for seed in (2, 5))
        pipeline.draw(replace(REQUEST, refiner=first))
        weight = weakref.ref(next(pipeline._refiners.use(first.base).unet.parameters()))
        held: list[bool] = []
        load = pipeline._refiners._load
        monkeypatch.setattr(
            pipeline._refiners, "_load", lambda model: (held.append(weight() is not None), load(model))[1]
        )
        pipeline.draw(replace(REQUEST, refiner=second))
        assert held == [False]


class TestOriginal:
    @pytest.mark.filterwarnings("ignore:__array_:DeprecationWarning")  # The library's own, called as it is.
    @pytest.mark.parametrize("strength", [0.5, 1.0])
    @pytest.mark.parametrize("sampler", [None, Sampler.EULER, Sampler.DPM2])
    def test_is_the_librarys_picture(self, pipeline: Sd15Pipeline, sampler: Sampler | None, strength: float) -> None:
        data = picture_file((64, 48))
        parts = StableDiffusionImg2ImgPipeline(**pipeline.parts.components, requires_safety_checker=False)
        parts.set_progress_bar_config(disable=True)
        if sampler is not None:
            parts.scheduler = build_scheduler(sampler, pipeline.parts.scheduler)
        drawn: Any = parts(
            prompt=REQUEST.prompt,
            negative_prompt=REQUEST.negative_prompt,
            image=Image.open(io.BytesIO(data)),
            strength=strength,
            num_inference_steps=REQUEST.steps,
            guidance_scale=REQUEST.guidance_scale,
            generator=torch.Generator().manual_seed(REQUEST.seed),
        )
        mine = pipeline.draw(replace(REQUEST, sampler=sampler, original=Original(data, strength)))
        # The library rounds otherwise where it scales latents.
        assert distance(mine, drawn.images[0]) < 0.1

    def test_the_picture_is_cropped_to_the_aspect(self, pipeline: Sd15Pipeline) -> None:
        """A wide one loses its ends; both halves of what is left are as wide as before."""
        square = replace(REQUEST, width=64, height=64)
        wide, whole = picture_file((256, 64)), picture_file((64, 64))
        drawn = [pipeline.draw(replace(square, original=Original(data, 0.0))) for data in (wide, whole)]
        assert distance(*drawn) < 1

    @pytest.mark.parametrize("file_format", ["JPEG", "WEBP"])
    def test_formats(self, pipeline: Sd15Pipeline, file_format: str) -> None:
        original = Original(picture_file((64, 48), file_format), 0.5)
        exact = pipeline.draw(replace(REQUEST, original=Original(picture_file((64, 48)), 0.5)))
        assert distance(pipeline.draw(replace(REQUEST, original=original)), exact) < 5

    @pytest.mark.parametrize("data", [b"", b"no picture", picture_file((64, 48))[:-60], picture_file((8, 8), "GIF")])
    def test_what_is_no_picture_is_refused(self, pipeline: Sd15Pipeline, data: bytes) -> None:
        with pytest.raises(BadPicture, match="the picture to start from can't be read"):
            pipeline.draw(replace(REQUEST, original=Original(data, 0.5)))
