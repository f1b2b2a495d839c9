"""The first family, with the real parts at a size that trains in milliseconds."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import StableDiffusionPipeline
from msgspec.structs import replace
from PIL import Image

from maquette.core.basefolder import BrokenBase
from maquette.core.drawing import DrawRequest, LoraUse
from maquette.core.specs import TrainingSettings
from maquette.core.weights import BrokenWeights, check_lora_keys, read_header
from maquette.families.base import UnmatchedLora
from maquette.families.sd15.adapters import Sd15Adapters
from maquette.families.sd15.objective import Sd15Objective
from maquette.families.sd15.pipeline import Sd15Pipeline
from maquette.testing.factories import training_spec
from maquette.testing.tiny_family import build_tiny_base
from maquette.trainer.tensors import read_tensors, write_tensors

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


def trained(base: Path, path: Path, settings: TrainingSettings, seed: int = 1) -> Image.Image:
    """Write a LoRA whose weights are all random, and answer what the pipeline it hangs on draws with it."""
    pipeline = Sd15Pipeline.load(base, CPU)
    adapters = Sd15Adapters(pipeline)
    adapters.attach(settings)
    random = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in adapters.parameters().values():
            parameter.copy_(torch.randn(parameter.shape, generator=random) * 0.2)
    write_tensors(path, adapters.parameters(), adapters.metadata())
    return pipeline.draw(REQUEST)


class TestObjective:
    @pytest.mark.parametrize("prediction_type", ["epsilon", "v_prediction"])
    def test_losses_follow_the_published_formulas(self, bases: Callable[[str], Path], prediction_type: str) -> None:
        pipeline = Sd15Pipeline.load(bases(prediction_type), CPU)
        latents = torch.randn(3, 4, 16, 16)
        conditioning = pipeline.encode_prompts(["a", "b", "c"])
        losses = Sd15Objective(pipeline).losses(latents, conditioning, torch.Generator().manual_seed(3))

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
            Sd15Objective(pipeline)


class TestPipeline:
    def test_latents_are_in_the_denoisers_scale(self, pipeline: Sd15Pipeline) -> None:
        pictures = torch.rand(2, 3, 64, 64) * 2 - 1
        posterior = pipeline.encode_pictures(pictures)
        raw = pipeline.vae.encode(pictures).latent_dist
        assert posterior.mean.shape == posterior.std.shape == (2, 4, 16, 16)
        torch.testing.assert_close(posterior.mean, raw.mean * 0.18215)
        torch.testing.assert_close(posterior.std, raw.std * 0.18215)

    def test_latents_are_drawn_anew_around_the_mean(self, pipeline: Sd15Pipeline) -> None:
        posterior = pipeline.encode_pictures(torch.zeros(2, 3, 64, 64))
        random = torch.Generator().manual_seed(1)
        one, other = posterior.sample([1, 1, 0], random), posterior.sample([1, 1, 0], random)
        assert one.shape == (3, 4, 16, 16)
        assert not torch.equal(one, other)
        sigmas = (one - posterior.mean[[1, 1, 0]]) / posterior.std[[1, 1, 0]]
        assert sigmas.std().item() == pytest.approx(1, abs=0.1)

    def test_prompts_are_encoded_as_drawing_does(self, pipeline: Sd15Pipeline) -> None:
        tokens = pipeline.parts.tokenizer(["a cat"], padding="max_length", return_tensors="pt").input_ids
        embeds = pipeline.encode_prompts(["a cat"])["prompt_embeds"]
        torch.testing.assert_close(embeds, pipeline.text_encoder(tokens)[0])

    def test_a_prompt_fits_up_to_the_text_encoders_positions(self, pipeline: Sd15Pipeline) -> None:
        assert pipeline.fits("a" * 75)
        assert not pipeline.fits("a" * 76)

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
        mine = {id(parameter) for parameter in adapters.parameters().values()}
        models = (pipeline.unet, pipeline.text_encoder, pipeline.vae)
        trainable = {id(p) for model in models for p in model.parameters() if p.requires_grad}
        assert trainable == mine

    def test_gradients_reach_the_text_encoder_only_if_it_trains(self, pipeline: Sd15Pipeline) -> None:
        assert not pipeline.encode_prompts(["a"])["prompt_embeds"].requires_grad
        Sd15Adapters(pipeline).attach(BOTH)
        assert pipeline.encode_prompts(["a"])["prompt_embeds"].requires_grad


class TestUse:
    @pytest.mark.parametrize("settings", [SETTINGS, BOTH])
    def test_a_file_draws_as_it_was_trained(
        self, base: Path, pipeline: Sd15Pipeline, tmp_path: Path, settings: TrainingSettings
    ) -> None:
        path = tmp_path / "lora.safetensors"
        in_training = trained(base, path, settings)
        plain = pipeline.draw(REQUEST)
        Sd15Adapters(pipeline).use([LoraUse(str(path))])
        assert distance(plain, in_training) > 1
        assert distance(pipeline.draw(REQUEST), in_training) == 0

    def test_plain_diffusers_draws_it_as_it_was_trained(
        self, base: Path, pipeline: Sd15Pipeline, tmp_path: Path
    ) -> None:
        path = tmp_path / "lora.safetensors"
        in_training = trained(base, path, BOTH)
        parts = StableDiffusionPipeline.from_pretrained(base, local_files_only=True, safety_checker=None)
        parts.load_lora_weights(str(path))
        assert distance(Sd15Pipeline(parts).draw(REQUEST), in_training) == 0

    def test_strength_grows_from_nothing(self, base: Path, pipeline: Sd15Pipeline, tmp_path: Path) -> None:
        path = str(tmp_path / "lora.safetensors")
        trained(base, Path(path), BOTH)
        plain = pipeline.draw(REQUEST)
        adapters = Sd15Adapters(pipeline)

        def drawn(strength: float) -> Image.Image:
            adapters.use([LoraUse(path, strength)])
            return pipeline.draw(REQUEST)

        assert distance(drawn(0.0), plain) == 0
        assert 0 < distance(drawn(0.1), plain) < distance(drawn(1.0), plain)

    def test_no_lora_leaves_no_trace(self, base: Path, pipeline: Sd15Pipeline, tmp_path: Path) -> None:
        path = tmp_path / "lora.safetensors"
        trained(base, path, BOTH)
        plain = pipeline.draw(REQUEST)
        adapters = Sd15Adapters(pipeline)
        adapters.use([LoraUse(str(path))])
        adapters.use([])
        assert distance(pipeline.draw(REQUEST), plain) == 0

    def test_several_act_together_and_leave_one_by_one(
        self, base: Path, pipeline: Sd15Pipeline, tmp_path: Path
    ) -> None:
        first, second = LoraUse(str(tmp_path / "1.safetensors")), LoraUse(str(tmp_path / "2.safetensors"))
        alone = trained(base, Path(first.path), SETTINGS, seed=1)
        trained(base, Path(second.path), BOTH, seed=2)
        adapters = Sd15Adapters(pipeline)
        adapters.use([second])
        adapters.use([first, second])
        together = pipeline.draw(REQUEST)
        assert distance(together, alone) > 1
        adapters.use([first])
        assert distance(pipeline.draw(REQUEST), alone) == 0
        adapters.use([second, first])
        assert distance(pipeline.draw(REQUEST), together) < 1

    def test_naming_a_file_twice_adds_its_strengths(self, base: Path, pipeline: Sd15Pipeline, tmp_path: Path) -> None:
        path = tmp_path / "lora.safetensors"
        whole = trained(base, path, SETTINGS)
        Sd15Adapters(pipeline).use([LoraUse(str(path), 0.25), LoraUse(str(path), 0.75)])
        assert distance(pipeline.draw(REQUEST), whole) == 0


class TestUnusable:
    @pytest.fixture
    def lora(self, base: Path, tmp_path: Path) -> Path:
        path = tmp_path / "lora.safetensors"
        trained(base, path, BOTH)
        return path

    def refused(self, pipeline: Sd15Pipeline, lora: Path, broken: Path) -> BrokenWeights:
        """The error of a broken file, having checked that it leaves nothing behind."""
        plain = pipeline.draw(REQUEST)
        adapters = Sd15Adapters(pipeline)
        with pytest.raises(BrokenWeights) as error:
            adapters.use([LoraUse(str(broken))])
        assert distance(pipeline.draw(REQUEST), plain) == 0
        adapters.use([LoraUse(str(lora))])
        assert distance(pipeline.draw(REQUEST), plain) > 1
        return error.value

    @pytest.mark.parametrize("part", ["all", "one"])
    def test_keys_of_another_model_are_named(self, pipeline: Sd15Pipeline, lora: Path, part: str) -> None:
        tensors, broken = read_tensors(lora), lora.with_name("broken.safetensors")
        odd = list(tensors)[:2] if part == "one" else list(tensors)
        renamed = {(f"transformer.{name}" if name in odd else name): tensor for name, tensor in tensors.items()}
        write_tensors(broken, renamed, read_header(lora).metadata)
        error = self.refused(pipeline, lora, broken)
        assert isinstance(error, UnmatchedLora)
        assert f"{len(odd)} of {len(tensors)} keys match no layer of this base: transformer." in str(error)

    def test_layers_of_another_width_are_refused(self, pipeline: Sd15Pipeline, lora: Path) -> None:
        broken = lora.with_name("broken.safetensors")
        wider = {name: torch.cat([tensor, tensor], dim=1) for name, tensor in read_tensors(lora).items()}
        write_tensors(broken, wider, read_header(lora).metadata)
        assert "does not fit this base" in str(self.refused(pipeline, lora, broken))

    def test_half_a_pair_is_refused(self, pipeline: Sd15Pipeline, lora: Path) -> None:
        broken = lora.with_name("broken.safetensors")
        tensors = {name: tensor for name, tensor in read_tensors(lora).items() if ".lora_A." in name}
        write_tensors(broken, tensors, read_header(lora).metadata)
        error = self.refused(pipeline, lora, broken)
        assert f"holds {len(tensors)} of the {2 * len(tensors)} weights" in str(error)

    def test_an_empty_file_is_refused(self, pipeline: Sd15Pipeline, lora: Path) -> None:
        broken = lora.with_name("broken.safetensors")
        write_tensors(broken, {})
        assert "holds no weights" in str(self.refused(pipeline, lora, broken))

    def test_a_cut_off_file_is_refused(self, pipeline: Sd15Pipeline, lora: Path) -> None:
        broken = lora.with_name("broken.safetensors")
        broken.write_bytes(lora.read_bytes()[:-7])
        assert "its header speaks of" in str(self.refused(pipeline, lora, broken))

    def test_a_refused_file_takes_those_beside_it_out_of_use(self, pipeline: Sd15Pipeline, lora: Path) -> None:
        plain = pipeline.draw(REQUEST)
        adapters = Sd15Adapters(pipeline)
        adapters.use([LoraUse(str(lora))])
        with pytest.raises(FileNotFoundError):
            adapters.use([LoraUse(str(lora)), LoraUse(str(lora.with_name("nowhere.safetensors")))])
        assert distance(pipeline.draw(REQUEST), plain) == 0

    def test_a_missing_file_is_told(self, pipeline: Sd15Pipeline, tmp_path: Path) -> None:
        with pytest.raises(FileNotFoundError, match="nowhere"):
            Sd15Adapters(pipeline).use([LoraUse(str(tmp_path / "nowhere.safetensors"))])
