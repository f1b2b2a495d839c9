"""What an inference worker is asked to draw."""

from msgspec import Struct


class LoraUse(Struct, frozen=True, forbid_unknown_fields=True):
    """A LoRA file and how strongly it acts (1.0 is as trained)."""

    path: str
    strength: float = 1.0


class DrawRequest(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """One picture to draw.

    Attributes:
        prompt, negative_prompt: what to draw, and what to move away from.
        width, height: pixels.
        steps: denoising steps.
        guidance_scale: classifier-free guidance (Ho & Salimans 2022), 1 is none.
        seed: of the initial noise.
        loras: added to the base for this picture alone.
    """

    prompt: str
    negative_prompt: str = ""
    width: int
    height: int
    steps: int
    guidance_scale: float
    seed: int
    loras: tuple[LoraUse, ...] = ()
