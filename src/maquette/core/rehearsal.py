"""Breakdowns on purpose: what a client may ask a sandbox for, to see how it takes the sad paths.

A training asks through its name, a picture through its prompt: `sandbox: out-of-memory`, and whatever words may follow.
The words mean something to a server that runs as a sandbox, and to the programs that such a server starts, alone.
"""

import re
from enum import StrEnum

ASKED = re.compile(r"\s*sandbox:\s*(\S*)", re.IGNORECASE)


class Breakdown(StrEnum):
    """What can be asked to break."""

    OUT_OF_MEMORY = "out-of-memory"
    """The process asks its device for more memory than there is."""
    NAN = "nan"
    """What it computes stops being finite numbers."""
    LOST_WORKER = "lost-worker"
    """Its process is killed, in each attempt."""
    LOST_WORKER_ONCE = "lost-worker-once"
    """Its process is killed amid the first attempt, and in no other."""
    REJECTED = "rejected"
    """It learns nothing, so that the parity gate rejects its model."""
    EXPIRED_UPLOAD = "expired-upload"
    """The pictures have been cleared away before the training could take them."""
    SLOW_WEBHOOK = "slow-webhook"
    """The webhook is told late."""


OF_TRAININGS = frozenset(Breakdown) - {Breakdown.SLOW_WEBHOOK}
"""Nothing is told to a webhook of trainings."""
OF_PICTURES = frozenset({Breakdown.OUT_OF_MEMORY, Breakdown.NAN, Breakdown.LOST_WORKER, Breakdown.SLOW_WEBHOOK})
"""Without what only trainings have: uploads, models, and workers that know which attempt this is."""


def asked_for(words: str) -> str | None:
    """What a training's name or a picture's prompt asks for: a breakdown's name, or one that is none; None for nothing.

    Breakdowns are compared without regard to case.
    """
    asked = ASKED.match(words)
    return asked[1].lower() if asked else None
