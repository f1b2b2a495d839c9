"""How much memory training takes, and how a run that would take too much is made leaner. Torch-free.

The family's model and the base's own size decide before anything is loaded; a run then tells what it really took.
"""

from collections.abc import Iterator, Sequence
from math import prod, sqrt
from pathlib import Path

from msgspec import Struct

from maquette.core.basefolder import WEIGHTS
from maquette.core.specs import Optimizer, TrainingSpec
from maquette.core.weights import read_header

GIB = 1 << 30
FLOAT32 = 4
"""Bytes of a number. LoRAs, their gradients and an optimiser's moments are kept in it everywhere."""
USABLE = 0.9
"""Of what is free: the rest is for what the model does not know of, and for a device's own bookkeeping."""
LEANER = 0.75
"""Share of a plan's memory that the one after it may take at most, where there is such a one. Estimates are off by a
tenth; a plan that saves as little, as one that moves a small autoencoder away, runs out of memory like the one before.
"""
LIBRARIES = 96 << 20
"""Bytes of the host that libraries take where it computes: code of their kernels, and buffers. With one picture of 64
to 256 pixels at once, the bundled base took 70 to 160 million more than its numbers."""
MOST_PIXELS = 1024 * 1024
"""Largest picture that goes through an autoencoder as a whole; what is larger goes in tiles of at most that.

No setting: in tiles a picture comes out a little different, and a trainer's sample must be the worker's.
"""
DECODED = 770
"""Numbers alive at once while an autoencoder decodes, for each pixel, as `benchmarks/kept_numbers.py` counts them;
encoding takes fewer. All published autoencoders have one shape."""
MOMENTS = {Optimizer.ADAMW: 2, Optimizer.PRODIGY: 4}
"""Numbers that an optimiser keeps for each weight."""


class NothingLeaner(Exception):
    """A run is to be planned leaner than the leanest plan; the message says what that takes of what is free."""


class PartModel(Struct, frozen=True):
    """A part of a base: the folders it lies in, and how many parameters the published one has."""

    components: tuple[str, ...]
    parameters: int


NO_PART = PartModel((), 0)
"""Of bases that have none of a kind."""


class Sizes(Struct, frozen=True):
    """Parameters of a base's parts."""

    denoiser: int
    trained_encoders: int
    frozen_encoders: int
    autoencoder: int

    @property
    def text_encoders(self) -> int:
        """Of both kinds."""
        return self.trained_encoders + self.frozen_encoders


class MemoryModel(Struct, frozen=True, kw_only=True):
    """What training on a family's published bases takes.

    Attributes:
        denoiser, autoencoder: parts that every base has.
        trained_encoders, frozen_encoders: the text encoders that a LoRA may be put on, and those that only read.
        lora_per_rank, text_encoder_lora_per_rank: parameters of a LoRA of rank 1.
        activations: numbers kept for the backward pass, for each pixel of each picture that is shown at once.
        recomputed: the same with gradient checkpointing (Chen et al. 2016, arXiv:1604.06174).
        text_encoder_activations: numbers kept for each prompt that is read at once, where the text encoders train. They
            are never computed again: beside a denoiser's they are few.
    """

    denoiser: PartModel
    autoencoder: PartModel
    trained_encoders: PartModel = NO_PART
    frozen_encoders: PartModel = NO_PART
    lora_per_rank: int
    activations: int
    recomputed: int
    text_encoder_lora_per_rank: int = 0
    text_encoder_activations: int = 0

    @property
    def parts(self) -> tuple[PartModel, ...]:
        """In the order of `Sizes`."""
        return self.denoiser, self.trained_encoders, self.frozen_encoders, self.autoencoder

    @property
    def published_sizes(self) -> Sizes:
        """Of the published bases."""
        return Sizes(*(part.parameters for part in self.parts))


class MemoryPlan(Struct, frozen=True, kw_only=True):
    """How a run is laid out.

    Attributes:
        cuda_graphs: whether a step's passes are captured as CUDA graphs and replayed: much faster where batches are
            small. The activations of a graph stay its own, beside those of others, as of a sample that is drawn.
        together: whether all parts of the base stay on the device; else those that are not at work wait in the host's
            memory.
        gradient_checkpointing: whether activations are computed again in the backward pass instead of kept; a third
            slower, the same numbers.
        micro_batch: rows shown at once; a step adds up the gradients of as many as its batch needs.
        needed: bytes that it should take.
    """

    cuda_graphs: bool
    together: bool
    gradient_checkpointing: bool
    micro_batch: int
    needed: int


class Layout(Struct, frozen=True, kw_only=True):
    """What a plan is made for.

    Attributes:
        rows: of a step's batch, class pictures included.
        pixels: of a picture that is trained on.
        drawn_pixels: of the largest picture that is drawn.
        weight_bytes: of a number of the denoiser and the text encoders.
        on_host: whether the device's memory is the host's, so that moving a part away frees nothing.
        graphs: whether the device has CUDA graphs.
    """

    spec: TrainingSpec
    model: MemoryModel
    sizes: Sizes
    rows: int
    pixels: int
    drawn_pixels: int
    weight_bytes: int
    on_host: bool
    graphs: bool


def layout_of(
    spec: TrainingSpec, model: MemoryModel, sizes: Sizes, *, weight_bytes: int, on_host: bool, graphs: bool
) -> Layout:
    """What a run of this spec asks for."""
    settings, preparation = spec.settings, spec.preparation
    return Layout(
        spec=spec,
        model=model,
        sizes=sizes,
        rows=settings.train_batch_size * (2 if settings.with_prior_preservation else 1),
        pixels=preparation.width * preparation.height,
        drawn_pixels=max(sample.width * sample.height for sample in (spec.sample, *spec.checkpoint_samples)),
        weight_bytes=weight_bytes,
        on_host=on_host,
        graphs=graphs,
    )


def choose(layout: Layout, free: int, *, leaner: int = 0) -> MemoryPlan:
    """The first plan, from the fastest to the leanest, that fits into `free` bytes; the leanest where none does.

    Args:
        leaner: how many runs of this task have run out of memory. Each leads to the first plan that takes at most
            `LEANER` of its own, or to the leanest where none does.

    Raises:
        NothingLeaner: one of them had the leanest.
    """
    ladder = list(plans(layout))
    left = [plan for plan in ladder if fits(plan, free)] or ladder[-1:]
    for _ in range(leaner):
        failed, *after = left
        if not after:
            raise NothingLeaner(f"the leanest plan takes {share(failed, free)}")
        left = [plan for plan in after if plan.needed <= LEANER * failed.needed] or after[-1:]
    return left[0]


def fits(plan: MemoryPlan, free: int) -> bool:
    """Whether a plan takes no more of what is free than may be counted on."""
    return plan.needed <= USABLE * free


def share(plan: MemoryPlan, free: int) -> str:
    """What a plan takes of what is free, in words."""
    return f"about {plan.needed / GIB:.2f} GiB of the {free / GIB:.2f} GiB that are free"


def plans(layout: Layout) -> Iterator[MemoryPlan]:
    """Every plan for a run, each leaner than the one before, and slower."""
    rows = layout.rows
    if layout.graphs:
        yield _plan(layout, rows, together=True, cuda_graphs=True)
    yield _plan(layout, rows, together=True)
    if layout.graphs:
        yield _plan(layout, rows, together=True, cuda_graphs=True, recompute=True)
    elif not layout.on_host:
        yield _plan(layout, rows, together=False)
    yield _plan(layout, rows, together=layout.on_host, recompute=True)
    while rows > 1:
        rows = -(-rows // 2)
        yield _plan(layout, rows, together=layout.on_host, recompute=True)


def measure_sizes(base: Path, model: MemoryModel) -> Sizes:
    """Parameters of a base's parts, from the headers of its weights.

    What lies in one file beside the parts' folders is shared out among those that have none, as in the published base.

    Raises:
        BrokenWeights: a file is no safetensors file.
    """
    found = [(part, _parameters(base, part)) for part in model.parts]
    lacking = sum(part.parameters for part, number in found if not number)
    beside = _count(sorted(base.glob(WEIGHTS)))
    return Sizes(*(number or beside * part.parameters // max(1, lacking) for part, number in found))


def _plan(
    layout: Layout, rows: int, *, together: bool, cuda_graphs: bool = False, recompute: bool = False
) -> MemoryPlan:
    activations = _activation_bytes(layout, recompute, rows)
    training = _resting_bytes(layout, together) + _lora_bytes(layout) + activations
    drawing = _drawing_bytes(layout, together)
    if cuda_graphs:
        drawing += activations
        if layout.spec.preparation.buckets:
            # The first pass of a batch of another size is no graph's.
            training += activations
    return MemoryPlan(
        cuda_graphs=cuda_graphs,
        together=together,
        gradient_checkpointing=recompute,
        micro_batch=rows,
        needed=max(training, drawing) + (LIBRARIES if layout.on_host else 0),
    )


def _resting_bytes(layout: Layout, together: bool) -> int:
    """What of the base is on the device in a step."""
    sizes = layout.sizes
    resting = sizes.denoiser * layout.weight_bytes
    if together:
        return resting + sizes.text_encoders * layout.weight_bytes + sizes.autoencoder * FLOAT32
    trains = layout.spec.settings.train_text_encoder
    return resting + (sizes.trained_encoders * layout.weight_bytes if trains else 0)


def _activation_bytes(layout: Layout, recompute: bool, rows: int) -> int:
    """What is kept for the backward pass of as many pictures."""
    model, sizes = layout.model, layout.sizes
    per_pixel = model.recomputed if recompute else model.activations
    kept = per_pixel * layout.pixels * _width(sizes.denoiser, model.denoiser)
    if layout.spec.settings.train_text_encoder:
        kept += model.text_encoder_activations * _width(sizes.trained_encoders, model.trained_encoders)
    return int(kept * rows * layout.weight_bytes)


def _lora_bytes(layout: Layout) -> int:
    """A LoRA, its gradients and the optimiser's moments."""
    model, sizes, settings = layout.model, layout.sizes, layout.spec.settings
    weights = model.lora_per_rank * settings.lora_r * _width(sizes.denoiser, model.denoiser)
    if settings.train_text_encoder:
        per_rank = model.text_encoder_lora_per_rank * _width(sizes.trained_encoders, model.trained_encoders)
        weights += per_rank * settings.lora_text_encoder_r
    return int(weights * FLOAT32 * (2 + MOMENTS[settings.optimizer]))


def _width(parameters: int, part: PartModel) -> float:
    """How wide a part's layers are beside the published ones, which are wide in proportion.

    Parameters grow with the square of the width, a LoRA's and the activations with the width itself. What no base of
    the family has is nothing wide.
    """
    return sqrt(parameters / part.parameters) if part.parameters else 0.0


def _drawing_bytes(layout: Layout, together: bool) -> int:
    """A sample's: each part at work in turn, beside what trains and, where all stay together, the other parts."""
    sizes = layout.sizes
    decoded = DECODED * min(layout.drawn_pixels, MOST_PIXELS)
    decoding = int(decoded * _width(sizes.autoencoder, layout.model.autoencoder)) * FLOAT32
    stages = (
        sizes.text_encoders * layout.weight_bytes,
        sizes.denoiser * layout.weight_bytes,
        sizes.autoencoder * FLOAT32 + decoding,
    )
    return (sum(stages) if together else max(stages)) + _lora_bytes(layout)


def _parameters(base: Path, part: PartModel) -> int:
    return _count([file for component in part.components for file in _weights(base / component)])


def _count(files: Sequence[Path]) -> int:
    return sum(prod(tensor.shape) for file in files for tensor in read_header(file).tensors.values())


def _weights(folder: Path) -> list[Path]:
    """The files that are loaded of a component; a name with a dot in it is a variant beside them, such as `.fp16.`."""
    files = sorted(folder.glob(WEIGHTS))
    return [file for file in files if "." not in file.stem] or files
