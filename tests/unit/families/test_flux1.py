"""FLUX.1, with the real parts at a size that draws in milliseconds."""

import io
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import FluxImg2ImgPipeline, FluxPipeline
from msgspec.structs import replace
from PIL import Image

from maquette.core.basefolder import BrokenBase
from maquette.core.drawing import DrawRequest, EmbeddingUse, HiresFix, Original, Sampler
from maquette.families.base import Unsupported
from maquette.families.flux1.objective import Flux1Objective
from maquette.families.flux1.pipeline import Flux1Pipeline, packed, places, unpacked
from maquette.testing.factories import training_spec
from maquette.testing.tiny_family import build_tiny_base, registered
from maquette.testing.tiny_flux1 import build_tiny_flux1

pytestmark = pytest.mark.torch

CPU = torch.device("cpu")
REQUEST = DrawRequest(prompt="a photo of ohwx", width=64, height=48, steps=3, guidance_scale=3.0, seed=5)
GUIDED = pytest.mark.parametrize("guided", [True, False], ids=["dev", "schnell"])


@pytest.fixture(scope="module")
def pipelines(tmp_path_factory: pytest.TempPathFactory) -> Callable[[bool], Flux1Pipeline]:
    """A base by whether it is told its guidance."""
    root = tmp_path_factory.mktemp("bases")
    loaded = {
        guided: Flux1Pipeline.load(build_tiny_flux1(root / str(guided), guided=guided), CPU) for guided in (True, False)
    }
    return loaded.__getitem__


@pytest.fixture
def pipeline(pipelines: Callable[[bool], Flux1Pipeline]) -> Flux1Pipeline:
    return pipelines(True)


def same(one: Image.Image, other: Image.Image) -> bool:
    return one.size == other.size and one.tobytes() == other.tobytes()


def drawn_by_diffusers(pipeline: Flux1Pipeline, **options: Any) -> Image.Image:
    drawn: Any = pipeline.parts(
        prompt=REQUEST.prompt,
        width=REQUEST.width,
        height=REQUEST.height,
        num_inference_steps=REQUEST.steps,
        generator=torch.Generator().manual_seed(REQUEST.seed),
        **options,
    )
    return drawn.images[0]


class TestDrawing:
    @GUIDED
    def test_is_the_librarys_picture_bit_for_bit(
        self, pipelines: Callable[[bool], Flux1Pipeline], guided: bool
    ) -> None:
        pipeline = pipelines(guided)
        assert same(pipeline.draw(REQUEST), drawn_by_diffusers(pipeline, guidance_scale=3.0))

    def test_guidance_is_told_and_asks_for_no_second_answer(self, pipeline: Flux1Pipeline) -> None:
        counted: list[int] = []
        hook = pipeline.transformer.register_forward_pre_hook(
            lambda _, __, told: counted.append(len(told["hidden_states"])), with_kwargs=True
        )
        drawn = [pipeline.draw(replace(REQUEST, guidance_scale=scale)) for scale in (2.0, 9.0)]
        hook.remove()
        assert counted == [1] * 6
        assert not same(*drawn)

    @GUIDED
    def test_a_negative_prompt_is_moved_away_from(
        self, pipelines: Callable[[bool], Flux1Pipeline], guided: bool
    ) -> None:
        pipeline = pipelines(guided)
        drawn = pipeline.draw(replace(REQUEST, negative_prompt="grey"))
        theirs = drawn_by_diffusers(pipeline, negative_prompt="grey", true_cfg_scale=3.0, guidance_scale=1.0)
        assert same(drawn, theirs)
        assert not same(drawn, pipeline.draw(REQUEST))

    @pytest.mark.parametrize(("width", "height"), [(65, 63), (50, 71)])
    def test_sides_may_be_any_number(self, pipeline: Flux1Pipeline, width: int, height: int) -> None:
        assert pipeline.draw(replace(REQUEST, width=width, height=height)).size == (width, height)

    def test_euler_is_the_bases_own_sampler(self, pipeline: Flux1Pipeline) -> None:
        assert same(pipeline.draw(replace(REQUEST, sampler=Sampler.EULER)), pipeline.draw(REQUEST))

    @pytest.mark.parametrize("sampler", [sampler for sampler in Sampler if sampler is not Sampler.EULER])
    def test_samplers_of_diffusion_are_refused(self, pipeline: Flux1Pipeline, sampler: Sampler) -> None:
        with pytest.raises(Unsupported, match="sampler: this base draws with 'Euler' alone"):
            pipeline.draw(replace(REQUEST, sampler=sampler))

    @pytest.mark.parametrize(
        ("change", "words"),
        [
            ({"clip_skip": 2}, "clip_skip 2: .* must be 1"),
            ({"embeddings": (EmbeddingUse("nowhere", "none", "word"),)}, "embeddings: .* leave them out"),
        ],
    )
    def test_what_its_text_encoders_can_not_do_is_refused(
        self, pipeline: Flux1Pipeline, change: dict[str, Any], words: str
    ) -> None:
        with pytest.raises(Unsupported, match=words):
            pipeline.draw(replace(REQUEST, **change))

    def test_an_autoencoder_of_fewer_channels_is_refused(self, pipeline: Flux1Pipeline, tmp_path: Path) -> None:
        vae = build_tiny_base(tmp_path / "sd15") / "vae"
        with pytest.raises(BrokenBase, match="makes latents of 4 channels, this base's have 16"):
            pipeline.draw(replace(REQUEST, vae=registered(vae)))

    @pytest.mark.parametrize("strength", [0.5, 1.0])
    def test_from_an_original_is_the_librarys_picture(self, pipeline: Flux1Pipeline, strength: float) -> None:
        file = io.BytesIO()
        Image.linear_gradient("L").resize((64, 48)).convert("RGB").save(file, format="PNG")
        drawn: Any = FluxImg2ImgPipeline(**pipeline.parts.components)(
            prompt=REQUEST.prompt,
            image=Image.open(io.BytesIO(file.getvalue())),
            width=64,
            height=48,
            strength=strength,
            num_inference_steps=4,
            guidance_scale=REQUEST.guidance_scale,
            generator=torch.Generator().manual_seed(REQUEST.seed),
        )
        mine = pipeline.draw(replace(REQUEST, steps=4, original=Original(file.getvalue(), strength)))
        apart = np.asarray(mine, dtype=np.int16) - np.asarray(drawn.images[0], dtype=np.int16)
        assert np.abs(apart).mean() < 0.1

    def test_hires_draws_on(self, pipeline: Flux1Pipeline) -> None:
        larger = pipeline.draw(replace(REQUEST, hires_fix=HiresFix(100, 76, strength=0.0)))
        drawn_on = pipeline.draw(replace(REQUEST, hires_fix=HiresFix(100, 76, strength=0.5)))
        assert larger.size == drawn_on.size == (100, 76)
        assert not same(larger, drawn_on)

    def test_a_prompt_fits_up_to_what_t5_reads(self, pipeline: Flux1Pipeline) -> None:
        # A word begins with a token of its own, and a prompt ends with one.
        assert pipeline.reads_whole_prompt("a" * 510)
        assert not pipeline.reads_whole_prompt("a" * 511)


class TestTokens:
    def test_are_packed_as_the_library_packs_them(self) -> None:
        latents = torch.randn(2, 16, 6, 4)
        tokens = packed(latents)
        assert torch.equal(tokens, FluxPipeline._pack_latents(latents, 2, 16, 6, 4))
        assert torch.equal(unpacked(tokens, 6, 4), latents)
        theirs = FluxPipeline._prepare_latent_image_ids(1, 3, 2, CPU, torch.float32)
        assert torch.equal(places(6, 4, CPU).float(), theirs)


@GUIDED
def test_losses_follow_the_published_formulas(pipelines: Callable[[bool], Flux1Pipeline], guided: bool) -> None:
    pipeline = pipelines(guided)
    latents = torch.randn(2, 16, 16, 12)
    conditioning = pipeline.encode_prompts(["a", "b"])
    objective = Flux1Objective(pipeline, training_spec().settings)
    noising = objective.noising(latents, torch.Generator().manual_seed(3))
    losses = objective.losses(latents, conditioning, noising)

    random = torch.Generator().manual_seed(3)
    noise = torch.randn(latents.shape, generator=random)
    level = torch.sigmoid(torch.randn(2, generator=random))
    shift = math.exp(0.5 + (8 * 6 - 256) * (1.15 - 0.5) / (4096 - 256)) if guided else 1.0
    level = shift * level / (1 + (shift - 1) * level)
    mixed = (1 - level.view(2, 1, 1, 1)) * latents + level.view(2, 1, 1, 1) * noise
    said = pipeline.transformer(
        hidden_states=packed(mixed),
        timestep=level,
        guidance=torch.ones(2) if guided else None,
        pooled_projections=conditioning["pooled_prompt_embeds"],
        encoder_hidden_states=conditioning["prompt_embeds"],
        txt_ids=torch.zeros(512, 3),
        img_ids=places(16, 12, CPU).float(),
    ).sample
    wanted = (unpacked(said, 16, 12) - (noise - latents)).square().mean(dim=(1, 2, 3))
    torch.testing.assert_close(losses, wanted, rtol=1e-4, atol=1e-5)
