"""What was found about a task's pictures and captions before training, as data.

The trainer tells it in events; `plan` answers it before a task exists.
"""

from enum import StrEnum

from msgspec import Struct


class Severity(StrEnum):
    """How much a finding should worry the owner."""

    INFO = "info"
    """Good to know; the LoRA is none the worse for it."""
    WARNING = "warning"
    """The LoRA may be worse for it."""
    ERROR = "error"
    """The training can't begin with it."""


class FindingCode(StrEnum):
    """Stable names of what may be found."""

    UNREADABLE = "unreadable"
    TOO_SMALL = "too_small"
    BLURRED = "blurred"
    NEAR_DUPLICATE = "near_duplicate"
    NO_FACE = "no_face"
    SEVERAL_FACES = "several_faces"
    FACES_NOT_SEARCHED = "faces_not_searched"
    FACES_NOT_RESTORED = "faces_not_restored"
    CAPTION_CUT = "caption_cut"
    TEXT_ENCODER_LEFT = "text_encoder_left"


SEVERITIES = {
    FindingCode.UNREADABLE: Severity.ERROR,
    FindingCode.TOO_SMALL: Severity.WARNING,
    FindingCode.BLURRED: Severity.WARNING,
    FindingCode.NEAR_DUPLICATE: Severity.WARNING,
    FindingCode.NO_FACE: Severity.WARNING,
    FindingCode.SEVERAL_FACES: Severity.WARNING,
    FindingCode.FACES_NOT_SEARCHED: Severity.WARNING,
    FindingCode.FACES_NOT_RESTORED: Severity.WARNING,
    FindingCode.CAPTION_CUT: Severity.INFO,
    FindingCode.TEXT_ENCODER_LEFT: Severity.INFO,
}


class Finding(Struct, frozen=True):
    """One thing that was found.

    Attributes:
        code: what, stable for programs.
        severity: how much it matters.
        message: for people; says the limit and what helps.
        picture: the file it speaks of, as messages call it, or None where it speaks of all of them.
    """

    code: FindingCode
    severity: Severity
    message: str
    picture: str | None = None


def finding(code: FindingCode, message: str, picture: str | None = None) -> Finding:
    """A finding with the severity that its code has."""
    return Finding(code, SEVERITIES[code], message, picture)
