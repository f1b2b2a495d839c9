"""What does it cost to swap one LoRA for another, in time and in memory? Ours beside diffusers' own, in one run.

    python benchmarks/swap.py

On a pipeline with SD 1.5's denoiser and text encoder in their real sizes, of random weights, and LoRAs of rank 16 on
the denoiser's attention. Two figures, each with a bar; the exit status says whether both were met:

- How much longer a swap between two kept LoRAs and one denoising step take than the step alone.
- The peak of resident memory after 200 swaps among 20 LoRAs, of which half are kept at a time, over that after 20.

Steps are taken in turns with and without a swap, so that whatever else runs on the machine slows both.
"""

import argparse
import json
import random
import statistics
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import diffusers
import torch
from diffusers import StableDiffusionPipeline

from machine import machine
from maquette.core.drawing import DrawRequest
from maquette.families.lora import LoadedLora, shapes
from maquette.families.lora_file import METADATA
from maquette.families.sd15.adapters import Sd15Adapters
from maquette.families.sd15.pipeline import Sd15Pipeline
from maquette.inference.adapters import LoraStore
from maquette.testing.tiny_family import build_tiny_base
from maquette.trainer.tensors import write_tensors
from real_sizes import sd15_text_encoder, sd15_unet

RANK = 16
ATTENTION = ("to_q", "to_k", "to_v", "to_out.0")
LORAS = 20
FIRST_SWAPS = 20
DRAW_EVERY = 10
"""Swaps to one step, where memory is measured; a step takes much longer."""
TIME_BAR = 30.0
"""Milliseconds."""
MEMORY_BAR = 1.02
REQUEST = DrawRequest(prompt="a photo of ohwx", width=32, height=32, steps=1, guidance_scale=1.0, seed=1)
RESULT = Path(__file__).parent / "results" / "swap.json"


def main() -> int:
    """Measure, print, and write the figures where asked to; 0 if both bars were met."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--record", action="store_true", help=f"write the figures to {RESULT.parent.name}/")
    parser.add_argument("--small", action="store_true", help="a tiny pipeline, to see that this works")
    parser.add_argument("--rounds", type=int, default=15, help="steps with a swap, and as many without (default: 15)")
    parser.add_argument("--swaps", type=int, default=200, help="swaps until memory is compared (default: 200)")
    arguments = parser.parse_args()
    # It lists each weight of every file it loads beside another.
    diffusers.utils.logging.set_verbosity_error()
    with tempfile.TemporaryDirectory() as folder:
        figures = measure(Path(folder), small=arguments.small, rounds=arguments.rounds, swaps=arguments.swaps)
    if arguments.record:
        RESULT.write_text(json.dumps(figures, indent=2) + "\n")
    ours, theirs = figures["ours"], figures["diffusers"]
    print(f"a step alone                          {ours['step_ms']:8.1f} ms")
    print(f"the swap itself                       {ours['swap_ms']:8.1f} ms   (slowest {ours['slowest_swap_ms']:.1f})")
    print(f"a swap and a step, over a step alone  {ours['extra_ms']:8.1f} ms   (bar {TIME_BAR:.0f})")
    print(
        f"diffusers: set_adapters, both loaded  {theirs['swap_ms']:8.1f} ms   ({theirs['swap_ratio']:.0f} times ours)"
    )
    print(
        f"diffusers: load, set_adapters, delete {theirs['load_ms']:8.1f} ms   ({theirs['load_ratio']:.0f} times ours)"
    )
    print(f"ours, reading the file                {ours['read_ms']:8.1f} ms")
    label = f"peak after {arguments.swaps} swaps, over {FIRST_SWAPS}"
    print(f"{label:<37} {figures['peak_ratio']:8.4f}      (bar {MEMORY_BAR})")
    return 0 if ours["extra_ms"] < TIME_BAR and figures["peak_ratio"] <= MEMORY_BAR else 1


def measure(folder: Path, *, small: bool, rounds: int, swaps: int) -> dict[str, Any]:
    """All figures: times in milliseconds (medians), memory in bytes."""
    pipeline = build_pipeline(folder / "base", small=small)
    adapters = Sd15Adapters(pipeline)
    paths = [write_lora(folder / f"{index:02d}.safetensors", adapters, seed=index) for index in range(LORAS)]
    pipeline.draw(REQUEST)
    first, second = (adapters.read(path) for path in paths[:2])
    ours = measure_ours(pipeline, adapters, (first, second), paths[2:7], rounds)
    peaks = measure_memory(pipeline, adapters, paths, first.size, swaps)
    adapters.activate(())
    theirs = measure_diffusers(pipeline.parts, paths[:2], rounds)
    return {
        "machine": machine("torch", "diffusers", "peft"),
        "small": small,
        "lora_bytes": first.size,
        "layers": len(first.layers),
        "ours": ours,
        "diffusers": theirs
        | {"swap_ratio": theirs["swap_ms"] / ours["swap_ms"], "load_ratio": theirs["load_ms"] / ours["swap_ms"]},
        "swaps": swaps,
        "peak_bytes_before": peaks[0],
        "peak_bytes_after_first": peaks[1],
        "peak_bytes_after_all": peaks[2],
        "peak_ratio": peaks[2] / peaks[1],
    }


def build_pipeline(folder: Path, *, small: bool) -> Sd15Pipeline:
    """A pipeline with the real parts of SD 1.5 but the autoencoder and the tokenizer, which are tiny."""
    build_tiny_base(folder)
    real: dict[str, Any] = {} if small else {"unet": sd15_unet(), "text_encoder": sd15_text_encoder()}
    return Sd15Pipeline(
        StableDiffusionPipeline.from_pretrained(str(folder), local_files_only=True, safety_checker=None, **real)
    )


def write_lora(path: Path, adapters: Sd15Adapters, seed: int) -> str:
    """A LoRA file of random weights on the denoiser's attention."""
    source = torch.Generator().manual_seed(seed)
    tensors: dict[str, torch.Tensor] = {}
    for name, layer in adapters.layers.items():
        if name.startswith("unet.") and name.endswith(ATTENTION):
            for matrix, shape in zip("AB", shapes(layer, RANK), strict=True):
                tensors[f"{name}.lora_{matrix}.weight"] = torch.randn(shape, generator=source) * 0.01
    said = {"unet.r": RANK, "unet.lora_alpha": RANK, "unet.target_modules": list(ATTENTION)}
    write_tensors(path, tensors, {METADATA: json.dumps(said)})
    return str(path)


def measure_ours(
    pipeline: Sd15Pipeline,
    adapters: Sd15Adapters,
    loras: tuple[LoadedLora, LoadedLora],
    unread: Sequence[str],
    rounds: int,
) -> dict[str, float]:
    """A swap between two LoRAs in memory and a step, beside a step with the one that acts already."""
    swaps, swapped, plain = list[float](), list[float](), list[float]()
    for index in range(rounds):
        swaps.append(milliseconds(lambda index=index: adapters.activate([(loras[index % 2], 1.0)])))
        swapped.append(swaps[-1] + milliseconds(lambda: pipeline.draw(REQUEST)))
        plain.append(milliseconds(lambda: pipeline.draw(REQUEST)))
    return {
        "rounds": rounds,
        "step_ms": statistics.median(plain),
        "swap_ms": statistics.median(swaps),
        "slowest_swap_ms": max(swaps),
        "extra_ms": statistics.median(with_swap - without for with_swap, without in zip(swapped, plain, strict=True)),
        "read_ms": statistics.median(milliseconds(lambda path=path: adapters.read(path)) for path in unread),
    }


def measure_diffusers(parts: Any, paths: Sequence[str], rounds: int) -> dict[str, float]:
    """The library's own ways to the same end."""
    for words in ("Already found a `peft_config` attribute", "Adapter c was active which is now deleted"):
        warnings.filterwarnings("ignore", message=words)
    for name, path in zip("ab", paths, strict=True):
        parts.load_lora_weights(path, adapter_name=name)
    swaps = [milliseconds(lambda index=index: parts.set_adapters(["ab"[index % 2]])) for index in range(rounds)]

    def load(path: str) -> None:
        parts.load_lora_weights(path, adapter_name="c")
        parts.set_adapters(["c"])
        parts.delete_adapters("c")

    loads = [milliseconds(lambda index=index: load(paths[index % 2])) for index in range(max(3, rounds // 3))]
    return {"swap_ms": statistics.median(swaps), "load_ms": statistics.median(loads)}


def measure_memory(
    pipeline: Sd15Pipeline, adapters: Sd15Adapters, paths: Sequence[str], size: int, swaps: int
) -> tuple[int, int, int]:
    """Peak of resident memory before any swap, after the first twenty, and after all, in bytes.

    The first swaps go through every LoRA once; the others are drawn by lot.
    """
    store, lots = LoraStore(size * len(paths) // 2), random.Random(1)
    order = [*paths, *(lots.choice(paths) for _ in range(swaps - len(paths)))]
    forget_peak()
    peaks = [peak_bytes()]
    for index, path in enumerate(order, start=1):
        adapters.activate(())
        adapters.activate([(store.use([path], adapters.read)[path], 1.0)])
        if index % DRAW_EVERY == 0:
            pipeline.draw(REQUEST)
        if index in {FIRST_SWAPS, swaps}:
            peaks.append(peak_bytes())
    before, first, last = peaks
    return before, first, last


def milliseconds(act: Callable[[], object]) -> float:
    """How long something takes."""
    began = time.perf_counter()
    act()
    return (time.perf_counter() - began) * 1000


def forget_peak() -> None:
    """Let the kernel count the peak anew: building the pipeline took more than drawing does."""
    Path("/proc/self/clear_refs").write_text("5")


def peak_bytes() -> int:
    """Peak of resident memory, as Linux tells it."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM:")) * 1024


if __name__ == "__main__":
    sys.exit(main())
