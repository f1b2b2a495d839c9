"""One training run, from pictures to a verified LoRA, top to bottom."""

import time
from collections.abc import Iterable, Sequence
from functools import partial
from pathlib import Path

import torch
from PIL import Image

from maquette.core.basefolder import check_base
from maquette.core.progress import Phase, Started
from maquette.core.rundir import LORA_FILES, Manifest
from maquette.core.specs import TrainingSettings
from maquette.core.weights import LoraLayout
from maquette.families.base import Adapters, Conditioning, Noising, Objective, Part, load_family
from maquette.families.environment import library_versions
from maquette.families.pixels import write_png
from maquette.families.precision import mixed_precision, use_device
from maquette.families.registry import load_spec
from maquette.trainer import checkpoint
from maquette.trainer.attempt import Attempt
from maquette.trainer.cache import EncodedExamples, Shown
from maquette.trainer.checkpoint import TrainingState
from maquette.trainer.divergence import step_back, trouble_with_step
from maquette.trainer.evaluation import Evaluation
from maquette.trainer.export import export_kohya, export_lora, file_record, lora_header
from maquette.trainer.failures import StopRequested
from maquette.trainer.graphs import ForwardBackward, GraphedPass
from maquette.trainer.keeping import Keeper
from maquette.trainer.memory import PeakMeter, memory_errors, peak_told, plan_run, recompute_activations
from maquette.trainer.optim import MAX_GRAD_NORM, build_lr_scheduler, build_optimizer, used_rate
from maquette.trainer.preparing import open_store, prepare, tell_cut_captions
from maquette.trainer.randomness import Randomness
from maquette.trainer.residency import Residency
from maquette.trainer.sampling import class_examples, draw_sample


def run(attempt: Attempt) -> None:
    """Carry out one attempt; it is done when `manifest.json` is there.

    The parts that are alike for all families are the trainer's; what a base is, what is made small and where a LoRA is
    put are the family's pipeline, objective and adapters.

    Raises:
        StopRequested: it was asked to stop, and what it has learned is in a checkpoint.
        RunFailed, BrokenBase, InvalidRequest, UnknownName, OSError: it can't go on.
    """
    training, reporter = attempt.training, attempt.reporter
    settings = training.settings
    device = torch.device(attempt.spec.device)
    use_device(device)
    stop_if_asked = partial(attempt.supervision.check, begin(attempt))

    # First of all: where the host computes, what its libraries take is neither free nor the run's.
    family = load_family(training.base.family)
    plan = plan_run(attempt, load_spec(training.base.family).memory, device)
    with memory_errors(device), peak_told(attempt, plan, device) as meter:
        reporter.phase(Phase.PREPARE)
        store = open_store(attempt, device)
        prepared = list(zip(training.pictures, prepare(attempt, store, stop_if_asked), strict=True))
        instances = [example for picture, example in prepared if not picture.held_out]
        held_out = [example for picture, example in prepared if picture.held_out]
        stop_if_asked()
        # After the pictures: it reads gigabytes, and what is wrong with a picture should not wait for it.
        base = Path(attempt.spec.base_path)
        check_base(base, training.base.sha256)
        pipeline = family.pipeline.load(base, device, waiting=not plan.together)
        residency = Residency(pipeline, device, together=plan.together)
        objective = family.objective(pipeline, settings)
        tell_cut_captions(attempt, pipeline)

        # Everything that is shown is encoded once, and with the bare base: no LoRA is attached yet. The rows of
        # `examples` are the pictures, behind them the class pictures, and then what is held out.
        reporter.phase(Phase.CACHE)
        classes = class_examples(pipeline, training, lambda *_: stop_if_asked(), residency.bring)
        examples = EncodedExamples.encode(
            pipeline,
            [*instances, *classes, *held_out],
            train_text_encoder=settings.train_text_encoder,
            before_each=stop_if_asked,
            store=store,
            bring=residency.bring,
        )

        reporter.phase(Phase.TRAIN)
        # Seeds torch's global source too, from which a LoRA's first values come.
        randomness = Randomness(settings.seed, len(instances), len(classes), device)
        # Text encoders that can't train have read every prompt.
        trained_parts = (Part.DENOISER, *([Part.TRAINED_ENCODERS] if settings.train_text_encoder else []))
        residency.bring(*trained_parts)
        adapters = family.adapters(pipeline)
        adapters.attach(settings)
        if plan.gradient_checkpointing:
            recompute_activations(pipeline)
        state = fresh_state(adapters, settings, randomness)
        draw = partial(draw_sample, pipeline, bring=residency.bring)
        # Keeping a state is a checkpoint with its probe, the loss on what is held out, and samples where asked for.
        held_out_rows = range(len(instances) + len(classes), len(examples.examples))
        keeper = Keeper(
            attempt,
            Evaluation(examples, objective, held_out_rows, settings.seed, device),
            lora_header(adapters, training),
            draw,
            partial(residency.bring, *trained_parts),
        )
        # From the newest checkpoint whose probe, a loss that was recorded with it, comes out again; or from the start.
        keeper.resume(state)
        step_pass = build_pass(objective, state, graphed=plan.cuda_graphs)
        train(attempt, state, examples, objective, step_pass, keeper, meter, micro_batch=plan.micro_batch)

        reporter.phase(Phase.SAMPLE)
        sample = draw(training.sample, lambda *_: attempt.supervision.check(state.step))

        reporter.phase(Phase.EXPORT)
        finish(attempt, state, adapters, sample)


def begin(attempt: Attempt) -> int:
    """Say that the attempt begins, and answer the step of its newest checkpoint as far as files tell; 0 without one.

    `Keeper.resume` puts the checkpoint to the proof.
    """
    newest = checkpoint.newest(attempt.directory, attempt.training)
    done = checkpoint.step_of(newest) if newest else 0
    attempt.reporter.say(Started(at=time.time(), resumed_from=done or None, versions=library_versions()))
    return done


def train(
    attempt: Attempt,
    state: TrainingState,
    examples: EncodedExamples,
    objective: Objective,
    step_pass: ForwardBackward,
    keeper: Keeper,
    meter: PeakMeter,
    *,
    micro_batch: int,
) -> None:
    """Take optimiser steps until all are done; a checkpoint every so often, at a stop request and at the end.

    With prior preservation a batch holds as many class pictures as pictures, and their loss is added with its
    weight (Ruiz et al. 2023, DreamBooth, arXiv:2208.12242, equation 2).

    Args:
        step_pass: see `build_pass`.
        micro_batch: rows shown at once, at most; the gradients of a larger batch are accumulated. Whatever it is, a
            step's gradient is that of its whole batch, but for the rounding of its sums.

    Raises:
        StopRequested: it was asked to stop, and its state is in a checkpoint.
        RunFailed: the run has diverged twice, see `trainer.divergence`.
    """
    settings, random = attempt.training.settings, state.randomness
    parameters, size = list(state.parameters.values()), settings.train_batch_size
    if state.step == 0:
        keeper.keep_beginning(state)
    while state.step < settings.max_train_steps:
        began = time.monotonic()

        # Which rows of `examples` are learned from in this step, and what each one's loss weighs in the step's.
        # Pictures of one size, which are shown together.
        rows, loss_weights = random.instances.take_alike(size, examples.size), [1 / size] * size
        if settings.with_prior_preservation:
            rows += [random.instances.length + row for row in random.classes.take(size)]
            loss_weights += [settings.prior_loss_weight / size] * size

        # All that chance decides of them: latents, wordings, mirror images, noise and timesteps.
        shown = examples.show(rows, objective, random.noise)
        state.optimizer.zero_grad()
        loss = accumulate_gradients(step_pass, examples, shown, loss_weights, micro_batch, random.device)
        norm = torch.nn.utils.clip_grad_norm_(parameters, MAX_GRAD_NORM, foreach=True)

        # Told is the norm before clipping. Here the device is waited for, which need not be twice in a step: what else
        # is to be told of it joins the stack. (Prodigy waits for its sums too.)
        step_loss, grad_norm = torch.stack([loss, norm]).tolist()
        if trouble := trouble_with_step(state.step + 1, step_loss, grad_norm):
            # To the last checkpoint, and on at half the rate; the second time, it raises.
            step_back(attempt, state, state.step + 1, trouble)
            continue

        lr = used_rate(state.optimizer)
        state.optimizer.step()
        state.lr_scheduler.step()
        state.advance(step_loss)
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
            if trouble := keeper.trouble(state):
                # Also where it is to stop: it does after the next step, with a state that is worth keeping.
                step_back(attempt, state, state.step, trouble)
                continue
            keeper.keep(state)
        if stopping:
            raise StopRequested(state.step)
        # A throttle, for machines shared with other work.
        time.sleep(attempt.spec.step_delay)


def accumulate_gradients(
    step_pass: ForwardBackward,
    examples: EncodedExamples,
    shown: Iterable[Shown],
    loss_weights: Sequence[float],
    micro_batch: int,
    device: torch.device,
) -> torch.Tensor:
    """Forward and backward pass of all that a step shows, some of it at a time; the weighted sum of the losses."""
    loss = torch.zeros((), device=device)
    for batch in shown:
        for part in batch.split(micro_batch):
            weights = torch.tensor([loss_weights[place] for place in part.places], device=device)
            loss += step_pass(*examples.batch(part, device), weights)
    return loss


def build_pass(objective: Objective, state: TrainingState, *, graphed: bool) -> ForwardBackward:
    """`forward_backward` of an objective; as CUDA graphs where Python launches kernels more slowly than they run."""
    step_pass = partial(forward_backward, objective)
    return GraphedPass(step_pass, list(state.parameters.values())) if graphed else step_pass


def forward_backward(
    objective: Objective,
    latents: torch.Tensor,
    conditioning: Conditioning,
    noising: Noising,
    weights: torch.Tensor,
) -> torch.Tensor:
    """Forward and backward pass of some pictures; the sum of their losses with these weights (pictures,).

    A further term of the loss goes into the family's objective where it needs what the denoiser said, and else here,
    beside the pictures' losses. On a GPU Python carries this out but twice for each shape of a batch, and a CUDA graph
    from then on: what changes from step to step comes in as a tensor on the device (`trainer.graphs`).
    """
    with mixed_precision(latents.device):
        losses = objective.losses(latents, conditioning, noising)
    loss = torch.dot(losses, weights)
    loss.backward()
    return loss.detach()


def finish(attempt: Attempt, state: TrainingState, adapters: Adapters, sample: Image.Image) -> None:
    """Write what a run is for: the weights that the adapters have, and the sample; last of all the manifest, whose
    presence means that the run is done.

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
