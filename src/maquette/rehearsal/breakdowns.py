"""How a sandbox's trainer and worker break down when they are asked to: for real, by what they are made to do.

Nothing here says that a thing has failed. A trainer that runs out of memory asks its device for more than there is; one
that diverges learns too fast. What becomes of that is the business of the ordinary code around it.
"""

import os
import signal
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from msgspec import structs

from maquette.core.drawing import Draw, DrawRequest, ToWorker
from maquette.core.rehearsal import Breakdown, asked_for
from maquette.families.base import OnStep
from maquette.inference import worker
from maquette.inference.worker import Worker
from maquette.trainer import loop
from maquette.trainer.attempt import Attempt
from maquette.trainer.reporter import Reporter

MORE_THAN_THERE_IS = 1 << 60
"""Bytes; beyond what any processor can address."""
ENDLESS_SIDE = 1 << 30
"""Pixels; the latents of such a picture take more than there is."""
TOO_FAST = 1e38
"""A learning rate after whose first step nothing is finite."""
TOO_SLOW = 0.0
"""A learning rate at which nothing is learned."""

# --------------------------------------------------------------------------------------------------------- training


class BreakingReporter(Reporter):
    """Tells of every step, and breaks down at step `at`, or at the first one where a run resumes behind it."""

    def __init__(self, path: Path, at: int, break_down: Callable[[], None]) -> None:
        super().__init__(path)
        self._at = at
        self._break_down = break_down

    def step(self, *, step: int, **said: Any) -> None:
        """See `Reporter.step`."""
        super().step(step=step, **said)
        if step >= self._at:
            self._break_down()


def train(attempt: Attempt, breakdown: Breakdown) -> None:
    """Carry out an attempt until its breakdown; raises as `maquette.trainer.loop.run` does."""
    match breakdown:
        case Breakdown.NAN:
            loop.run(_at_rate(TOO_FAST, attempt))
        case Breakdown.REJECTED:
            loop.run(_at_rate(TOO_SLOW, attempt))
        case Breakdown.OUT_OF_MEMORY:
            _until(1, attempt, partial(ask_for_too_much, attempt.spec.device))
        case Breakdown.LOST_WORKER_ONCE if attempt.spec.fence == 1:
            _until(-(-attempt.training.settings.max_train_steps // 2), attempt, end_at_once)
        case _:
            loop.run(attempt)


def ask_for_too_much(device: str) -> None:
    """Ask a device for more memory than there is; raises whatever it says to that."""
    torch.empty(MORE_THAN_THERE_IS, dtype=torch.uint8, device=device)


def end_at_once() -> None:
    """Kill this process, as the kernel does when memory is short."""
    os.kill(os.getpid(), signal.SIGKILL)


def _until(step: int, attempt: Attempt, break_down: Callable[[], None]) -> None:
    with BreakingReporter(attempt.directory.events, step, break_down) as reporter:
        loop.run(replace(attempt, reporter=reporter))


def _at_rate(learning_rate: float, attempt: Attempt) -> Attempt:
    training = attempt.training
    settings = structs.replace(training.settings, learning_rate=learning_rate)
    spec = structs.replace(attempt.spec, training=structs.replace(training, settings=settings))
    return replace(attempt, spec=spec)


# ---------------------------------------------------------------------------------------------------------- drawing


class BreakingWorker(Worker):
    """Draws what it is asked for, or what no device can."""

    def answer(self, message: ToWorker, on_step: OnStep) -> Any:
        """See `Worker.answer`."""
        if isinstance(message, Draw):
            message = structs.replace(message, request=_breaking(message.request))
        return super().answer(message, on_step)


serve = partial(worker.serve, kind=BreakingWorker)


def _breaking(request: DrawRequest) -> DrawRequest:
    match asked_for(request.prompt):
        case Breakdown.OUT_OF_MEMORY:
            return structs.replace(request, width=ENDLESS_SIDE, height=ENDLESS_SIDE, original=None)
        case Breakdown.NAN:
            return structs.replace(request, guidance_scale=float("inf"))
        case Breakdown.LOST_WORKER:
            end_at_once()
            return request
        case _:
            return request
