"""How fast does the trainer train, beside the plain loop that people write with diffusers and accelerate?

    python benchmarks/train_loop.py

Both loops train a LoRA of the same rank on the same layers of the same base, on the same pictures, in the same
precision, on the same device, in one run and in turns. The plain loop is diffusers' DreamBooth LoRA example for the
family (`plain_loops.py`). Ours is the trainer's own `train`, deterministic as in a run; what it does with the pictures
before its first step is counted in, spread over 500 steps. On a CPU the ratio is the median of the turns' own, and told
with the least and the most of them.

On a GPU ours replays CUDA graphs (`trainer.graphs`). The first steps, in which libraries choose kernels and graphs are
captured, are left out of both. Neither uses cuDNN's attention, whose backward pass failed on FLUX.1 (torch 2.11, H200).

Bases are small: the bundled one, and the tests' tiny ones for other families. With `--real` they have their published
sizes, but for what the figures tell as reduced, of random weights. `--compile` measures both loops with the denoiser's
repeated blocks compiled, too. Utilisation is of the rate at which the device multiplies two large bfloat16 matrices,
measured in the same run.
"""

import argparse
import gc
import itertools
import json
import shutil
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import diffusers
import numpy as np
import torch
from msgspec.structs import replace
from PIL import Image
from torch.utils.flop_counter import FlopCounterMode

from machine import machine
from maquette.bases.catalogue import BUNDLED_PATH
from maquette.core.ids import sha256_hex
from maquette.core.rundir import RunDirectory
from maquette.core.specs import Picture, Preparation, SampleSpec
from maquette.families.base import Family, Objective, OnStep, Pipeline, all_there, load_family
from maquette.families.precision import use_device
from maquette.families.registry import FAMILIES, load_spec
from maquette.testing.runs import change_spec, make_run, read_spec
from maquette.testing.tiny_bases import TINY_BASES
from maquette.trainer import loop
from maquette.trainer.attempt import Attempt
from maquette.trainer.cache import EncodedExamples
from maquette.trainer.checkpoint import TrainingState
from maquette.trainer.evaluation import Evaluation
from maquette.trainer.keeping import Keeper
from maquette.trainer.memory import PeakMeter
from maquette.trainer.preparing import open_store, prepare
from maquette.trainer.randomness import Randomness
from maquette.trainer.reporter import Reporter
from maquette.trainer.supervision import Supervision
from plain_loops import PLAIN_LOOPS, Pictures
from real_sizes import REDUCED, real_parts

RANK = 16
PICTURES = 8
PROMPT = "a photo of ohwx creature"
COUNTED_STEPS = 500
"""Over so many steps what comes before the first one is spread."""
BAR = 1.3
RATE = 1e-4
WARM_UP = 3
RESULTS = Path(__file__).parent / "results"


@dataclass
class Figures:
    """One loop's figures: seconds of each step, of what comes before the first, bytes at most, and what a step's passes
    through the denoiser compute, in floating-point operations.
    """

    steps: list[float]
    before: float = 0.0
    peak_bytes: int = 0
    operations: int = 0

    def turns(self) -> list[float]:
        """Seconds a step of each turn, with its share of what comes before."""
        return [seconds + self.before / COUNTED_STEPS for seconds in self.steps]

    def seconds_a_step(self) -> float:
        """Their median."""
        return statistics.median(self.turns())


@dataclass(frozen=True)
class Subject:
    """What is trained, and on what.

    Attributes:
        parts: makes the base anew, as a pipeline of diffusers', where and as it rests for training.
        run: a run directory with the pictures and the settings of both loops.
    """

    family: str
    parts: Callable[[], Any]
    run: RunDirectory
    device: torch.device
    side: int

    def pipeline(self) -> Pipeline:
        """The base, as the trainer has it."""
        make: Any = load_family(self.family).pipeline
        return make(self.parts())


def main() -> int:
    """Measure, print, and write the figures where asked to; 0 if the bar was met, or where it does not hold."""
    arguments = parse()
    diffusers.utils.logging.set_verbosity_error()
    with tempfile.TemporaryDirectory() as name:
        subject = make_subject(Path(name), arguments)
        found = {"plain": measure(subject, arguments, compiled=False)}
        if arguments.compile:
            found["compiled"] = measure(subject, arguments, compiled=True)
    figures = told_of_all(subject, arguments, found)
    for how in found:
        show(figures, how)
    if arguments.record:
        target = RESULTS / f"train_loop_{subject.family}_{figures['shape']}_{subject.device.type}.json"
        target.write_text(json.dumps(figures, indent=2) + "\n")
    return 0 if subject.device.type != "cpu" or figures["plain"]["ratio"] >= BAR else 1


def parse() -> argparse.Namespace:
    """What is asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--record", action="store_true", help=f"write the figures to {RESULTS.name}/")
    parser.add_argument("--family", choices=FAMILIES.names(), default="sd15", help="which family (default: sd15)")
    parser.add_argument("--real", action="store_true", help="a base of the published size")
    parser.add_argument("--device", default="cpu", help="torch device (default: cpu)")
    parser.add_argument("--side", type=int, default=128, help="pixels (default: 128)")
    parser.add_argument("--batch", type=int, default=1, help="pictures a step (default: 1)")
    parser.add_argument("--rounds", type=int, default=5, help="turns of each loop (default: 5)")
    parser.add_argument("--steps", type=int, default=40, help="steps a turn (default: 40)")
    parser.add_argument("--compile", action="store_true", help="measure with compiled blocks too")
    return parser.parse_args()


# ------------------------------------------------------------------------------------------------------ what is told


def told_of_all(
    subject: Subject, arguments: argparse.Namespace, found: Mapping[str, tuple[Figures, Figures]]
) -> dict[str, Any]:
    """The figures of both loops, ours first, for each way that they were measured in, and on what."""
    device = subject.device
    on_gpu = device.type == "cuda"
    operations = found["plain"][0].operations
    rate = matrix_rate(device) if on_gpu else None
    return {
        "machine": machine("torch", "diffusers", "peft", "accelerate")
        | ({"device": torch.cuda.get_device_name(device)} if on_gpu else {}),
        "family": subject.family,
        **told_of_base(subject.family, real=arguments.real),
        "side": subject.side,
        "batch": arguments.batch,
        "rank": RANK,
        "operations_a_step": operations,
        "matrix_operations_a_second": rate,
    } | {
        how: {
            "ours": told(ours, operations, rate),
            "plain_loop": told(theirs, operations, rate),
            **compared(ours, theirs, in_turns=not on_gpu),
        }
        for how, (ours, theirs) in found.items()
    }


def told_of_base(family: str, *, real: bool) -> dict[str, Any]:
    """Whether the base has its published size, and in what it has not."""
    return {"shape": "real", "reduced": REDUCED.get(family, {})} if real else {"shape": "small"}


def show(figures: Mapping[str, Any], how: str) -> None:
    """Print both loops' figures for one way."""
    on = figures["machine"].get("device", "CPU")
    print(f"{figures['family']}, {figures['shape']}, at {figures['side']}, batch {figures['batch']}, {on}, {how}:")
    for loop_name in ("ours", "plain_loop"):
        print("  " + line(loop_name, figures[how][loop_name]))
    print(f"  ours over the plain loop: {figures[how]['ratio']:.2f} times the steps a second (bar {BAR})")


def compared(ours: Figures, theirs: Figures, *, in_turns: bool) -> dict[str, float]:
    """How many times the steps a second ours takes; the median of the turns' own, where each was beside another."""
    if not in_turns:
        return {"ratio": theirs.seconds_a_step() / ours.seconds_a_step()}
    ratios = [their / our for our, their in zip(ours.turns(), theirs.turns(), strict=True)]
    return {"ratio": statistics.median(ratios), "least_ratio": min(ratios), "most_ratio": max(ratios)}


def told(figures: Figures, operations: int, rate: float | None) -> dict[str, Any]:
    """What is told of a loop."""
    seconds = figures.seconds_a_step()
    return {
        "steps_a_second": 1 / seconds,
        "median_step_seconds": statistics.median(figures.steps),
        "turns": len(figures.steps),
        "seconds_before": figures.before,
        "peak_bytes": figures.peak_bytes or None,
        "utilisation": operations / statistics.median(figures.steps) / rate if rate else None,
    }


def line(name: str, found: dict[str, Any]) -> str:
    """One loop's figures in words."""
    words = f"{name:<11} {found['steps_a_second']:7.2f} steps/s   before {found['seconds_before']:6.2f} s"
    if found["peak_bytes"]:
        words += f"   peak {found['peak_bytes'] / 2**30:5.2f} GiB"
    if found["utilisation"]:
        words += f"   utilisation {found['utilisation']:.1%}"
    return words


# ------------------------------------------------------------------------------------------------ bases and pictures


def make_subject(folder: Path, arguments: argparse.Namespace) -> Subject:
    """A base, pictures, and a run with the settings of both loops."""
    family, device = arguments.family, torch.device(arguments.device)
    small = BUNDLED_PATH if family == "sd15" else TINY_BASES.load(family).build(folder / "small")
    made = itertools.count()

    def real() -> Any:
        return real_parts(family, folder / f"real-{next(made)}", device)

    def bundled() -> Any:
        pipeline: Any = load_family(family).pipeline.load(small, device)
        return pipeline.parts

    settings: dict[str, Any] = {
        "train_batch_size": arguments.batch,
        "lora_r": RANK,
        "lora_alpha": RANK,
        "learning_rate": RATE,
        "instance_prompt": PROMPT,
    }
    run = make_run(folder / "run", small, pictures=0, **settings)
    training = replace(
        read_spec(run).training,
        pictures=draw_pictures(run.images, arguments.side),
        preparation=Preparation(width=arguments.side, height=arguments.side),
    )
    change_spec(run, training=training)
    return Subject(
        family=family,
        parts=real if arguments.real else bundled,
        run=run,
        device=device,
        side=arguments.side,
    )


def draw_pictures(folder: Path, side: int) -> tuple[Picture, ...]:
    """Pictures of noise, a half larger than they are trained at."""
    random = np.random.default_rng(1)
    names = [f"{index}.png" for index in range(PICTURES)]
    for name in names:
        pixels = random.integers(0, 256, (side * 3 // 2, side * 3 // 2, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / name)
    return tuple(Picture(name, sha256_hex((folder / name).read_bytes())) for name in names)


# --------------------------------------------------------------------------------------------------------- measuring


def measure(subject: Subject, arguments: argparse.Namespace, *, compiled: bool) -> tuple[Figures, Figures]:
    """Ours and the plain loop; in turns on a CPU, whose speed changes, one after the other where memory is measured."""
    loops = [
        partial(begin, subject, arguments.batch, arguments.steps, compiled=compiled) for begin in (our_loop, plain_loop)
    ]
    if subject.device.type == "cpu":
        rounds = zip(*(itertools.islice(begin(), arguments.rounds) for begin in loops), strict=True)
        *_, (ours, theirs) = rounds
        return ours, theirs
    ours, theirs = (alone(begin, arguments.rounds, subject.device) for begin in loops)
    return ours, theirs


def alone(begin: Callable[[], Iterator[Figures]], rounds: int, device: torch.device) -> Figures:
    """A loop with the device to itself, and the most memory that it took."""
    gc.collect()
    synchronise(device)
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats(device)
    *_, figures = itertools.islice(begin(), rounds)
    figures.peak_bytes = torch.cuda.max_memory_allocated(device)
    return figures


def our_loop(subject: Subject, batch: int, steps: int, *, compiled: bool) -> Iterator[Figures]:
    """The trainer's own loop, a turn at a time."""
    figures = Figures([])
    device, run, family = subject.device, subject.run, load_family(subject.family)
    pipeline = subject.pipeline()
    settings = read_spec(run).training.settings
    use_device(device)
    with Reporter(run.events) as reporter:
        began = time.perf_counter()
        examples = encode(pipeline, subject, reporter)
        synchronise(device)
        figures.before = time.perf_counter() - began
        state = fresh_state(family, pipeline, run, Randomness(settings.seed, PICTURES, 0, device))
        objective = family.objective(pipeline, settings)
        step_pass = loop.build_pass(objective, state, graphed=device.type == "cuda")
        figures.operations = count_operations(examples, objective, batch, device)
        state.optimizer.zero_grad()
        evaluation = Evaluation(examples, objective, (), settings.seed, device)
        meter = PeakMeter(device)

        def attempt(until: int) -> Attempt:
            training = read_spec(run).training
            changed = replace(training, settings=replace(settings, max_train_steps=until))
            change_spec(run, training=changed, checkpoint_every=10**9)
            return Attempt(run, read_spec(run), Supervision(run), reporter)

        def train(count: int) -> None:
            until = attempt(state.step + count)
            # The plain loop does not, and takes turns with this one.
            use_device(device)
            loop.train(
                until,
                state,
                examples,
                objective,
                step_pass,
                KeepsNothing(until, evaluation, {}, no_picture, nothing),
                meter,
                micro_batch=batch,
            )
            synchronise(device)

        began = time.perf_counter()
        Keeper(attempt(1), evaluation, {}, no_picture, nothing).keep_beginning(state)
        synchronise(device)
        figures.before += time.perf_counter() - began
        if compiled:
            denoiser: Any = pipeline
            denoiser.denoiser.compile_repeated_blocks()
        train(WARM_UP)
        while True:
            began = time.perf_counter()
            train(steps)
            figures.steps.append((time.perf_counter() - began) / steps)
            yield figures


class KeepsNothing(Keeper):
    """Takes no checkpoints: the plain loop takes none in so few steps either. What is measured before the first step
    has been measured already.
    """

    def keep_beginning(self, state: TrainingState) -> None:
        """See `Keeper.keep_beginning`."""

    def trouble(self, state: TrainingState) -> str | None:
        """See `Keeper.trouble`; it is asked once a checkpoint."""

    def keep(self, state: TrainingState) -> None:
        """See `Keeper.keep`."""


def nothing() -> None:
    """Nothing has been put aside."""


def no_picture(_sample: SampleSpec, _on_step: OnStep) -> Image.Image:
    """Nothing is drawn."""
    raise NotImplementedError


def fresh_state(family: Family, pipeline: Pipeline, run: RunDirectory, randomness: Randomness) -> Any:
    """An untrained LoRA with its optimiser."""
    adapters, settings = family.adapters(pipeline), read_spec(run).training.settings
    adapters.attach(settings)
    return loop.fresh_state(adapters, settings, randomness)


def encode(pipeline: Pipeline, subject: Subject, reporter: Reporter) -> EncodedExamples:
    """What the trainer does before its first step, as for pictures that it has never seen."""
    shutil.rmtree(subject.run.cache, ignore_errors=True)
    attempt = Attempt(subject.run, read_spec(subject.run), Supervision(subject.run), reporter)
    store = open_store(attempt, subject.device)
    examples = prepare(attempt, store, before_each=nothing)
    return EncodedExamples.encode(
        pipeline, examples, train_text_encoder=False, before_each=nothing, store=store, bring=all_there
    )


def opened(path: Path, side: int) -> Image.Image:
    """A picture as it is trained on."""
    with Image.open(path) as picture:
        return picture.convert("RGB").resize((side, side), Image.Resampling.LANCZOS)


def synchronise(device: torch.device) -> None:
    """Wait for what a device still has to do."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


# ---------------------------------------------------------------------------------------------------- the plain loop


def plain_loop(subject: Subject, batch: int, steps: int, *, compiled: bool) -> Iterator[Figures]:
    """What the family's example does, a turn at a time."""
    figures = Figures([])
    paths = [subject.run.images / picture.name for picture in read_spec(subject.run).training.pictures]
    pictures = Pictures(paths, PROMPT, partial(opened, side=subject.side))
    parts = subject.parts()
    plain = PLAIN_LOOPS[subject.family](
        parts, pictures, subject.device, targets=targets(subject.family, parts), rank=RANK, rate=RATE
    )
    source = plain.prepare(pictures, batch)
    figures.before = plain.before
    if compiled:
        plain.denoiser.compile_repeated_blocks()
    torch.use_deterministic_algorithms(False)
    for pixels, prompts in itertools.islice(source, WARM_UP):
        plain.step(pixels, prompts)
    synchronise(subject.device)
    while True:
        torch.use_deterministic_algorithms(False)
        began = time.perf_counter()
        for pixels, prompts in itertools.islice(source, steps):
            plain.step(pixels, prompts)
        synchronise(subject.device)
        figures.steps.append((time.perf_counter() - began) / steps)
        yield figures


def targets(family: str, parts: Any) -> list[str]:
    """The ends of the names of the layers that both loops put a LoRA on."""
    make: Any = load_family(family).pipeline
    adapters: Any = load_family(family).adapters(make(parts))
    denoiser = next(iter(load_spec(family).keys))
    return list(adapters.components[denoiser].targets)


# -------------------------------------------------------------------------------------------------------- operations


def count_operations(examples: EncodedExamples, objective: Objective, batch: int, device: torch.device) -> int:
    """Of one step's forward and backward pass, as their shapes say."""
    (shown,) = examples.show(range(batch), objective, torch.Generator().manual_seed(1))
    counter = FlopCounterMode(display=False)
    with counter:
        loop.forward_backward(objective, *examples.batch(shown, device), torch.ones(batch, device=device))
    return counter.get_total_flops()


def matrix_rate(device: torch.device, size: int = 8192, rounds: int = 20) -> float:
    """Operations a second of a product of two random bfloat16 matrices, the median of some."""
    one, other = (torch.randn(size, size, device=device, dtype=torch.bfloat16) for _ in range(2))
    seconds = list[float]()
    for _ in range(rounds + WARM_UP):
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        start.record()
        torch.mm(one, other)
        end.record()
        torch.cuda.synchronize(device)
        seconds.append(start.elapsed_time(end) / 1000)
    return 2 * size**3 / statistics.median(seconds[WARM_UP:])


if __name__ == "__main__":
    sys.exit(main())
