"""Finished LoRAs on the first family: they draw what they drew when they were trained, or are refused."""

import json
import re
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import StableDiffusionPipeline
from msgspec.structs import replace
from peft import LoraConfig
from PIL import Image
from torch.testing import assert_close

from maquette.core.drawing import DrawRequest
from maquette.core.specs import TrainingSettings
from maquette.core.weights import BrokenWeights, read_header
from maquette.families.base import UnmatchedLora
from maquette.families.lora import LoadedLora
from maquette.families.sd15.adapters import Sd15Adapters
from maquette.families.sd15.pipeline import Sd15Pipeline
from maquette.testing.factories import training_spec
from maquette.testing.tiny_family import build_tiny_base
from maquette.trainer.tensors import read_tensors, write_tensors

pytestmark = pytest.mark.torch

CPU = torch.device("cpu")
REQUEST = DrawRequest(prompt="a photo of ohwx", width=64, height=64, steps=3, guidance_scale=3.0, seed=5)
SETTINGS = replace(training_spec().settings, lora_r=4, lora_alpha=8, lora_text_encoder_r=4, lora_text_encoder_alpha=6)
BOTH = replace(SETTINGS, train_text_encoder=True)
TO_Q = "unet.down_blocks.0.attentions.0.transformer_blocks.0.attn1.to_q"
HEADER = "lora_adapter_metadata"
ROUNDING = 0.05
"""Levels of 255 in the mean by which pictures differ that are made of the same sums in another order."""


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_tiny_base(tmp_path_factory.mktemp("base") / "tiny")


@pytest.fixture
def pipeline(base: Path) -> Sd15Pipeline:
    return Sd15Pipeline.load(base, CPU)


@pytest.fixture
def adapters(pipeline: Sd15Pipeline) -> Sd15Adapters:
    return Sd15Adapters(pipeline)


@pytest.fixture
def lora(base: Path, tmp_path: Path) -> Path:
    path = tmp_path / "lora.safetensors"
    trained(base, path, BOTH)
    return path


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


def drawn_by_diffusers(base: Path, loras: Mapping[Path, float]) -> Image.Image:
    """What the library's own loading makes of files with strengths."""
    parts = StableDiffusionPipeline.from_pretrained(base, local_files_only=True, safety_checker=None)
    for index, path in enumerate(loras):
        parts.load_lora_weights(str(path), adapter_name=str(index))
    parts.set_adapters([str(index) for index in range(len(loras))], list(loras.values()))
    return Sd15Pipeline(parts).draw(REQUEST)


def to_kohya(tensors: Mapping[str, torch.Tensor], alphas: Callable[[str], float]) -> dict[str, torch.Tensor]:
    """A diffusers file's tensors as kohya's trainers name them."""
    converted: dict[str, torch.Tensor] = {}
    for name, tensor in tensors.items():
        layer, matrix = re.fullmatch(r"(.*)\.lora_([AB])\.weight", name).groups()  # pyright: ignore[reportOptionalMemberAccess]
        flat = layer.replace("unet.", "lora_unet_").replace("text_encoder.", "lora_te_").replace(".", "_")
        converted[f"{flat}.lora_{'down' if matrix == 'A' else 'up'}.weight"] = tensor.clone()
        converted[f"{flat}.alpha"] = torch.tensor(alphas(layer))
    return converted


class TestFiles:
    @pytest.mark.parametrize("settings", [SETTINGS, BOTH])
    def test_a_file_draws_as_it_was_trained(
        self, base: Path, pipeline: Sd15Pipeline, adapters: Sd15Adapters, tmp_path: Path, settings: TrainingSettings
    ) -> None:
        path = tmp_path / "lora.safetensors"
        in_training = trained(base, path, settings)
        plain = pipeline.draw(REQUEST)
        adapters.activate([(adapters.read(str(path)), 1.0)])
        assert distance(plain, in_training) > 1
        assert distance(pipeline.draw(REQUEST), in_training) == 0

    def test_the_denoiser_and_the_text_encoder_answer_as_with_peft(
        self, base: Path, pipeline: Sd15Pipeline, adapters: Sd15Adapters, lora: Path
    ) -> None:
        """Pictures are rounded to 256 levels; the numbers before them are not."""
        parts = StableDiffusionPipeline.from_pretrained(base, local_files_only=True, safety_checker=None)
        parts.load_lora_weights(str(lora))
        adapters.activate([(adapters.read(str(lora)), 1.0)])
        latents, timesteps = torch.randn(2, 4, 16, 16), torch.tensor([7, 700])
        theirs = Sd15Pipeline(parts).encode_prompts(["a", "b"])["prompt_embeds"]
        ours = pipeline.encode_prompts(["a", "b"])["prompt_embeds"]
        assert_close(ours, theirs)
        with torch.no_grad():
            said, expected = (unet(latents, timesteps, theirs).sample for unet in (pipeline.unet, parts.unet))
        assert_close(said, expected, rtol=1e-4, atol=1e-4)

    def test_plain_diffusers_draws_it_as_it_was_trained(self, base: Path, tmp_path: Path) -> None:
        path = tmp_path / "lora.safetensors"
        in_training = trained(base, path, BOTH)
        assert distance(drawn_by_diffusers(base, {path: 1.0}), in_training) < ROUNDING

    def test_kohyas_layout_draws_as_diffusers_loads_it(
        self, base: Path, pipeline: Sd15Pipeline, adapters: Sd15Adapters, lora: Path
    ) -> None:
        kohya = lora.with_name("kohya.safetensors")
        plain = pipeline.draw(REQUEST)
        write_tensors(kohya, to_kohya(read_tensors(lora), lambda layer: 8.0 if layer.startswith("unet") else 6.0))
        adapters.activate([(adapters.read(str(kohya)), 1.0)])
        drawn = pipeline.draw(REQUEST)
        assert distance(plain, drawn) > 1
        assert distance(drawn, drawn_by_diffusers(base, {kohya: 1.0})) < ROUNDING
        assert distance(drawn, drawn_by_diffusers(base, {lora: 1.0})) < ROUNDING

    def test_each_layer_has_its_own_alpha(self, adapters: Sd15Adapters, lora: Path) -> None:
        kohya = lora.with_name("kohya.safetensors")
        tensors = to_kohya(read_tensors(lora), lambda layer: 3.0 if layer == TO_Q else 8.0)
        dropped = next(name for name in tensors if name.endswith("to_k.alpha"))
        del tensors[dropped]
        write_tensors(kohya, tensors)
        layers = adapters.read(str(kohya)).layers
        assert layers[TO_Q].alpha == 3.0
        assert sorted(layer.alpha for layer in layers.values())[:2] == [3.0, 4.0]  # without one, alpha is the rank
        assert {layer.alpha for layer in layers.values()} == {3.0, 4.0, 8.0}

    def test_a_header_scales_layers_apart_and_by_the_ranks_root(self, adapters: Sd15Adapters, lora: Path) -> None:
        said = json.loads(read_header(lora).metadata[HEADER])
        said |= {"unet.alpha_pattern": {"attn1.to_q": 5}, "unet.use_rslora": True}
        write_tensors(lora, read_tensors(lora), {HEADER: json.dumps(said)})
        layers = adapters.read(str(lora)).layers
        assert (layers[TO_Q].alpha, layers[TO_Q].divisor) == (5, 2.0)
        assert layers[TO_Q.replace("to_q", "to_k")].alpha == 8
        assert {layer.divisor for name, layer in layers.items() if name.startswith("text_encoder.")} == {4}

    def test_a_header_that_holds_a_whole_peft_configuration_is_read(self, adapters: Sd15Adapters, lora: Path) -> None:
        """diffusers' own saving writes every option."""
        targets = json.loads(read_header(lora).metadata[HEADER])["unet.target_modules"]
        whole = LoraConfig(r=4, lora_alpha=10, target_modules=targets).to_dict() | {"target_modules": targets}
        said = {f"unet.{name}": value for name, value in whole.items()}
        write_tensors(lora, read_tensors(lora), {HEADER: json.dumps(said)})
        assert adapters.read(str(lora)).layers[TO_Q].alpha == 10

    def test_its_size_is_what_it_takes_in_memory(self, adapters: Sd15Adapters, lora: Path) -> None:
        tensors = read_tensors(lora)
        write_tensors(lora, {name: tensor.half() for name, tensor in tensors.items()}, read_header(lora).metadata)
        assert adapters.read(str(lora)).size == sum(4 * tensor.numel() for tensor in tensors.values())

    def test_a_file_that_changes_later_changes_nothing(
        self, pipeline: Sd15Pipeline, adapters: Sd15Adapters, lora: Path
    ) -> None:
        loaded = adapters.read(str(lora))
        adapters.activate([(loaded, 1.0)])
        before = pipeline.draw(REQUEST)
        with lora.open("r+b") as file:
            file.seek(-20_000, 2)
            file.write(bytes(20_000))
        assert distance(pipeline.draw(REQUEST), before) == 0


class TestActing:
    def test_reading_lets_nothing_act(self, pipeline: Sd15Pipeline, adapters: Sd15Adapters, lora: Path) -> None:
        plain = pipeline.draw(REQUEST)
        adapters.read(str(lora))
        assert distance(pipeline.draw(REQUEST), plain) == 0

    def test_strength_grows_from_nothing(self, pipeline: Sd15Pipeline, adapters: Sd15Adapters, lora: Path) -> None:
        plain, loaded = pipeline.draw(REQUEST), adapters.read(str(lora))

        def drawn(strength: float) -> Image.Image:
            adapters.activate([(loaded, strength)])
            return pipeline.draw(REQUEST)

        assert distance(drawn(0.0), plain) == 0
        assert 0 < distance(drawn(0.1), plain) < distance(drawn(1.0), plain)
        assert distance(drawn(-1.0), drawn(1.0)) > 1

    def test_no_lora_leaves_no_trace(self, pipeline: Sd15Pipeline, adapters: Sd15Adapters, lora: Path) -> None:
        models = (pipeline.unet, pipeline.text_encoder)
        weights = [parameter.clone() for model in models for parameter in model.parameters()]
        plain, names = pipeline.draw(REQUEST), [list(model.state_dict()) for model in models]
        adapters.activate([(adapters.read(str(lora)), 1.0)])
        assert distance(pipeline.draw(REQUEST), plain) > 1
        adapters.activate([])
        assert distance(pipeline.draw(REQUEST), plain) == 0
        assert [list(model.state_dict()) for model in models] == names
        after = [parameter for model in models for parameter in model.parameters()]
        assert all(torch.equal(one, other) for one, other in zip(weights, after, strict=True))
        assert not any(module._forward_hooks for model in models for module in model.modules())

    def test_only_layers_that_a_lora_touches_are_hooked(
        self, pipeline: Sd15Pipeline, adapters: Sd15Adapters, lora: Path
    ) -> None:
        loaded = adapters.read(str(lora))
        adapters.activate([(LoadedLora(loaded.path, {TO_Q: loaded.layers[TO_Q]}), 1.0)])
        hooked = [name for name, module in pipeline.unet.named_modules() if module._forward_hooks]
        assert hooked == [TO_Q.removeprefix("unet.")]

    @pytest.mark.filterwarnings("ignore:Already found a `peft_config` attribute")
    def test_several_act_together_and_leave_one_by_one(
        self, base: Path, pipeline: Sd15Pipeline, adapters: Sd15Adapters, tmp_path: Path
    ) -> None:
        paths = [tmp_path / "1.safetensors", tmp_path / "2.safetensors"]
        alone = trained(base, paths[0], SETTINGS, seed=1)
        trained(base, paths[1], BOTH, seed=2)
        first, second = (adapters.read(str(path)) for path in paths)
        adapters.activate([(second, 1.0)])
        adapters.activate([(first, 1.0), (second, 0.5)])
        together = pipeline.draw(REQUEST)
        assert distance(together, alone) > 1
        assert distance(together, drawn_by_diffusers(base, {paths[0]: 1.0, paths[1]: 0.5})) < ROUNDING
        adapters.activate([(first, 1.0)])
        assert distance(pipeline.draw(REQUEST), alone) == 0
        adapters.activate([(second, 0.5), (first, 1.0)])
        assert distance(pipeline.draw(REQUEST), together) < 1

    def test_naming_one_twice_adds_its_strengths(
        self, base: Path, pipeline: Sd15Pipeline, adapters: Sd15Adapters, tmp_path: Path
    ) -> None:
        path = tmp_path / "lora.safetensors"
        whole = trained(base, path, SETTINGS)
        loaded = adapters.read(str(path))
        adapters.activate([(loaded, 0.25), (loaded, 0.75)])
        assert distance(pipeline.draw(REQUEST), whole) == 0


class TestZeroTerminalSnr:
    """Pictures begin without signal as long as a LoRA acts that was trained so."""

    def told(self, lora: Path, path: Path, said: str) -> Path:
        """The same LoRA, with a header that says so in kohya's words."""
        write_tensors(path, read_tensors(lora), read_header(lora).metadata | {"ss_zero_terminal_snr": said})
        return path

    def test_while_one_acts(self, pipeline: Sd15Pipeline, adapters: Sd15Adapters, lora: Path, tmp_path: Path) -> None:
        begins = adapters.read(str(self.told(lora, tmp_path / "1.safetensors", "True")))
        not_so = adapters.read(str(self.told(lora, tmp_path / "2.safetensors", "False")))
        plain = adapters.read(str(lora))
        acting = {
            (): False,
            ((begins, 1.0),): True,
            ((plain, 1.0), (not_so, 1.0)): False,
            ((plain, 1.0), (begins, 0.5)): True,
            ((begins, 0.0),): False,
        }
        for loras, down in acting.items():
            adapters.activate(loras)
            assert pipeline.samplers.zero_terminal_snr is down

    def test_nor_after_an_error(
        self, pipeline: Sd15Pipeline, adapters: Sd15Adapters, lora: Path, tmp_path: Path
    ) -> None:
        begins = adapters.read(str(self.told(lora, tmp_path / "1.safetensors", "True")))
        adapters.activate([(begins, 1.0)])
        foreign = LoadedLora("nowhere", {"unet.no_such_layer": begins.layers[TO_Q]}, zero_terminal_snr=True)
        with pytest.raises(KeyError):
            adapters.activate([(foreign, 1.0)])
        assert not pipeline.samplers.zero_terminal_snr


class TestUnusable:
    def refused(self, adapters: Sd15Adapters, broken: Path, tensors: Mapping[str, torch.Tensor], lora: Path) -> str:
        """The error of a file with these tensors and the header of `lora`."""
        write_tensors(broken, tensors, read_header(lora).metadata)
        with pytest.raises(UnmatchedLora) as error:
            adapters.read(str(broken))
        return str(error.value).removeprefix(str(broken))

    @pytest.fixture
    def broken(self, lora: Path) -> Path:
        return lora.with_name("broken.safetensors")

    @pytest.mark.parametrize("part", ["all", "some"])
    def test_keys_of_another_model_are_named(self, adapters: Sd15Adapters, lora: Path, broken: Path, part: str) -> None:
        tensors = read_tensors(lora)
        odd = list(tensors)[:2] if part == "some" else list(tensors)
        renamed = {(f"transformer.{name}" if name in odd else name): tensor for name, tensor in tensors.items()}
        error = self.refused(adapters, broken, renamed, lora)
        assert f"{len(odd)} of {len(tensors)} keys match no layer of this base: transformer." in error

    def test_kohyas_keys_of_another_model_are_named(self, adapters: Sd15Adapters, lora: Path, broken: Path) -> None:
        tensors = to_kohya(read_tensors(lora), lambda _: 4.0) | {"lora_te2_x.lora_down.weight": torch.ones(4, 4)}
        assert f"1 of {len(tensors)} keys match no layer of this base: lora_te2_x" in self.refused(
            adapters, broken, tensors, lora
        )

    @pytest.mark.parametrize("matrix", ["lora_A", "lora_B"])
    def test_layers_of_another_size_are_refused(
        self, adapters: Sd15Adapters, lora: Path, broken: Path, matrix: str
    ) -> None:
        wider = {
            name: torch.cat([tensor, tensor], dim=1 if matrix == "lora_A" else 0) if f".{matrix}." in name else tensor
            for name, tensor in read_tensors(lora).items()
        }
        assert "does not fit this base: " in self.refused(adapters, broken, wider, lora)

    def test_half_a_pair_is_refused(self, adapters: Sd15Adapters, lora: Path, broken: Path) -> None:
        tensors = read_tensors(lora)
        del tensors[f"{TO_Q}.lora_B.weight"]
        assert f"lacks half of a pair for 1 of {(len(tensors) + 1) // 2} layers: {TO_Q}" in self.refused(
            adapters, broken, tensors, lora
        )

    @pytest.mark.parametrize("layout", ["diffusers", "kohya"])
    @pytest.mark.parametrize("missing", ["one layer", "text encoder", "half"])
    def test_layers_that_the_header_names_must_be_there(
        self, adapters: Sd15Adapters, lora: Path, broken: Path, layout: str, missing: str
    ) -> None:
        tensors = read_tensors(lora)
        count = len(tensors) // 2
        match missing:
            case "one layer":
                lost = {f"{TO_Q}.lora_A.weight", f"{TO_Q}.lora_B.weight"}
            case "text encoder":
                lost = {name for name in tensors if name.startswith("text_encoder.")}
            case _:
                lost = set(list(tensors)[: 2 * (count // 2)])
        left = {name: tensor for name, tensor in tensors.items() if name not in lost}
        left = left if layout == "diffusers" else to_kohya(left, lambda _: 8.0)
        error = self.refused(adapters, broken, left, lora)
        assert f"lacks {len(lost) // 2} of the {count} layers that its header names: " in error

    def test_a_rank_that_the_header_denies_is_refused(self, adapters: Sd15Adapters, lora: Path, broken: Path) -> None:
        tensors = read_tensors(lora)
        tensors[f"{TO_Q}.lora_A.weight"] = tensors[f"{TO_Q}.lora_A.weight"][:2]
        tensors[f"{TO_Q}.lora_B.weight"] = tensors[f"{TO_Q}.lora_B.weight"][:, :2]
        assert f"{TO_Q} has rank 2" in self.refused(adapters, broken, tensors, lora)

    def test_an_empty_file_is_refused(self, adapters: Sd15Adapters, lora: Path, broken: Path) -> None:
        assert "holds no weights" in self.refused(adapters, broken, {}, lora)

    def test_a_dora_is_refused(self, adapters: Sd15Adapters, lora: Path) -> None:
        said = json.loads(read_header(lora).metadata[HEADER]) | {"unet.use_dora": True}
        write_tensors(lora, read_tensors(lora), {HEADER: json.dumps(said)})
        with pytest.raises(UnmatchedLora, match="DoRA"):
            adapters.read(str(lora))

    @pytest.mark.parametrize("value", [float("nan"), float("inf")])
    @pytest.mark.parametrize("layout", ["diffusers", "kohya"])
    def test_numbers_that_are_not_finite_are_refused(
        self, adapters: Sd15Adapters, lora: Path, value: float, layout: str
    ) -> None:
        tensors = read_tensors(lora)
        tensors[f"{TO_Q}.lora_B.weight"][3, 1] = value
        write_tensors(lora, tensors if layout == "diffusers" else to_kohya(tensors, lambda _: 8.0))
        with pytest.raises(BrokenWeights, match=r"1 of \d+ weights are empty or not finite: .*attn1.to_q") as error:
            adapters.read(str(lora))
        assert not isinstance(error.value, UnmatchedLora)

    @pytest.mark.parametrize(
        "said",
        [
            "[",
            "7",
            '{"unet.r": "four"}',
            '{"unet.alpha_pattern": [1]}',
            '{"unet.no_such_option": 1}',
            '{"unet.target_modules": "("}',
            '{"unet.r": 4, "unet.alpha_pattern": {"(": 1}}',
        ],
    )
    def test_a_header_that_cannot_be_read_is_refused(self, adapters: Sd15Adapters, lora: Path, said: str) -> None:
        write_tensors(lora, read_tensors(lora), {HEADER: said})
        with pytest.raises(BrokenWeights, match="header"):
            adapters.read(str(lora))

    def test_a_cut_off_file_is_refused(self, adapters: Sd15Adapters, lora: Path) -> None:
        lora.write_bytes(lora.read_bytes()[:-7])
        with pytest.raises(BrokenWeights, match="its header speaks of"):
            adapters.read(str(lora))

    def test_a_missing_file_is_told(self, adapters: Sd15Adapters, tmp_path: Path) -> None:
        with pytest.raises(FileNotFoundError, match="nowhere"):
            adapters.read(str(tmp_path / "nowhere.safetensors"))
