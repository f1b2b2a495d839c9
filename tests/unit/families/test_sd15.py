"""The first family, with the real parts at a size that trains in milliseconds."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from msgspec.structs import replace
from PIL import Image

from maquette.core.basefolder import BrokenBase
from maquette.core.drawing import DrawRequest
from maquette.core.specs import TrainingSettings
from maquette.core.weights import check_lora_keys
from maquette.families.sd15.adapters import Sd15Adapters
from maquette.families.sd15.objective import Sd15Objective
from maquette.families.sd15.pipeline import Sd15Pipeline
from maquette.testing.factories import training_spec
from maquette.testing.tiny_family import build_tiny_base

pytestmark = pytest.mark.torch

CPU = torch.device("cpu")
REQUEST = DrawRequest(prompt="a photo of ohwx", width=64, height=64, steps=3, guidance_scale=3.0, seed=5)
SETTINGS = replace(training_spec().settings, lora_r=4, lora_alpha=8, lora_text_encoder_r=4, lora_text_encoder_alpha=6)
BOTH = replace(SETTINGS, train_text_encoder=True)


@pytest.fixture(scope="module")
def bases(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """A base's folder by what its noise scheduler predicts."""
    root = tmp_path_factory.mktemp("bases")

    def base(prediction_type: str) -> Path:
        folder = root / prediction_type
        return folder if folder.exists() else build_tiny_base(folder, prediction_type=prediction_type)

    return base


@pytest.fixture
def base(bases: Callable[[str], Path]) -> Path:
    return bases("epsilon")


@pytest.fixture
def pipeline(base: Path) -> Sd15Pipeline:
    return Sd15Pipeline.load(base, CPU)


def pixels(image: Image.Image) -> np.ndarray:
    return np.asarray(image, dtype=np.int16)


def distance(one: Image.Image, other: Image.Image) -> float:
    """Mean absolute difference, in levels of 255."""
    return float(np.abs(pixels(one) - pixels(other)).mean())


class TestObjective:
    @pytest.mark.parametrize("prediction_type", ["epsilon", "v_prediction"])
    def test_losses_follow_the_published_formulas(self, bases: Callable[[str], Path], prediction_type: str) -> None:
        pipeline = Sd15Pipeline.load(bases(prediction_type), CPU)
        latents = torch.randn(3, 4, 16, 16)
        conditioning = pipeline.encode_prompts(["a", "b", "c"])
        objective = Sd15Objective(pipeline, SETTINGS)
        losses = objective.losses(latents, conditioning, objective.noising(latents, torch.Generator().manual_seed(3)))

        random = torch.Generator().manual_seed(3)
        noise = torch.randn(latents.shape, generator=random)
        timesteps = torch.randint(0, 1000, (3,), generator=random)
        alpha_bar = torch.linspace(1 - 0.0001, 1 - 0.02, 1000, dtype=torch.float64).cumprod(0)[timesteps]
        signal = alpha_bar.sqrt().float().view(3, 1, 1, 1)
        spread = (1 - alpha_bar).sqrt().float().view(3, 1, 1, 1)
        predicted = pipeline.unet(signal * latents + spread * noise, timesteps, conditioning["prompt_embeds"]).sample
        target = noise if prediction_type == "epsilon" else signal * noise - spread * latents
        torch.testing.assert_close(losses, (predicted - target).square().mean(dim=(1, 2, 3)), rtol=1e-4, atol=1e-5)

    def test_a_base_that_predicts_something_else_is_refused(self, bases: Callable[[str], Path]) -> None:
        pipeline = Sd15Pipeline.load(bases("sample"), CPU)
        with pytest.raises(BrokenBase, match="prediction_type 'sample'; known are epsilon and v_prediction"):
            Sd15Objective(pipeline, SETTINGS)


class TestPipeline:
    def test_latents_are_in_the_denoisers_scale(self, pipeline: Sd15Pipeline) -> None:
        pictures = torch.rand(2, 3, 64, 64) * 2 - 1
        posterior = pipeline.encode_pictures(pictures)
        raw = pipeline.autoencoder.vae.encode(pictures).latent_dist
        assert posterior.mean.shape == posterior.std.shape == (2, 4, 16, 16)
        torch.testing.assert_close(posterior.mean, raw.mean * 0.18215)
        torch.testing.assert_close(posterior.std, raw.std * 0.18215)

    def test_latents_are_drawn_anew_around_the_mean(self, pipeline: Sd15Pipeline) -> None:
        posterior = pipeline.encode_pictures(torch.zeros(2, 3, 64, 64))
        random = torch.Generator().manual_seed(1)
        one, other = posterior.sample(random), posterior.sample(random)
        assert one.shape == (2, 4, 16, 16)
        assert not torch.equal(one, other)
        sigmas = (one - posterior.mean) / posterior.std
        assert sigmas.std().item() == pytest.approx(1, abs=0.1)

    def test_prompts_are_encoded_as_drawing_does(self, pipeline: Sd15Pipeline) -> None:
        tokens = pipeline.parts.tokenizer(["a cat"], padding="max_length", return_tensors="pt").input_ids
        embeds = pipeline.encode_prompts(["a cat"])["prompt_embeds"]
        torch.testing.assert_close(embeds, pipeline.text_encoder(tokens)[0])

    def test_a_prompt_fits_up_to_the_text_encoders_positions(self, pipeline: Sd15Pipeline) -> None:
        assert pipeline.reads_whole_prompt("a" * 75)
        assert not pipeline.reads_whole_prompt("a" * 76)

    def test_a_seed_decides_the_picture(self, pipeline: Sd15Pipeline) -> None:
        first = pipeline.draw(REQUEST)
        assert first.size == (64, 64)
        assert distance(first, pipeline.draw(REQUEST)) == 0
        assert distance(first, pipeline.draw(replace(REQUEST, seed=6))) > 1

    @pytest.mark.parametrize("damage", ["no folder", "no weights", "cut off", "pickled"])
    def test_a_broken_base_is_told_by_its_folder(self, base: Path, tmp_path: Path, damage: str) -> None:
        folder = tmp_path / "broken"
        if damage != "no folder":
            shutil.copytree(base, folder)
            weights = folder / "unet" / "diffusion_pytorch_model.safetensors"
            match damage:
                case "cut off":
                    weights.write_bytes(weights.read_bytes()[:-1000])
                case "pickled":
                    weights.rename(weights.with_suffix(".bin"))
                case _:
                    weights.unlink()
        with pytest.raises(BrokenBase, match=f"the base in {folder} can't be loaded"):
            Sd15Pipeline.load(folder, CPU)


class TestTraining:
    def test_a_new_lora_changes_nothing(self, pipeline: Sd15Pipeline) -> None:
        before = pipeline.draw(REQUEST)
        Sd15Adapters(pipeline).attach(BOTH)
        assert distance(before, pipeline.draw(REQUEST)) == 0

    @pytest.mark.parametrize(("settings", "components"), [(SETTINGS, {"unet"}), (BOTH, {"unet", "text_encoder"})])
    def test_weights_are_named_as_published_files_name_them(
        self, pipeline: Sd15Pipeline, settings: TrainingSettings, components: set[str]
    ) -> None:
        adapters = Sd15Adapters(pipeline)
        adapters.attach(settings)
        names = list(adapters.parameters())
        check_lora_keys(names)
        assert names == sorted(names)
        assert {name.split(".")[0] for name in names} == components
        assert "unet.down_blocks.0.attentions.0.transformer_blocks.0.attn2.to_k.lora_A.weight" in names
        assert ("text_encoder.text_model.encoder.layers.0.self_attn.q_proj.lora_B.weight" in names) == (
            settings.train_text_encoder
        )

    def test_ranks_and_alphas_are_each_components_own(self, pipeline: Sd15Pipeline) -> None:
        adapters = Sd15Adapters(pipeline)
        adapters.attach(replace(BOTH, lora_r=8, lora_alpha=16, lora_text_encoder_r=5, lora_text_encoder_alpha=10))
        ranks = {
            name.split(".")[0]: tensor.shape[0]
            for name, tensor in adapters.parameters().items()
            if name.endswith("lora_A.weight")
        }
        assert ranks == {"unet": 8, "text_encoder": 5}
        told = json.loads(adapters.metadata()["lora_adapter_metadata"])
        assert {key: told[f"{key}.r"] for key in ranks} == ranks
        assert (told["unet.lora_alpha"], told["text_encoder.lora_alpha"]) == (16, 10)

    def test_only_the_lora_trains(self, pipeline: Sd15Pipeline) -> None:
        adapters = Sd15Adapters(pipeline)
        adapters.attach(BOTH)
        models = (pipeline.unet, pipeline.text_encoder, pipeline.autoencoder.vae)
        assert not any(parameter.requires_grad for model in models for parameter in model.parameters())
        assert all(parameter.requires_grad for parameter in adapters.parameters().values())

    def test_gradients_reach_the_text_encoder_only_if_it_trains(self, pipeline: Sd15Pipeline) -> None:
        assert not pipeline.encode_prompts(["a"])["prompt_embeds"].requires_grad
        Sd15Adapters(pipeline).attach(BOTH)
        assert pipeline.encode_prompts(["a"])["prompt_embeds"].requires_grad
