"""How fast does the trainer train, beside the plain loop that people write with diffusers and accelerate?

    python benchmarks/train_loop.py

Both loops train a LoRA of the same rank on the same layers of the same base, on the same pictures, in the same
precision, on the same device, in one run and in turns. The plain loop is written in the manner of diffusers'
DreamBooth LoRA example: each step opens pictures, encodes them and their prompts, and takes an optimiser step. Ours
is the trainer's own `train`; what it caches before is counted in, spread over 500 steps.

On a CPU the base is the bundled one; with `--shape sd15` it is SD 1.5 in its real size, of random weights. `--compile`
measures both loops with the compiled denoiser too. Utilisation is of the rate at which the device multiplies two large
bfloat16 matrices, measured in the same run.
"""

import argparse
import gc
import itertools
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import diffusers
import numpy as np
import torch
from accelerate import Accelerator
from diffusers import DDPMScheduler, StableDiffusionPipeline
from diffusers.optimization import get_scheduler
from diffusers.training_utils import cast_training_params
from msgspec.structs import replace
from peft import LoraConfig
from PIL import Image
from torch.nn.functional import mse_loss
from torch.utils.data import DataLoader, Dataset
from torch.utils.flop_counter import FlopCounterMode

from machine import machine
from maquette.bases.catalogue import BUNDLED_PATH
from maquette.core.rundir import RunDirectory
from maquette.core.specs import SampleSpec
from maquette.families.base import Family, Pipeline, load_family
from maquette.families.precision import working
from maquette.families.sd15.adapters import UNET_TARGETS
from maquette.testing.runs import change_spec, make_run, read_spec
from maquette.testing.tiny_family import build_tiny_base
from maquette.trainer import loop
from maquette.trainer.attempt import Attempt
from maquette.trainer.cache import EncodedExamples
from maquette.trainer.checkpoint import TrainingState
from maquette.trainer.data import Example, to_pixels
from maquette.trainer.evaluation import Evaluation
from maquette.trainer.keeping import Keeper
from maquette.trainer.memory import PeakMeter
from maquette.trainer.randomness import Randomness
from maquette.trainer.reporter import Reporter
from maquette.trainer.supervision import Supervision
from real_sizes import sd15_text_encoder, sd15_unet, sd15_vae

FAMILY = "sd15"
RANK = 16
PICTURES = 8
PROMPT = "a photo of ohwx creature"
COUNTED_STEPS = 500
"""Over so many steps the time of caching is spread."""
BAR = 1.3
RATE = 1e-4
WARM_UP = 3
RESULTS = Path(__file__).parent / "results"


@dataclass
class Figures:
    """One loop's figures: seconds of each step, of what comes before the first, bytes at most, and operations."""

    steps: list[float]
    before: float = 0.0
    peak_bytes: int = 0

    def seconds_a_step(self) -> float:
        """Median, with its share of what comes before."""
        return statistics.median(self.steps) + self.before / COUNTED_STEPS


def main() -> int:
    """Measure, print, and write the figures where asked to; 0 if the bar was met, or where it does not hold."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--record", action="store_true", help=f"write the figures to {RESULTS.name}/")
    parser.add_argument("--shape", choices=("bundled", "sd15"), default="bundled", help="which base (default: bundled)")
    parser.add_argument("--device", default="cpu", help="torch device (default: cpu)")
    parser.add_argument("--side", type=int, default=128, help="pixels (default: 128)")
    parser.add_argument("--batch", type=int, default=1, help="pictures a step (default: 1)")
    parser.add_argument("--rounds", type=int, default=5, help="turns of each loop (default: 5)")
    parser.add_argument("--steps", type=int, default=40, help="steps a turn (default: 40)")
    parser.add_argument("--compile", action="store_true", help="measure with the compiled denoiser too")
    arguments = parser.parse_args()
    diffusers.utils.logging.set_verbosity_error()
    device = torch.device(arguments.device)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        base = BUNDLED_PATH if arguments.shape == "bundled" else build_sd15(folder / "base")
        pictures = draw_pictures(folder / "pictures", arguments.side)
        found = {
            compiled: measure(base, pictures, folder, device, arguments, compiled=compiled == "compiled")
            for compiled in ("plain", *(["compiled"] if arguments.compile else []))
        }
        operations = count_operations(base, device, arguments.side, arguments.batch)
    rate = matrix_rate(device) if device.type == "cuda" else None
    figures: dict[str, Any] = {
        "machine": machine("torch", "diffusers", "peft", "accelerate")
        | ({"device": torch.cuda.get_device_name(device)} if device.type == "cuda" else {}),
        "shape": arguments.shape,
        "side": arguments.side,
        "batch": arguments.batch,
        "rank": RANK,
        "operations_a_step": operations,
        "matrix_operations_a_second": rate,
    }
    for how, (ours, theirs) in found.items():
        figures[how] = {
            "ours": told(ours, operations, rate),
            "plain_loop": told(theirs, operations, rate),
            "ratio": theirs.seconds_a_step() / ours.seconds_a_step(),
        }
        print(f"{arguments.shape} at {arguments.side}, batch {arguments.batch}, {device}, {how}:")
        for loop_name in ("ours", "plain_loop"):
            print("  " + line(loop_name, figures[how][loop_name]))
        print(f"  ours over the plain loop: {figures[how]['ratio']:.2f} times the steps a second (bar {BAR})")
    if arguments.record:
        target = RESULTS / f"train_loop_{FAMILY}_{arguments.shape}_{device.type}.json"
        target.write_text(json.dumps(figures, indent=2) + "\n")
    return 0 if device.type != "cpu" or figures["plain"]["ratio"] >= BAR else 1


def told(figures: Figures, operations: int, rate: float | None) -> dict[str, Any]:
    """What is told of a loop."""
    seconds = figures.seconds_a_step()
    return {
        "steps_a_second": 1 / seconds,
        "median_step_seconds": statistics.median(figures.steps),
        "steps": len(figures.steps),
        "caching_seconds": figures.before,
        "peak_bytes": figures.peak_bytes or None,
        "utilisation": operations / statistics.median(figures.steps) / rate if rate else None,
    }


def line(name: str, found: dict[str, Any]) -> str:
    """One loop's figures in words."""
    words = f"{name:<11} {found['steps_a_second']:7.2f} steps/s   caching {found['caching_seconds']:6.2f} s"
    if found["peak_bytes"]:
        words += f"   peak {found['peak_bytes'] / 2**30:5.2f} GiB"
    if found["utilisation"]:
        words += f"   utilisation {found['utilisation']:.1%}"
    return words


# ------------------------------------------------------------------------------------------------ bases and pictures


def build_sd15(folder: Path) -> Path:
    """A base of SD 1.5's shape; tokenizer and schedule are the tiny base's."""
    tiny = folder.with_name("tiny")
    build_tiny_base(tiny)
    parts: Any = StableDiffusionPipeline.from_pretrained(
        str(tiny),
        local_files_only=True,
        safety_checker=None,
        unet=sd15_unet(),
        text_encoder=sd15_text_encoder(),
        vae=sd15_vae(),
    )
    parts.save_pretrained(str(folder))
    return folder


def draw_pictures(folder: Path, side: int) -> list[Path]:
    """Pictures of noise, a half larger than they are trained at."""
    folder.mkdir()
    random = np.random.default_rng(1)
    paths = [folder / f"{index}.png" for index in range(PICTURES)]
    for path in paths:
        pixels = random.integers(0, 256, (side * 3 // 2, side * 3 // 2, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(path)
    return paths


# --------------------------------------------------------------------------------------------------------- measuring


def measure(
    base: Path, pictures: Sequence[Path], folder: Path, device: torch.device, arguments: Any, *, compiled: bool
) -> tuple[Figures, Figures]:
    """Ours and the plain loop; in turns on a CPU, whose speed changes, one after the other where memory is measured."""
    run = make_run(
        folder / f"run-{compiled}",
        base,
        train_batch_size=arguments.batch,
        lora_r=RANK,
        lora_alpha=RANK,
        learning_rate=RATE,
        instance_prompt=PROMPT,
    )
    loops = [
        lambda: our_loop(run, base, pictures, device, arguments.side, arguments.steps, compiled=compiled),
        lambda: plain_loop(base, pictures, device, arguments.side, arguments.batch, arguments.steps, compiled=compiled),
    ]
    if device.type == "cpu":
        rounds = zip(*(itertools.islice(begin(), arguments.rounds) for begin in loops), strict=True)
        *_, (ours, theirs) = rounds
        return ours, theirs
    return alone(loops[0], arguments.rounds, device), alone(loops[1], arguments.rounds, device)


def alone(begin: Callable[[], Iterator[Figures]], rounds: int, device: torch.device) -> Figures:
    """A loop with the device to itself, and the most memory that it took."""
    gc.collect()
    synchronise(device)
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats(device)
    *_, figures = itertools.islice(begin(), rounds)
    figures.peak_bytes = torch.cuda.max_memory_allocated(device)
    return figures


def our_loop(
    run: RunDirectory,
    base: Path,
    pictures: Sequence[Path],
    device: torch.device,
    side: int,
    steps: int,
    *,
    compiled: bool,
) -> Iterator[Figures]:
    """The trainer's own loop, a turn at a time."""
    figures = Figures([])
    family = load_family(FAMILY)
    pipeline = family.pipeline.load(base, device)
    began = time.perf_counter()
    examples = encode(pipeline, pictures, side)
    synchronise(device)
    figures.before = time.perf_counter() - began
    settings = read_spec(run).training.settings
    randomness = Randomness(settings.seed, PICTURES, 0, device)
    state = fresh_state(family, pipeline, run, randomness)
    objective = family.objective(pipeline, settings)
    if compiled:
        denoiser: Any = pipeline
        denoiser.unet.compile()
    evaluation = Evaluation(examples, objective, (), settings.seed, device)
    meter = PeakMeter(device)
    with Reporter(run.events) as reporter:

        def train(count: int) -> None:
            spec = read_spec(run)
            training = replace(spec.training, settings=replace(settings, max_train_steps=state.step + count))
            change_spec(run, training=training, checkpoint_every=10**9)
            attempt = Attempt(run, read_spec(run), Supervision(run), reporter)
            keeper = KeepsNothing(attempt, evaluation, {}, no_picture)
            loop.train(attempt, state, examples, objective, keeper, meter, micro_batch=settings.train_batch_size)
            synchronise(device)

        train(WARM_UP)
        while True:
            began = time.perf_counter()
            train(steps)
            figures.steps.append((time.perf_counter() - began) / steps)
            yield figures


class KeepsNothing(Keeper):
    """Takes no checkpoints: the plain loop takes none in so few steps either."""

    def keep_beginning(self, state: TrainingState) -> None:
        """See `Keeper.keep_beginning`."""

    def keep(self, state: TrainingState) -> None:
        """See `Keeper.keep`."""


def no_picture(_: SampleSpec) -> Image.Image:
    """Nothing is drawn."""
    raise NotImplementedError


def fresh_state(family: Family, pipeline: Pipeline, run: RunDirectory, randomness: Randomness) -> Any:
    """An untrained LoRA with its optimiser."""
    adapters, settings = family.adapters(pipeline), read_spec(run).training.settings
    adapters.attach(settings)
    return loop.fresh_state(adapters, settings, randomness)


def encode(pipeline: Pipeline, pictures: Sequence[Path], side: int) -> EncodedExamples:
    """What the trainer caches."""
    examples = [Example(partial(opened, path, side), (PROMPT,)) for path in pictures]
    return EncodedExamples.encode(pipeline, examples, train_text_encoder=False, between=lambda: None)


def opened(path: Path, side: int) -> Image.Image:
    """A picture as it is trained on."""
    with Image.open(path) as picture:
        return picture.convert("RGB").resize((side, side), Image.Resampling.LANCZOS)


def synchronise(device: torch.device) -> None:
    """Wait for what a device still has to do."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


# ---------------------------------------------------------------------------------------------------- the plain loop


class PictureDataset(Dataset[tuple[torch.Tensor, str]]):
    """Pictures and their prompt, opened anew each time."""

    def __init__(self, paths: Sequence[Path], side: int) -> None:
        self.paths, self.side = paths, side

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int) -> tuple[torch.Tensor, str]:
        return to_pixels(opened(self.paths[index], self.side)), PROMPT


def plain_loop(
    base: Path, pictures: Sequence[Path], device: torch.device, side: int, batch: int, steps: int, *, compiled: bool
) -> Iterator[Figures]:
    """What the example does, a turn at a time."""
    figures = Figures([])
    accelerator = Accelerator(cpu=device.type == "cpu", mixed_precision="bf16" if device.type == "cuda" else "no")
    dtype = torch.bfloat16 if device.type == "cuda" else torch.float32
    parts: Any = StableDiffusionPipeline.from_pretrained(str(base), local_files_only=True, safety_checker=None)
    for part in (parts.unet, parts.vae, parts.text_encoder):
        part.requires_grad_(False).to(accelerator.device, dtype=dtype)
    noise_scheduler: Any = DDPMScheduler.from_config(parts.scheduler.config)
    parts.unet.add_adapter(
        LoraConfig(r=RANK, lora_alpha=RANK, target_modules=list(UNET_TARGETS), init_lora_weights="gaussian")
    )
    cast_training_params(parts.unet, torch.float32)
    trained = [weight for weight in parts.unet.parameters() if weight.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=RATE, weight_decay=1e-2)
    data: Any = DataLoader(PictureDataset(pictures, side), batch_size=batch, shuffle=True)
    schedule = get_scheduler("constant", optimizer=optimizer)
    unet, optimizer, data, schedule = accelerator.prepare(parts.unet, optimizer, data, schedule)
    if compiled:
        parts.unet.compile()

    def batches() -> Iterator[tuple[torch.Tensor, Sequence[str]]]:
        while True:
            yield from data

    def step(pixels: torch.Tensor, prompts: Sequence[str]) -> None:
        with accelerator.accumulate(unet):
            latents = parts.vae.encode(pixels.to(accelerator.device, dtype)).latent_dist.sample()
            latents = latents * parts.vae.config.scaling_factor
            noise = torch.randn_like(latents)
            timesteps = torch.randint(
                0, noise_scheduler.config.num_train_timesteps, (len(latents),), device=latents.device
            )
            noisy = noise_scheduler.add_noise(latents, noise, timesteps)
            tokens = parts.tokenizer(
                list(prompts), padding="max_length", truncation=True, max_length=77, return_tensors="pt"
            )
            embeds = parts.text_encoder(tokens.input_ids.to(accelerator.device), return_dict=False)[0]
            predicted = unet(noisy, timesteps, embeds, return_dict=False)[0]
            is_noise = noise_scheduler.config.prediction_type == "epsilon"
            target = noise if is_noise else noise_scheduler.get_velocity(latents, noise, timesteps)
            loss = mse_loss(predicted.float(), target.float())
            accelerator.backward(loss)
            accelerator.clip_grad_norm_(trained, 1.0)
            optimizer.step()
            schedule.step()
            optimizer.zero_grad()
        loss.detach().item()

    torch.use_deterministic_algorithms(False)
    source = batches()
    for pixels, prompts in itertools.islice(source, WARM_UP):
        step(pixels, prompts)
    synchronise(device)
    while True:
        began = time.perf_counter()
        for pixels, prompts in itertools.islice(source, steps):
            step(pixels, prompts)
        synchronise(device)
        figures.steps.append((time.perf_counter() - began) / steps)
        yield figures


# -------------------------------------------------------------------------------------------------------- operations


def count_operations(base: Path, device: torch.device, side: int, batch: int) -> int:
    """Floating-point operations of one step's forward and backward pass through the denoiser, as its shapes say."""
    pipeline: Any = load_family(FAMILY).pipeline.load(base, device)
    unet = pipeline.unet
    unet.add_adapter(LoraConfig(r=RANK, lora_alpha=RANK, target_modules=list(UNET_TARGETS)))
    latents = torch.randn(batch, unet.config.in_channels, side // 8, side // 8, device=device)
    embeds = torch.randn(batch, 77, unet.config.cross_attention_dim, device=device)
    counter = FlopCounterMode(display=False)
    with counter:
        with working(device):
            said = unet(latents, torch.ones(batch, device=device), embeds, return_dict=False)[0]
        said.float().square().mean().backward()
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
