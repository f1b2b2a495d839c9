"""Taking checkpoints, with all that goes with one; and going on from one that proves to be what it claims."""

import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from PIL import Image

from maquette.core.basefolder import BrokenBase
from maquette.core.progress import Resumed, SamplesDrawn, Validated
from maquette.core.specs import SampleSpec
from maquette.families.base import OnStep
from maquette.trainer import checkpoint
from maquette.trainer.attempt import Attempt
from maquette.trainer.checkpoint import Extras, TrainingState
from maquette.trainer.divergence import trouble_with_state
from maquette.trainer.evaluation import Evaluation
from maquette.trainer.failures import StopRequested, failed
from maquette.trainer.randomness import Randomness

TOLERANCES = {"cpu": 1e-4}
"""How far a probe may be from the one recorded, as a share of it. On one machine's CPU they are equal to the bit;
another processor's sums differ in their last digits."""
DEVICE_TOLERANCE = 2e-2
"""On other devices, whose kernels round in bfloat16 and in an order of their own."""


@dataclass(frozen=True)
class Keeper:
    """Takes the checkpoints of a run.

    Attributes:
        header: of the LoRA's file.
        draw: draws a sample with the LoRA as it stands; calls after each denoising step, which may end it.
        make_ready: has on the device what training needs, which drawing may have put aside.
    """

    attempt: Attempt
    evaluation: Evaluation
    header: Mapping[str, str]
    draw: Callable[[SampleSpec, OnStep], Image.Image]
    make_ready: Callable[[], None]

    def keep_beginning(self, state: TrainingState) -> None:
        """Keep the state before the first step, so that what diverges at once has somewhere to go back to.

        Measured with it is the loss of the base alone, since the LoRA is still nothing.

        Raises:
            BrokenBase: that is no finite number, so the base is damaged; it would look as if the run diverged.
        """
        state.base_loss = self._training_loss(state.randomness)
        if not math.isfinite(state.base_loss):
            raise BrokenBase(
                f"the base's loss on the pictures, without a LoRA, is {state.base_loss}, so it is damaged;"
                " register it anew, or train on another one"
            )
        self._save(state)
        self._validate(state)

    def keep(self, state: TrainingState) -> None:
        """Take the checkpoint of a state and tell, then draw with it what was asked for.

        Raises:
            StopRequested: the run was asked to stop while it drew; the checkpoint is taken.
            OSError: it could not be written; the older ones are still there.
        """
        self._save(state)
        # Now, since drawing may take minutes: a trainer that is lost meanwhile has not lost the checkpoint with it.
        self.attempt.reporter.checkpoint(state.step)
        self._validate(state)
        self._draw_samples(state)

    def trouble(self, state: TrainingState) -> str | None:
        """Why a state is none to keep, in words; None where it is one."""
        return trouble_with_state(state, self._training_loss(state.randomness))

    def resume(self, state: TrainingState) -> None:
        """Go on from the newest checkpoint whose probe is as it was recorded; stay as it is where there is none.

        One whose probe differs is dropped: its numbers are whole, but here they mean something else.
        """
        beginning = {name: parameter.detach().clone() for name, parameter in state.parameters.items()}
        for path in checkpoint.whole(self.attempt.directory, self.attempt.training):
            checkpoint.restore_lora(path, state)
            if self._is_what_it_claims(path):
                checkpoint.restore(path, state)
                return
            checkpoint.drop(path)
        with torch.no_grad():
            for name, values in beginning.items():
                state.parameters[name].copy_(values)

    def _training_loss(self, random: Randomness) -> float:
        """The loss on what is trained on with the LoRA as it stands, weighted as in a step; it compares with others of
        this run, since timesteps and noise are the same.
        """
        settings, pictures = self.attempt.training.settings, random.instances.length
        loss = self.evaluation.training(range(pictures))
        if settings.with_prior_preservation:
            classes = range(pictures, pictures + random.classes.length)
            loss += settings.prior_loss_weight * self.evaluation.training(classes)
        return loss

    def _is_what_it_claims(self, path: Path) -> bool:
        step, recorded, computed = checkpoint.step_of(path), checkpoint.probe_of(path), self.evaluation.probe()
        verified = recorded is not None and self._agree(recorded, computed)
        # One without a probe is an older trainer's: whole by its hashes, and never to be held against it.
        taken = verified or recorded is None
        # To begin where it began is no news, unless it has to draw another LoRA for that.
        if step > 0 or not taken:
            self.attempt.reporter.say(
                Resumed(at=time.time(), step=step, verified=verified, recorded=recorded, computed=computed)
            )
        return taken

    def _save(self, state: TrainingState) -> None:
        extras = Extras(header=self.header, probe=self.evaluation.probe())
        checkpoint.save(
            self.attempt.directory, state, self.attempt.training, extras, keep_every=self.attempt.spec.keep_every
        )

    def _validate(self, state: TrainingState) -> None:
        loss = self.evaluation.validate()
        if loss is not None:
            self.attempt.reporter.say(Validated(at=time.time(), step=state.step, loss=loss))

    def _draw_samples(self, state: TrainingState) -> None:
        """Pictures that decide nothing: who stops does not wait for them, and no run ends because of one."""
        asked = self.attempt.training.checkpoint_samples
        if not asked or self.attempt.supervision.stop_requested:
            return
        samples: list[Image.Image] = []
        # What drawing draws from torch's global source must not be missing in training.
        with torch.random.fork_rng([state.randomness.device] if state.randomness.device.type == "cuda" else []):
            for sample in asked:
                picture = self._drawn(sample, state.step)
                if picture is None:
                    break
                samples.append(picture)
        # Not while a failed drawing's error is under way, which holds the memory that is wanted here. And no error of
        # this is a picture's: without its parts, training can't go on.
        self.make_ready()
        if samples:
            checkpoint.add_samples(self.attempt.directory, state.step, samples)
            self.attempt.reporter.say(SamplesDrawn(at=time.time(), step=state.step))

    def _drawn(self, sample: SampleSpec, step: int) -> Image.Image | None:
        """The picture, or None where it can't be drawn, and the owner is told why."""
        try:
            return self.draw(sample, lambda *_: self.attempt.supervision.check(step))
        except StopRequested:
            raise
        except Exception as error:
            self.attempt.reporter.note(f"no sample was drawn after step {step}: {failed(error).message}")
            return None

    def _agree(self, recorded: float, computed: float) -> bool:
        tolerance = TOLERANCES.get(torch.device(self.attempt.spec.device).type, DEVICE_TOLERANCE)
        return math.isclose(recorded, computed, rel_tol=tolerance)
