"""One training run, from pictures to a verified LoRA, top to bottom."""

import math
import time
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

import torch

from maquette.core.basefolder import BrokenBase, base_sha256
from maquette.core.drawing import sample_request
from maquette.core.lifecycle import Reason
from maquette.core.progress import Phase, Started
from maquette.core.rundir import LORA_FILES, Manifest
from maquette.core.specs import TrainingSettings
from maquette.core.weights import LoraLayout
from maquette.families.base import Adapters, Objective, Pipeline, load_family
from maquette.families.drawing import write_png
from maquette.families.precision import working
from maquette.trainer import checkpoint
from maquette.trainer.attempt import Attempt
from maquette.trainer.cache import EncodedExamples
from maquette.trainer.checkpoint import TrainingState
from maquette.trainer.data import Example, read_picture, to_pixels
from maquette.trainer.export import export_kohya, export_lora, file_record, library_versions
from maquette.trainer.failures import RunFailed, StopRequested
from maquette.trainer.optim import MAX_GRAD_NORM, build_lr_scheduler, build_optimizer
from maquette.trainer.randomness import Randomness
from maquette.trainer.sampling import draw_class_pictures

CPU_OUT_OF_MEMORY = "DefaultCPUAllocator"
"""By this name only can the CPU allocator's error be told from other RuntimeErrors."""


def run(attempt: Attempt) -> None:
    """Carry out one attempt; it is done when `manifest.json` is there.

    Raises:
        StopRequested: it was asked to stop, and what it has learned is in a checkpoint.
        RunFailed, BrokenBase, UnknownName, OSError: it can't go on.
    """
    directory, training, reporter = attempt.directory, attempt.training, attempt.reporter
    settings = training.settings
    device = torch.device(attempt.spec.device)
    _work_deterministically(device)
    resume_from = checkpoint.newest(directory, training)
    done = checkpoint.step_of(resume_from) if resume_from else 0
    reporter.say(Started(at=time.time(), resumed_from=done if resume_from else None, versions=library_versions()))

    def between() -> None:
        attempt.supervision.check(done)

    with _memory_errors(device):
        reporter.phase(Phase.PREPARE)
        instances = _prepare(attempt)
        between()
        _check_base(attempt)
        family = load_family(training.base.family)
        pipeline = family.pipeline.load(Path(attempt.spec.base_path), device)
        _note_long_prompts(attempt, pipeline)

        reporter.phase(Phase.CACHE)
        classes = draw_class_pictures(pipeline, training, between)
        examples = EncodedExamples.encode(
            pipeline, [*instances, *classes], train_text_encoder=settings.train_text_encoder, between=between
        )

        reporter.phase(Phase.TRAIN)
        randomness = Randomness(settings.seed, len(instances), len(classes), device)
        adapters = family.adapters(pipeline)
        adapters.attach(settings)
        state = fresh_state(adapters, settings, randomness)
        if resume_from:
            checkpoint.restore(resume_from, state)
        train(attempt, state, examples, family.objective(pipeline))

        reporter.phase(Phase.SAMPLE)
        sample = directory.samples / "final.png"
        write_png(sample, pipeline.draw(sample_request(training.sample)))
        attempt.supervision.check(state.step)

        reporter.phase(Phase.EXPORT)
        weights, kohya = (directory.output / LORA_FILES[layout] for layout in (LoraLayout.DIFFUSERS, LoraLayout.KOHYA))
        export_lora(weights, adapters, training)
        export_kohya(kohya, adapters, training)
        manifest = Manifest(
            weights=file_record(weights, directory.root),
            kohya=file_record(kohya, directory.root),
            sample=file_record(sample, directory.root),
            finished_at=int(time.time()),
            steps=state.step,
            final_loss=state.recent_loss,
        )
        directory.write(directory.manifest, manifest)


def train(attempt: Attempt, state: TrainingState, examples: EncodedExamples, objective: Objective) -> None:
    """Take optimiser steps until all are done; a checkpoint every so often, at a stop request and at the end.

    With prior preservation a batch holds as many class pictures as pictures, and their loss is added with its
    weight (Ruiz et al. 2023, DreamBooth, arXiv:2208.12242, equation 2).

    Raises:
        StopRequested: it was asked to stop, and its state is in a checkpoint.
        RunFailed: the loss or its gradient is not finite.
    """
    settings, random = attempt.training.settings, state.randomness
    parameters = list(state.parameters.values())
    while state.step < settings.max_train_steps:
        began = time.monotonic()

        rows = random.instances.take(settings.train_batch_size)
        if settings.with_prior_preservation:
            rows += [random.instances.length + row for row in random.classes.take(settings.train_batch_size)]
        with working(random.device):
            latents, conditioning = examples.batch(rows, random.noise)
            losses = objective.losses(latents, conditioning, random.noise)
        loss = losses[: settings.train_batch_size].mean()
        if settings.with_prior_preservation:
            loss = loss + settings.prior_loss_weight * losses[settings.train_batch_size :].mean()

        loss.backward()
        norm = torch.nn.utils.clip_grad_norm_(parameters, MAX_GRAD_NORM)
        _check_finite(state.step + 1, loss.item(), norm.item())
        lr = float(state.lr_scheduler.get_last_lr()[0])
        state.optimizer.step()
        state.lr_scheduler.step()
        state.optimizer.zero_grad()
        state.record(loss.item())

        attempt.reporter.step(
            step=state.step,
            total_steps=settings.max_train_steps,
            loss=loss.item(),
            lr=lr,
            seconds=time.monotonic() - began,
        )
        stopping = attempt.supervision.stop_requested
        finished = state.step == settings.max_train_steps
        if stopping or finished or state.step % attempt.spec.checkpoint_every == 0:
            checkpoint.save(attempt.directory, state, attempt.training)
            attempt.reporter.checkpoint(state.step)
        if stopping:
            raise StopRequested(state.step)
        time.sleep(attempt.spec.step_delay)


def fresh_state(adapters: Adapters, settings: TrainingSettings, randomness: Randomness) -> TrainingState:
    """An untrained LoRA with its optimiser and schedule."""
    parameters = adapters.parameters()
    optimizer = build_optimizer(parameters.values(), settings)
    return TrainingState(parameters, optimizer, build_lr_scheduler(optimizer, settings), randomness)


def _check_finite(step: int, loss: float, norm: float) -> None:
    if not (math.isfinite(loss) and math.isfinite(norm)):
        raise RunFailed(
            Reason.DIVERGED,
            f"the loss of step {step} is {loss}, its gradient's norm {norm}; try a lower learning_rate",
        )


def _prepare(attempt: Attempt) -> list[Example]:
    """Decode every picture, and say what of the asked preparation has no effect."""
    preparation = attempt.training.preparation
    if preparation.face_crop_ratio is not None:
        attempt.reporter.note("face_crop_region: faces are not searched for; pictures were cropped around their centre")
    if preparation.face_restore is not None:
        attempt.reporter.note(f"face_restore: {preparation.face_restore} is not available; faces were left as they are")
    return [
        Example(
            pixels=to_pixels(read_picture(attempt.directory.images, picture, preparation)),
            prompt=picture.caption or attempt.training.settings.instance_prompt,
        )
        for picture in attempt.training.pictures
    ]


def _check_base(attempt: Attempt) -> None:
    """Refuse a folder whose content is no longer what the task pinned: the LoRA would claim a wrong origin."""
    pinned, path = attempt.training.base, attempt.spec.base_path
    found = base_sha256(Path(path))
    if found != pinned.sha256:
        raise BrokenBase(
            f"the base {pinned.name} in {path} is not what the task pinned: its hash is {found}, not {pinned.sha256}"
        )


def _note_long_prompts(attempt: Attempt, pipeline: Pipeline) -> None:
    for picture in attempt.training.pictures:
        if picture.caption and not pipeline.fits(picture.caption):
            attempt.reporter.note(
                "the caption is longer than the text encoder reads; its end has no effect", picture.name
            )
    if not pipeline.fits(attempt.training.settings.instance_prompt):
        attempt.reporter.note("instance_prompt is longer than the text encoder reads; its end has no effect")


def _work_deterministically(device: torch.device) -> None:
    """Equal runs on the CPU give equal bytes; elsewhere it is as near as the device's kernels allow."""
    torch.use_deterministic_algorithms(True, warn_only=device.type != "cpu")


@contextmanager
def _memory_errors(device: torch.device) -> Generator[None]:
    try:
        yield
    except (torch.OutOfMemoryError, MemoryError) as error:
        raise RunFailed(Reason.OUT_OF_MEMORY, f"{device} ran out of memory: {error}") from error
    except RuntimeError as error:
        if CPU_OUT_OF_MEMORY not in str(error):
            raise
        raise RunFailed(Reason.OUT_OF_MEMORY, f"{device} ran out of memory: {error}") from error
