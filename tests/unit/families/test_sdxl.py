"""Stable Diffusion XL, with the real parts at a size that draws in milliseconds."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
from msgspec.structs import replace
from PIL import Image

from maquette.core.basefolder import BrokenBase
from maquette.core.drawing import DrawRequest, EmbeddingUse, HiresFix, RefinerUse, Sampler
from maquette.core.files import file_sha256
from maquette.families.base import OriginalSize, Unsupported
from maquette.families.sdxl.objective import SdxlObjective
from maquette.families.sdxl.pipeline import SdxlPipeline
from maquette.testing.factories import training_spec
from maquette.testing.tiny_family import registered
from maquette.testing.tiny_sdxl import build_tiny_sdxl

# The library's own warning, where it is called as it is.
pytestmark = [pytest.mark.torch, pytest.mark.filterwarnings("ignore:__array_:DeprecationWarning")]

CPU = torch.device("cpu")
REQUEST = DrawRequest(
    prompt="a photo of ohwx", negative_prompt="grey", width=64, height=48, steps=3, guidance_scale=3.0, seed=5
)


@pytest.fixture(scope="module")
def bases(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """A base's folder by what its noise scheduler predicts and the seed of its weights."""
    root = tmp_path_factory.mktemp("bases")

    def base(prediction_type: str = "epsilon", seed: int = 0) -> Path:
        folder = root / f"{prediction_type}-{seed}"
        return folder if folder.exists() else build_tiny_sdxl(folder, prediction_type=prediction_type, seed=seed)

    return base


@pytest.fixture(scope="module")
def pipeline(bases: Callable[..., Path]) -> SdxlPipeline:
    return SdxlPipeline.load(bases(), CPU)


def same(one: Image.Image, other: Image.Image) -> bool:
    return one.size == other.size and one.tobytes() == other.tobytes()


def drawn_by_diffusers(pipeline: SdxlPipeline, request: DrawRequest, **options: Any) -> Image.Image:
    drawn: Any = pipeline.parts(
        prompt=request.prompt,
        negative_prompt=request.negative_prompt or None,
        width=request.width,
        height=request.height,
        num_inference_steps=request.steps,
        guidance_scale=request.guidance_scale,
        generator=torch.Generator().manual_seed(request.seed),
        **options,
    )
    return drawn.images[0]


class TestDrawing:
    @pytest.mark.parametrize("guidance_scale", [1.0, 3.0])
    @pytest.mark.parametrize("negative_prompt", ["", "grey"])
    def test_is_the_librarys_picture_bit_for_bit(
        self, pipeline: SdxlPipeline, negative_prompt: str, guidance_scale: float
    ) -> None:
        request = replace(REQUEST, negative_prompt=negative_prompt, guidance_scale=guidance_scale)
        assert same(pipeline.draw(request), drawn_by_diffusers(pipeline, request))

    def test_velocities_too(self, bases: Callable[..., Path]) -> None:
        pipeline = SdxlPipeline.load(bases("v_prediction"), CPU)
        assert same(pipeline.draw(REQUEST), drawn_by_diffusers(pipeline, REQUEST))

    def test_clip_skip_leaves_out_layers_of_both_text_encoders(self, pipeline: SdxlPipeline) -> None:
        request = replace(REQUEST, clip_skip=2, guidance_scale=1.0)
        assert same(pipeline.draw(request), drawn_by_diffusers(pipeline, request, clip_skip=1))
        with pytest.raises(Unsupported, match="clip_skip 3"):
            pipeline.draw(replace(REQUEST, clip_skip=3))

    @pytest.mark.parametrize("sampler", Sampler)
    def test_a_seed_decides_the_picture_with_every_sampler(self, pipeline: SdxlPipeline, sampler: Sampler) -> None:
        request = replace(REQUEST, sampler=sampler)
        first = pipeline.draw(request)
        assert same(first, pipeline.draw(request))
        assert not same(first, pipeline.draw(replace(request, seed=6)))

    def test_long_and_weighted_prompts_are_read_to_their_end(self, pipeline: SdxlPipeline) -> None:
        long = "a" * 76
        assert not same(pipeline.draw(replace(REQUEST, prompt=long)), pipeline.draw(replace(REQUEST, prompt=long[1:])))
        plain = pipeline.draw(REQUEST)
        assert not same(pipeline.draw(replace(REQUEST, prompt="a (photo:1.5) of ohwx")), plain)
        assert same(pipeline.draw(replace(REQUEST, prompt="a (photo:1) of ohwx")), plain)

    def test_a_prompt_fits_up_to_the_text_encoders_positions(self, pipeline: SdxlPipeline) -> None:
        assert pipeline.reads_whole_prompt("a" * 75)
        assert not pipeline.reads_whole_prompt("a" * 76)

    def test_the_unet_is_told_how_large_the_picture_is_in_either_pass(
        self, pipeline: SdxlPipeline, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        told: list[list[float]] = []
        forward = pipeline.unet.forward

        def listening(*args: Any, **options: Any) -> Any:
            told.append(options["added_cond_kwargs"]["time_ids"][0].tolist())
            return forward(*args, **options)

        monkeypatch.setattr(pipeline.unet, "forward", listening)
        pipeline.draw(replace(REQUEST, steps=2, hires_fix=HiresFix(80, 64, strength=0.5)))
        assert told == [[48, 64, 0, 0, 48, 64]] * 2 + [[64, 80, 0, 0, 64, 80]]


class TestEmbeddings:
    def test_a_word_reads_as_its_vectors_in_both_text_encoders(self, pipeline: SdxlPipeline, tmp_path: Path) -> None:
        ids = pipeline.parts.tokenizer("cat", add_special_tokens=False).input_ids
        first, second = (
            encoder.get_input_embeddings().weight[ids].detach().clone() for encoder in pipeline.text_encoders
        )
        path = tmp_path / "cat.safetensors"
        safetensors.torch.save_file({"clip_l": first, "clip_g": second}, path)
        drawn = pipeline.draw(
            replace(REQUEST, prompt="a word, red", embeddings=(EmbeddingUse(str(path), file_sha256(path), "word"),))
        )
        assert same(drawn, pipeline.draw(replace(REQUEST, prompt="a cat, red")))

    def test_one_of_another_familys_is_refused(self, pipeline: SdxlPipeline, tmp_path: Path) -> None:
        path = tmp_path / "cat.safetensors"
        safetensors.torch.save_file({"emb_params": torch.ones(2, 32)}, path)
        with pytest.raises(BrokenBase, match="holds 1 tensors of vectors; known are files of clip_l and clip_g"):
            pipeline.draw(replace(REQUEST, embeddings=(EmbeddingUse(str(path), file_sha256(path), "word"),)))


class TestRefiner:
    def test_another_base_takes_over_at_its_share(self, pipeline: SdxlPipeline, bases: Callable[..., Path]) -> None:
        plain = pipeline.draw(REQUEST)
        drawn = {
            share: pipeline.draw(replace(REQUEST, refiner=RefinerUse(registered(bases(seed=seed)), share)))
            for seed, share in ((0, 0.3), (2, 0.5), (2, 1.0))
        }
        assert same(drawn[0.3], plain), "the same base continues as if alone"
        assert same(drawn[1.0], plain)
        assert not same(drawn[0.5], plain)


def test_in_training_the_unet_is_told_what_each_picture_was(
    pipeline: SdxlPipeline, monkeypatch: pytest.MonkeyPatch
) -> None:
    told: list[list[list[float]]] = []
    forward = pipeline.unet.forward

    def listening(*args: Any, **options: Any) -> Any:
        told.append(options["added_cond_kwargs"]["time_ids"].tolist())
        return forward(*args, **options)

    monkeypatch.setattr(pipeline.unet, "forward", listening)
    latents, timesteps = torch.zeros(2, 4, 16, 12), torch.tensor([1, 2])
    original_sizes = [OriginalSize(300, 200, left=7, top=5, right=1), OriginalSize(48, 64)]
    conditioning = pipeline.with_original_sizes(pipeline.encode_prompts(["a", "b"]), original_sizes)
    one = pipeline.predict(latents, timesteps, conditioning)
    other = pipeline.predict(latents, timesteps, pipeline.encode_prompts(["a", "b"]))
    assert told[0] == [[200, 300, 5, 7, 64, 48], [64, 48, 0, 0, 64, 48]]
    assert told[1] == [[64, 48, 0, 0, 64, 48]] * 2
    assert not torch.equal(one[0], other[0])
    assert torch.equal(one[1], other[1])


def test_losses_follow_the_published_formulas(pipeline: SdxlPipeline) -> None:
    latents = torch.randn(2, 4, 16, 12)
    conditioning = pipeline.encode_prompts(["a", "b"])
    objective = SdxlObjective(pipeline, training_spec().settings)
    noising = objective.noising(latents, torch.Generator().manual_seed(3))
    losses = objective.losses(latents, conditioning, noising)

    random = torch.Generator().manual_seed(3)
    noise = torch.randn(latents.shape, generator=random)
    timesteps = torch.randint(0, 1000, (2,), generator=random)
    betas = torch.linspace(0.00085**0.5, 0.012**0.5, 1000, dtype=torch.float64) ** 2
    alpha_bar = (1 - betas).cumprod(0)[timesteps].float().view(2, 1, 1, 1)
    predicted = pipeline.unet(
        alpha_bar.sqrt() * latents + (1 - alpha_bar).sqrt() * noise,
        timesteps,
        conditioning["prompt_embeds"],
        added_cond_kwargs={
            "text_embeds": conditioning["pooled_prompt_embeds"],
            "time_ids": torch.tensor([[64.0, 48.0, 0.0, 0.0, 64.0, 48.0]] * 2),
        },
    ).sample
    torch.testing.assert_close(losses, (predicted - noise).square().mean(dim=(1, 2, 3)), rtol=1e-4, atol=1e-5)
