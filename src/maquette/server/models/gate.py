"""The parity gate's measure: does a model draw here as its trainer drew, and does it do anything at all?"""

from maquette.serving.base import Comparison

SAME_MEAN = 0.5
SAME_LARGEST = 16
"""Most by which the replayed sample may differ from the trainer's, of 255, over all pixels and in any one.

Measured over ten trained models (`benchmarks/parity.py`), each as the mean and the largest difference: the same
software and number of threads 0.00 and 0; another number of threads 0.00 and 1; a LoRA that does nothing 2.2 to 117
and 159 to 255; a LoRA of another subject 1.19 to 50 and 32 to 255. See `docs/adr/0006-parity-gate-tolerance.md`.
"""
AWAY_MEAN = 1.0
"""Least by which a picture with the LoRA differs from the base's own, of 255: one that does nothing must not pass."""
BOUNDS = f"{SAME_MEAN}, {SAME_LARGEST} and {AWAY_MEAN}"
"""What a verdict says of them: with other bounds it might be another."""


def objection(found: Comparison) -> str:
    """What speaks against a model, in words for its owner; "" where nothing does."""
    sample, base = found.from_sample, found.from_base
    if sample.mean > SAME_MEAN or sample.largest > SAME_LARGEST:
        return (
            f"its sample, drawn here, differs from the trainer's by {sample.mean:.2f} in the mean and {sample.largest}"
            f" at most, of 255; {SAME_MEAN} and {SAME_LARGEST} are tolerated"
        )
    if base.mean < AWAY_MEAN:
        return (
            f"it changes nothing: what it draws differs from the base's own picture by {base.mean:.2f} of 255 in the"
            f" mean; {AWAY_MEAN} is the least"
        )
    return ""
