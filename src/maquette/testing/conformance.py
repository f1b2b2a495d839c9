"""What every family must do, checked with real parts at a tiny size; a family that can't pass is not listed.

`CHECKS` are the columns, families the rows: `make families` prints the table, and `tests/contract/test_families.py`
asks for each cell. Families that other packages bring are in it (`docs/families.md`).
"""

import shutil
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import diffusers
import numpy as np
import torch
import transformers
from msgspec.structs import astuple, replace
from peft.tuners.lora import LoraLayer as PeftLayer
from PIL import Image

from maquette.bases.folder import inspect_base
from maquette.core.basefolder import MODEL_INDEX, read_config
from maquette.core.drawing import DrawRequest
from maquette.core.progress import MemoryTaken, Planned, Resumed
from maquette.core.rundir import LORA_FILES, Manifest, RunDirectory
from maquette.core.specs import TrainingSettings
from maquette.core.weights import LoraLayout, check_lora_keys
from maquette.families.adapters import DOWN, UP
from maquette.families.base import TEXT_ENCODERS, Adapters, Family, Objective, OriginalSize, Part, Pipeline, load_family
from maquette.families.lora import LoadedLora, LoraLayer
from maquette.families.lora_keys import LoraKeys, fused
from maquette.families.memory import measure_sizes
from maquette.families.registry import FAMILIES, layouts, load_spec
from maquette.families.trial import try_base
from maquette.testing.factories import training_spec
from maquette.testing.runs import carry_out, change_spec, make_run, read_messages
from maquette.testing.tiny_bases import TINY_BASES, TinyBase
from maquette.trainer.cache import EncodedExamples
from maquette.trainer.data import Example
from maquette.trainer.memory import recompute_activations
from maquette.trainer.tensor_store import Entry, TensorStore
from maquette.trainer.tensors import read_tensors, write_tensors

CPU = torch.device("cpu")
SIDE = 64
REQUEST = DrawRequest(prompt="a photo of ohwx", width=SIDE, height=SIDE, steps=2, guidance_scale=3.0, seed=5)
SETTINGS = replace(
    training_spec().settings,
    train_text_encoder=True,
    lora_r=4,
    lora_alpha=8,
    lora_text_encoder_r=4,
    lora_text_encoder_alpha=6,
)
DENOISER_SIZE = SETTINGS.lora_r, SETTINGS.lora_alpha
TEXT_ENCODER_SIZE = SETTINGS.lora_text_encoder_r, SETTINGS.lora_text_encoder_alpha
DISTINCT = 0.5
"""Mean difference of two pictures, in levels of 255, above which a LoRA acts."""
SAME = 0.02
"""Below which they are one picture, rounded otherwise; what another scheduler should draw alike, it draws at 0.04."""
OVERFIT_STEPS = 12
OVERFIT_RATE = 1e-2
OURS = "ours"
"""What diffusers calls our LoRA."""
OK, FAILED, NONE = "ok", "FAILED", "-"
"""Cells of the table; the last where the check has found that there is nothing to check. Words say what it found."""
CACHE_BYTES = 1 << 24
LEARNED = 0.9
"""Share of an untrained LoRA's loss below which one picture has been learned."""


class NotAsItMust(AssertionError):
    """A family does not do what it must; the words say what."""


class NotApplicable(Exception):
    """A check has found that what it asks for does not exist for a family; the words say what."""


class Subject:
    """A family under test: its base is made once, and everything else as it is asked for.

    Attributes:
        name: registered in `FAMILIES`.
        tiny: how a tiny base of it is made.
        root: an empty folder for all that is written.
    """

    def __init__(self, name: str, tiny: TinyBase, root: Path) -> None:
        self.name = name
        self.tiny = tiny
        self.root = root

    @cached_property
    def base(self) -> Path:
        """The folder of a tiny base."""
        return self.tiny.build(self.root / "base")

    @cached_property
    def family(self) -> Family:
        """Its parts."""
        return load_family(self.name)

    @cached_property
    def library(self) -> Any:
        """The class that diffusers has for its bases."""
        return getattr(diffusers, str(read_config(self.base / MODEL_INDEX)["_class_name"]))

    @cached_property
    def wide(self) -> "Subject":
        """Itself, or where diffusers' converters know the width of published bases alone, on a base of that width."""
        if self.tiny.wide is None:
            return self
        root = self.root / "wide"
        root.mkdir()
        return Subject(self.name, TinyBase(self.tiny.wide, self.tiny.in_one_file), root)

    def needs(self, ability: str) -> None:
        """Go on with a check only if the library's class has a method.

        Raises:
            NotApplicable: it has none of this name.
        """
        if not hasattr(self.library, ability):
            raise NotApplicable(f"diffusers' {self.library.__name__} has no {ability}")

    def load(self) -> Pipeline:
        """The base, untouched."""
        return self.family.pipeline.load(self.base, CPU)

    def attached(self, settings: TrainingSettings = SETTINGS) -> tuple[Pipeline, Adapters]:
        """The base with an untrained LoRA."""
        pipeline = self.load()
        # After loading: the tiny base is built when it is asked for first, and that draws numbers too.
        torch.manual_seed(1)
        adapters = self.family.adapters(pipeline)
        adapters.attach(settings)
        return pipeline, adapters

    def exported(self, seed: int) -> "Exported":
        """A LoRA whose weights are all random, written in both layouts, and what it draws where it was trained."""
        pipeline, adapters = self.attached()
        _randomise(adapters, seed)
        diffusers, kohya = (self.root / f"{seed}-{layout}.safetensors" for layout in ("diffusers", "kohya"))
        write_tensors(diffusers, adapters.parameters(), adapters.metadata())
        write_tensors(kohya, adapters.kohya())
        return Exported(_attached_layers(load_spec(self.name).keys, adapters), diffusers, kohya, pipeline.draw(REQUEST))

    @cached_property
    def first(self) -> "Exported":
        """A LoRA."""
        return self.exported(1)

    @cached_property
    def trained(self) -> RunDirectory:
        """A run of two steps, done."""
        directory = make_run(self.root / "two", self.base, max_train_steps=2, train_text_encoder=True)
        self.train(directory)
        return directory

    @cached_property
    def losses(self) -> list[float]:
        """Of a LoRA that learns one picture."""
        pipeline, adapters = self.attached()
        return overfit(pipeline, adapters, self.family.objective(pipeline, SETTINGS))

    def train(self, directory: RunDirectory) -> bytes:
        """Carry out a run in this process; answer the LoRA's bytes."""
        deterministic = torch.are_deterministic_algorithms_enabled()
        try:
            carry_out(directory)
        finally:
            torch.use_deterministic_algorithms(deterministic)
        manifest = directory.read(directory.manifest, Manifest)
        if manifest is None:
            raise NotAsItMust("the run wrote no manifest")
        return (directory.root / manifest.weights.path).read_bytes()


@dataclass(frozen=True)
class Exported:
    """A LoRA's files, and what it was and drew before it was written, told by the settings and not by the files."""

    layers: Mapping[str, LoraLayer]
    diffusers: Path
    kohya: Path
    picture: Image.Image


def loads_a_folder(subject: Subject) -> None:
    """A base is recognised by its folder, is found to be whole, and draws."""
    found = inspect_base(subject.base, layouts())
    expect(found.family == subject.name, f"the folder was taken for one of {found.family}")
    try_base(subject.name, subject.base)
    pipeline = subject.load()
    expect(pipeline.draw(REQUEST).size == (SIDE, SIDE), "the picture has another size than was asked for")
    made_of = pipeline.modules
    for parts in ((Part.AUTOENCODER,), TEXT_ENCODERS, (Part.DENOISER,)):
        expect(any(made_of[part] for part in parts), f"it does not say what makes up its {' and '.join(parts)}")


def loads_one_file(subject: Subject) -> None:
    """A base whose weights are in one file is recognised, and draws what it draws from its folder."""
    subject.needs("from_single_file")
    expect(bool(subject.tiny.in_one_file), "diffusers reads such files of it, and there is none to read")
    subject = subject.wide
    drawn = subject.load().draw(REQUEST)
    for write in subject.tiny.in_one_file:
        folder = write(subject.base, subject.root / write.__name__)
        expect(inspect_base(folder, layouts()).family == subject.name, "it was taken for another family's")
        try_base(subject.name, folder)
        again = subject.family.pipeline.load(folder, CPU).draw(REQUEST)
        shutil.rmtree(folder)
        expect(distance(again, drawn) == 0, f"it draws another picture from what {write.__name__} wrote")


def trains_two_steps(subject: Subject) -> None:
    """The trainer's own loop ends in a whole, finite LoRA that has learned something in every layer."""
    output = subject.trained.output
    tensors = read_tensors(output / LORA_FILES[LoraLayout.DIFFUSERS])
    check_lora_keys(tensors)
    expect(all(tensor.isfinite().all() for tensor in tensors.values()), "a weight is not finite")
    still = [name for name, tensor in tensors.items() if name.endswith(UP) and not tensor.any()]
    expect(not still, f"{len(still)} layers' LoRAs have not moved, as if nobody heard them: {still[:3]}")
    spec = load_spec(subject.name)
    encoders = {name.partition(".")[0] for name in tensors} - set(spec.memory.denoiser.components)
    expect(encoders == set(spec.trained_encoders), f"it trains the text encoders {encoders}, and says otherwise")
    kohya = _adapters(subject).read(str(output / LORA_FILES[LoraLayout.KOHYA]))
    expect(2 * len(kohya.layers) == len(tensors), "kohya's layout has other layers")


def plans_its_memory(subject: Subject) -> None:
    """Its memory model finds every part of a base, a run tells its plan, and a leaner one, which computes activations
    twice, ends with the same bytes.
    """
    sizes = measure_sizes(subject.base, load_spec(subject.name).memory)
    pipeline = subject.load()
    for part, found in zip((Part.DENOISER, *TEXT_ENCODERS, Part.AUTOENCODER), astuple(sizes), strict=True):
        loaded = sum(weight.numel() for module in pipeline.modules[part] for weight in module.parameters())
        expect(found == loaded, f"its memory model finds {found} parameters of its {part}, and {loaded} are loaded")
    told = {type(message): message for message in read_messages(subject.trained)}
    expect(told.keys() >= {Planned, MemoryTaken}, "the run does not tell its plan, or what it took")

    lean = make_run(subject.root / "lean", subject.base, max_train_steps=2, train_text_encoder=True)
    change_spec(lean, leaner=1)
    weights = (subject.trained.output / LORA_FILES[LoraLayout.DIFFUSERS]).read_bytes()
    expect(subject.train(lean) == weights, "with activations computed twice the LoRA has other bytes")
    plan = next(message for message in read_messages(lean) if isinstance(message, Planned))
    expect(plan.gradient_checkpointing, "the leaner run keeps activations")
    kept, computed_again = (_calls_of_a_step(subject, recomputing=recomputing) for recomputing in (False, True))
    expect(computed_again > kept, "its denoiser computes no block again where it is asked to")


def _calls_of_a_step(subject: Subject, *, recomputing: bool) -> int:
    """Of the denoiser's modules, in the forward and the backward pass."""
    pipeline, adapters = subject.attached()
    if recomputing:
        recompute_activations(pipeline)
    calls: list[object] = []
    for denoiser in pipeline.modules[Part.DENOISER]:
        for module in denoiser.modules():
            module.register_forward_pre_hook(lambda module, _: calls.append(module))
    overfit(pipeline, adapters, subject.family.objective(pipeline, SETTINGS), steps=1)
    return len(calls)


def keeps_what_it_encoded(subject: Subject) -> None:
    """What became of a picture and a prompt is not encoded again, and comes back as it was."""
    pipeline, store = subject.load(), TensorStore(subject.root / "cache", CACHE_BYTES, subject.name)
    picture = Image.radial_gradient("L").resize((SIDE, SIDE)).convert("RGB")
    example = Example(lambda: picture, (REQUEST.prompt,), OriginalSize(SIDE, SIDE), Entry("picture", "whole"))
    needed: list[Part] = []
    first, second = (
        EncodedExamples.encode(
            pipeline,
            [example],
            train_text_encoder=False,
            before_each=lambda: None,
            store=store,
            bring=lambda *parts: needed.extend(parts),
        )
        for _ in range(2)
    )
    expect(needed == [Part.AUTOENCODER, *TEXT_ENCODERS], f"encoding twice needs {', '.join(needed)}")
    objective = subject.family.objective(pipeline, SETTINGS)
    (latents, told, _), (latents_again, told_again, _) = (
        examples.batch(shown, CPU)
        for examples in (first, second)
        for shown in examples.show([0], objective, torch.Generator().manual_seed(4))
    )
    expect(torch.equal(latents, latents_again), "latents come back changed")
    expect(told.keys() == told_again.keys(), "what the denoiser is told comes back under other names")
    expect(all(torch.equal(told[name], told_again[name]) for name in told), "prompts come back changed")


def asks_only_encoders_that_train(subject: Subject) -> None:
    """Text encoders that none can train are not asked at a step, and what they say no LoRA changes."""
    bare = subject.load().encode_prompts([REQUEST.prompt])
    pipeline, adapters = subject.attached()
    _randomise(adapters, 1)
    asked: list[str] = []
    for module in pipeline.modules[Part.FROZEN_ENCODERS]:
        module.register_forward_pre_hook(lambda module, _: asked.append(type(module).__name__))
    trained = pipeline.encode_trained([REQUEST.prompt])
    expect(not asked, f"at each step it asks {', '.join(asked)} too")
    whole = pipeline.encode_prompts([REQUEST.prompt])
    changed = {name for name, values in whole.items() if not torch.equal(values, bare[name])}
    expect(trained.keys() == changed, f"a LoRA changes {sorted(changed)}, and at a step it asks for {sorted(trained)}")
    expect(all(torch.equal(trained[name], whole[name]) for name in trained), "at a step encoders say something else")


def learns_a_picture(subject: Subject) -> None:
    """The loss falls where one picture, with one noise at one timestep, is trained on again and again."""
    first, *_, last = subject.losses
    expect(last < LEARNED * first, f"the loss went from {first:.4f} to {last:.4f} only")


def overfit(pipeline: Pipeline, adapters: Adapters, objective: Objective, *, steps: int = OVERFIT_STEPS) -> list[float]:
    """Losses of an attached LoRA that learns one picture, with one noise at one timestep, again and again."""
    picture = torch.rand(1, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(2)) * 2 - 1
    latents = pipeline.encode_pictures(picture).mean
    conditioning = {name: told.detach() for name, told in pipeline.encode_prompts([REQUEST.prompt]).items()}
    noising = objective.noising(latents, torch.Generator().manual_seed(3))
    optimizer = torch.optim.AdamW(adapters.parameters().values(), lr=OVERFIT_RATE)
    losses: list[float] = []
    for _ in range(steps):
        loss = objective.losses(latents, conditioning, noising).mean()
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())
    return losses


def resumes_bit_for_bit(subject: Subject) -> None:
    """A run that goes on from a checkpoint proves it, and ends with the bytes of one that was never interrupted."""
    settings = {"max_train_steps": 4, "train_text_encoder": True}
    straight = make_run(subject.root / "straight", subject.base, checkpoint_every=2, **settings)
    whole = subject.train(straight)
    resumed = RunDirectory(subject.root / "resumed")
    shutil.copytree(straight.root, resumed.root)
    shutil.rmtree(resumed.checkpoint(4))
    shutil.rmtree(resumed.output)
    resumed.manifest.unlink()
    resumed.create()
    expect(subject.train(resumed) == whole, "the resumed run's LoRA has other bytes")
    verified = [message.step for message in read_messages(resumed) if isinstance(message, Resumed) and message.verified]
    expect(verified == [2], "the loss at fixed timesteps and noise is not as it was when the checkpoint was taken")


def reads_back_diffusers_layout(subject: Subject) -> None:
    """Every key of our file is matched, and every tensor and scale is as it was trained."""
    ours, read = subject.first.layers, _adapters(subject).read(str(subject.first.diffusers)).layers
    components = {name.partition(".")[0] for name in ours}
    expect(components == set(load_spec(subject.name).keys), f"only {', '.join(components)} has a LoRA")
    _expect_layers(ours, read)
    changed = [name for name, layer in ours.items() if not _equal(layer, read[name])]
    expect(not changed, f"{len(changed)} of {len(ours)} layers are changed: {changed[:3]}")


def reads_back_kohya_layout(subject: Subject) -> None:
    """Every key is matched; a layer has its own tensors again, or where several are one there, the same product."""
    ours, read = subject.first.layers, _adapters(subject).read(str(subject.first.kohya)).layers
    _expect_layers(ours, read)
    for parts in fused(load_spec(subject.name).keys, ours).values():
        for name in parts:
            if len(parts) == 1:
                expect(_equal(ours[name], read[name]), f"{name} has other tensors")
            else:
                expect(torch.allclose(_product(ours[name]), _product(read[name]), atol=1e-5), f"{name} adds other")


def swaps_in_place(subject: Subject) -> None:
    """LoRAs act as they were trained, one after the other and together, and leave no trace."""
    other = subject.exported(2)
    pipeline = subject.load()
    adapters = subject.family.adapters(pipeline)
    one, two = (adapters.read(str(lora.diffusers)) for lora in (subject.first, other))

    def drawn(*loras: LoadedLora) -> Image.Image:
        adapters.activate([(lora, 1.0) for lora in loras])
        return pipeline.draw(REQUEST)

    plain = drawn()
    expect(distance(plain, subject.first.picture) > DISTINCT, "the LoRA does not act")
    expect(distance(drawn(one), subject.first.picture) == 0, "it draws otherwise than where it was trained")
    expect(distance(drawn(two), other.picture) == 0, "after a swap it draws otherwise than where it was trained")
    expect(distance(drawn(one, two), drawn(one)) > DISTINCT, "two don't act together")
    expect(distance(drawn(), plain) == 0, "without LoRAs the base draws otherwise than before")


def loads_into_diffusers(subject: Subject) -> None:
    """The library's own loading matches every key of our file, and draws with it what we draw."""
    subject.needs("load_lora_weights")
    library = _library(subject, subject.first.diffusers)
    found = _expect_added(subject, library)
    for name, layer in subject.first.layers.items():
        down, up = found[name].lora_A[OURS].weight, found[name].lora_B[OURS].weight
        expect(torch.equal(layer.down, down) and torch.equal(layer.up, up), f"{name} has other tensors")
    _expect_drawn(subject, library)


def kohya_layout_loads_into_diffusers(subject: Subject) -> None:
    """The library's own converter finds in kohya's layout every layer that we wrote, and draws what we draw."""
    subject.needs("load_lora_weights")
    subject = subject.wide
    library = _library(subject, subject.first.kohya)
    _expect_added(subject, library)
    _expect_drawn(subject, library)


CHECKS: Mapping[str, Callable[[Subject], None]] = {
    "folder": loads_a_folder,
    "single file": loads_one_file,
    "two steps": trains_two_steps,
    "plan": plans_its_memory,
    "cache": keeps_what_it_encoded,
    "text encoders": asks_only_encoders_that_train,
    "overfit": learns_a_picture,
    "resume": resumes_bit_for_bit,
    "diffusers layout": reads_back_diffusers_layout,
    "kohya layout": reads_back_kohya_layout,
    "hot swap": swaps_in_place,
    "in diffusers": loads_into_diffusers,
    "kohya in diffusers": kohya_layout_loads_into_diffusers,
}
"""The table's columns."""


def expect(held: bool, words: str) -> None:
    """Assert something of a family.

    Raises:
        NotAsItMust: it does not hold; `words` say what is wrong.
    """
    if not held:
        raise NotAsItMust(words)


def main(families: Sequence[str]) -> int:
    """Print the table of these families, or of all, and the checks; answer 1 if one fails."""
    _silence_libraries()
    failed = False
    sys.stdout.write(_line("family", [*CHECKS]))
    words: list[str] = []
    for family in families or FAMILIES.names():
        with TemporaryDirectory() as folder:
            subject = Subject(family, TINY_BASES.load(family), Path(folder))
            cells = {column: answer(subject, check) for column, check in CHECKS.items()}
        sys.stdout.write(_line(family, [cell.mark for cell in cells.values()]))
        words += [f"{family}, {column}: {cell.words}\n" for column, cell in cells.items() if cell.mark != OK]
        failed |= any(cell.mark == FAILED for cell in cells.values())
    sys.stdout.writelines(words)
    return 1 if failed else 0


def _silence_libraries() -> None:
    """What they warn of and how far they have written would stand between the table's lines. (What they warn of when
    they are imported, as here already, `TRANSFORMERS_VERBOSITY` silences.)
    """
    diffusers.utils.logging.set_verbosity_error()
    transformers.utils.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()


@dataclass(frozen=True)
class Cell:
    """Of the table: `OK`, or another mark and why it stands there."""

    mark: str
    words: str = ""


def answer(subject: Subject, check: Callable[[Subject], None]) -> Cell:
    """What a check says of a family."""
    try:
        check(subject)
    except NotApplicable as found:
        return Cell(NONE, str(found))
    except Exception as error:  # whatever a family raises is an answer
        return Cell(FAILED, f"{type(error).__name__}: {error}")
    return Cell(OK)


def _line(name: str, cells: Sequence[str]) -> str:
    widths = [max(len(column), len(FAILED)) for column in CHECKS]
    row = "  ".join(cell.ljust(width) for cell, width in zip(cells, widths, strict=True))
    return f"{name:<8}  {row}".rstrip() + "\n"


def distance(one: Image.Image, other: Image.Image) -> float:
    """Mean absolute difference of two pictures, in levels of 255."""
    levels = [np.asarray(picture, dtype=np.int16) for picture in (one, other)]
    return float(np.abs(levels[0] - levels[1]).mean())


def _randomise(adapters: Adapters, seed: int) -> None:
    """Give every weight of the attached LoRA a value as if it had learned something."""
    random = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in adapters.parameters().values():
            parameter.copy_(torch.randn(parameter.shape, generator=random) * 0.2)


def _adapters(subject: Subject) -> Adapters:
    return subject.family.adapters(subject.load())


def _attached_layers(keys: LoraKeys, adapters: Adapters) -> dict[str, LoraLayer]:
    """Of a LoRA that was attached with `SETTINGS`; the first component is the denoiser."""
    weights = {name: parameter.detach().clone() for name, parameter in adapters.parameters().items()}
    layers: dict[str, LoraLayer] = {}
    for layer in sorted({name.removesuffix(DOWN).removesuffix(UP) for name in weights}):
        component, _, rest = layer.partition(".")
        rank, alpha = DENOISER_SIZE if component == next(iter(keys)) else TEXT_ENCODER_SIZE
        name = f"{component}.{rest.removeprefix(keys[component].level)}"
        layers[name] = LoraLayer(weights[layer + DOWN], weights[layer + UP], alpha, rank)
    return layers


def _library(subject: Subject, lora: Path) -> Any:
    """The base and a LoRA as diffusers alone loads them."""
    library = subject.library.from_pretrained(subject.base, local_files_only=True)
    library.set_progress_bar_config(disable=True)
    library.load_lora_weights(str(lora), adapter_name=OURS)
    return library


def _expect_added(subject: Subject, library: Any) -> dict[str, Any]:
    """Layers are added what our LoRA adds to them, whatever tensors and scales that is made of there; answer them."""
    found: dict[str, Any] = {
        f"{component}.{name.removeprefix(keys.level)}": module
        for component, keys in load_spec(subject.name).keys.items()
        for name, module in getattr(library, component).named_modules()
        if isinstance(module, PeftLayer) and OURS in module.lora_A
    }
    _expect_layers(subject.first.layers, found)
    for name, layer in subject.first.layers.items():
        added = found[name].get_delta_weight(OURS).flatten(1)
        expect(torch.allclose(added, _product(layer), rtol=1e-4, atol=1e-5), f"{name} is added other")
    return found


def _expect_drawn(subject: Subject, library: Any) -> None:
    drawn = library(
        prompt=REQUEST.prompt,
        width=SIDE,
        height=SIDE,
        num_inference_steps=REQUEST.steps,
        guidance_scale=REQUEST.guidance_scale,
        generator=torch.Generator().manual_seed(REQUEST.seed),
    ).images[0]
    apart = distance(drawn, subject.first.picture)
    expect(apart < SAME, f"its picture is {apart:.2f} levels from ours")


def _expect_layers(ours: Mapping[str, object], found: Mapping[str, object]) -> None:
    odd = sorted(ours.keys() ^ found.keys())
    expect(not odd, f"{len(odd)} of {len(ours)} layers are unmatched: {odd[:3]}")


def _equal(one: LoraLayer, other: LoraLayer) -> bool:
    same = torch.equal(one.down, other.down) and torch.equal(one.up, other.up)
    return same and one.alpha / one.divisor == other.alpha / other.divisor


def _product(layer: LoraLayer) -> torch.Tensor:
    """What the LoRA adds to the layer's weight (out, in)."""
    return layer.up.flatten(1) @ layer.down.flatten(1) * (layer.alpha / layer.divisor)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
