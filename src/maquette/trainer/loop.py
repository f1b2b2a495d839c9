"""One training run, from pictures to a verified LoRA, top to bottom."""

import time
from functools import partial
from pathlib import Path

import torch
from PIL import Image

from maquette.core.basefolder import BrokenBase, base_sha256
from maquette.core.drawing import sample_request
from maquette.core.progress import MemoryTaken, Phase, Started
from maquette.core.rundir import LORA_FILES, Manifest
from maquette.core.specs import SampleSpec, TrainingSettings
from maquette.core.weights import LoraLayout
from maquette.families.base import Adapters, Objective, Part, Pipeline, load_family
from maquette.families.drawing import write_png
from maquette.families.precision import working
from maquette.families.registry import load_spec
from maquette.trainer import checkpoint
from maquette.trainer.attempt import Attempt
from maquette.trainer.cache import EncodedExamples
from maquette.trainer.checkpoint import TrainingState
from maquette.trainer.divergence import step_back, trouble_with_state, trouble_with_step
from maquette.trainer.evaluation import Evaluation
from maquette.trainer.export import export_kohya, export_lora, file_record, library_versions, lora_header
from maquette.trainer.failures import StopRequested
from maquette.trainer.keeping import Keeper
from maquette.trainer.memory import PeakMeter, memory_errors, plan_run, recompute_activations
from maquette.trainer.optim import MAX_GRAD_NORM, build_lr_scheduler, build_optimizer, used_rate
from maquette.trainer.preparing import open_store, prepare, tell_cut_captions
from maquette.trainer.randomness import Randomness
from maquette.trainer.residency import Residency
from maquette.trainer.sampling import class_examples


def run(attempt: Attempt) -> None:
    """Carry out one attempt; it is done when `manifest.json` is there.

    Raises:
        StopRequested: it was asked to stop, and what it has learned is in a checkpoint.
        RunFailed, BrokenBase, InvalidRequest, UnknownName, OSError: it can't go on.
    """
    training, reporter = attempt.training, attempt.reporter
    settings = training.settings
    device = torch.device(attempt.spec.device)
    _work_deterministically(device)
    resume_from = checkpoint.newest(attempt.directory, training)
    done = checkpoint.step_of(resume_from) if resume_from else 0
    reporter.say(Started(at=time.time(), resumed_from=done or None, versions=library_versions()))

    def between() -> None:
        attempt.supervision.check(done)

    with memory_errors(device):
        plan = plan_run(attempt, load_spec(training.base.family).memory, device)
        meter = PeakMeter(device)

        reporter.phase(Phase.PREPARE)
        store = open_store(attempt, device)
        prepared = list(zip(training.pictures, prepare(attempt, store, between), strict=True))
        instances = [example for picture, example in prepared if not picture.held_out]
        held_out = [example for picture, example in prepared if picture.held_out]
        between()
        _check_base(attempt)
        family = load_family(training.base.family)
        pipeline = family.pipeline.load(Path(attempt.spec.base_path), device)
        residency = Residency(pipeline, device, together=plan.together)
        objective = family.objective(pipeline, settings)
        tell_cut_captions(attempt, pipeline)

        reporter.phase(Phase.CACHE)
        classes = class_examples(pipeline, training, residency.bring)
        examples = EncodedExamples.encode(
            pipeline,
            [*instances, *classes, *held_out],
            train_text_encoder=settings.train_text_encoder,
            between=between,
            store=store,
            bring=residency.bring,
        )

        reporter.phase(Phase.TRAIN)
        randomness = Randomness(settings.seed, len(instances), len(classes), device)
        at_work = (Part.DENOISER, *([Part.TEXT_ENCODERS] if settings.train_text_encoder else []))
        residency.bring(*at_work)
        adapters = family.adapters(pipeline)
        adapters.attach(settings)
        if plan.gradient_checkpointing:
            recompute_activations(pipeline)
        state = fresh_state(adapters, settings, randomness)
        measured = range(len(instances) + len(classes), len(examples.examples))
        keeper = Keeper(
            attempt,
            Evaluation(examples, objective, measured, settings.seed, device),
            lora_header(adapters, training),
            partial(_draw, pipeline, residency, at_work),
        )
        keeper.resume(state)
        train(attempt, state, examples, objective, keeper, meter, micro_batch=plan.micro_batch)
        reporter.say(MemoryTaken(at=time.time(), peak_bytes=meter.bytes, needed_bytes=plan.needed))

        reporter.phase(Phase.SAMPLE)
        residency.bring(*Part)
        sample = pipeline.draw(sample_request(training.sample))
        attempt.supervision.check(state.step)

        reporter.phase(Phase.EXPORT)
        finish(attempt, state, adapters, sample)


def train(
    attempt: Attempt,
    state: TrainingState,
    examples: EncodedExamples,
    objective: Objective,
    keeper: Keeper,
    meter: PeakMeter,
    *,
    micro_batch: int,
) -> None:
    """Take optimiser steps until all are done; a checkpoint every so often, at a stop request and at the end.

    With prior preservation a batch holds as many class pictures as pictures, and their loss is added with its
    weight (Ruiz et al. 2023, DreamBooth, arXiv:2208.12242, equation 2).

    Args:
        micro_batch: rows shown at once. A step means the same whatever it is: gradients add up to its whole batch's.

    Raises:
        StopRequested: it was asked to stop, and its state is in a checkpoint.
        RunFailed: the run has diverged twice, see `trainer.divergence`.
    """
    settings, random, device = attempt.training.settings, state.randomness, state.randomness.device
    parameters = list(state.parameters.values())
    if state.step == 0:
        keeper.keep_beginning(state)
    while state.step < settings.max_train_steps:
        began = time.monotonic()

        # What is learned from in this step, and the share that each row's loss has in the step's.
        rows = random.instances.take(settings.train_batch_size)
        shares = [1 / len(rows)] * len(rows)
        if settings.with_prior_preservation:
            rows += [random.instances.length + row for row in random.classes.take(settings.train_batch_size)]
            shares += [settings.prior_loss_weight / settings.train_batch_size] * settings.train_batch_size

        # Forward and backward. A further term of the loss is added where the objective's are weighed.
        loss = torch.zeros((), device=device)
        for begin in range(0, len(rows), micro_batch):
            part = slice(begin, begin + micro_batch)
            with working(device):
                batches = examples.batches(rows[part], random.noise, device)
                losses = torch.cat([objective.losses(*batch, random.noise) for batch in batches])
            weighed = torch.dot(losses, torch.tensor(shares[part], device=device))
            weighed.backward()
            loss += weighed.detach()

        # Read once a step, and no more: a processor that reads from a device waits for all that it has to do.
        norm = torch.nn.utils.clip_grad_norm_(parameters, MAX_GRAD_NORM, foreach=True)
        step_loss, grad_norm = torch.stack([loss, norm]).tolist()
        if trouble := trouble_with_step(state.step + 1, step_loss, grad_norm):
            step_back(attempt, state, state.step + 1, trouble)
            continue

        lr = used_rate(state.optimizer)
        state.optimizer.step()
        state.lr_scheduler.step()
        state.optimizer.zero_grad()
        state.record(step_loss)
        attempt.reporter.step(
            step=state.step,
            total_steps=settings.max_train_steps,
            loss=step_loss,
            lr=lr,
            seconds=time.monotonic() - began,
            grad_norm=grad_norm,
            peak_bytes=meter.bytes,
        )

        stopping = attempt.supervision.stop_requested
        finished = state.step == settings.max_train_steps
        if stopping or finished or state.step % attempt.spec.checkpoint_every == 0:
            if trouble := trouble_with_state(state):
                step_back(attempt, state, state.step, trouble)
                continue
            keeper.keep(state)
        if stopping:
            raise StopRequested(state.step)
        time.sleep(attempt.spec.step_delay)


def finish(attempt: Attempt, state: TrainingState, adapters: Adapters, sample: Image.Image) -> None:
    """Write what a run is for, and last of all the manifest that makes it true.

    Raises:
        RunFailed: a weight is not finite.
        OSError: a file could not be written, or does not read back as written.
    """
    directory = attempt.directory
    picture = directory.samples / "final.png"
    weights, kohya = (directory.output / LORA_FILES[layout] for layout in (LoraLayout.DIFFUSERS, LoraLayout.KOHYA))
    write_png(picture, sample)
    export_lora(weights, adapters, attempt.training)
    export_kohya(kohya, adapters, attempt.training)
    manifest = Manifest(
        weights=file_record(weights, directory.root),
        kohya=file_record(kohya, directory.root),
        sample=file_record(picture, directory.root),
        finished_at=int(time.time()),
        steps=state.step,
        final_loss=state.recent_loss,
    )
    directory.write(directory.manifest, manifest)


def fresh_state(adapters: Adapters, settings: TrainingSettings, randomness: Randomness) -> TrainingState:
    """An untrained LoRA with its optimiser and schedule; another optimiser is added in `trainer.optim`."""
    parameters = adapters.parameters()
    optimizer = build_optimizer(parameters.values(), settings)
    return TrainingState(parameters, optimizer, build_lr_scheduler(optimizer, settings), randomness)


def _draw(pipeline: Pipeline, residency: Residency, at_work: tuple[Part, ...], sample: SampleSpec) -> Image.Image:
    """A picture between two steps, when nothing of a step is in memory; then the device is as training needs it."""
    residency.bring(*Part)
    picture = pipeline.draw(sample_request(sample))
    residency.bring(*at_work)
    return picture


def _check_base(attempt: Attempt) -> None:
    """Refuse a folder whose content is no longer what the task pinned: the LoRA would claim a wrong origin."""
    pinned, path = attempt.training.base, attempt.spec.base_path
    found = base_sha256(Path(path))
    if found != pinned.sha256:
        raise BrokenBase(
            f"the base {pinned.name} in {path} is not what the task pinned: its hash is {found}, not {pinned.sha256}"
        )


def _work_deterministically(device: torch.device) -> None:
    """Equal runs on the CPU give equal bytes; elsewhere it is as near as the device's kernels allow."""
    torch.use_deterministic_algorithms(True, warn_only=device.type != "cpu")
