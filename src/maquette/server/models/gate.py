"""The parity gate's measure: does a model draw here as its trainer drew, and does it do anything at all?"""

from maquette.serving.base import Comparison

SAME_MEAN = 0.5
SAME_LARGEST = 16
"""Most by which the replayed sample may differ from the trainer's, of 255, over all pixels and in any one.

Measured over ten trained models (`benchmarks/parity.py`), each as the mean and the largest difference: the same
software and number of threads 0.00 and 0; another number of threads 0.00 and 1; a LoRA that does nothing 2.2 to 117
and 159 to 255; a LoRA of another subject 1.19 to 50 and 32 to 255. See `docs/adr/0006-parity-gate-tolerance.md`.
"""
AWAY_LARGEST = 1
"""Least by which some value of a picture with the LoRA differs from the base's own, or the LoRA does nothing.

One worker draws both, so nothing rounds between them: with a LoRA that does nothing they are equal, value by value. The
least honest one, of the lowest published learning rate (1e-6) and 20 steps, was measured to be 0.008 in the mean and 2
at most away.
"""
BOUNDS = f"{SAME_MEAN}, {SAME_LARGEST} and {AWAY_LARGEST}"
"""What a verdict says of them: with other bounds it might be another."""


def objection(found: Comparison) -> str:
    """What speaks against a model, in words for its owner; "" where nothing does."""
    sample, base = found.from_sample, found.from_base
    if sample.mean > SAME_MEAN or sample.largest > SAME_LARGEST:
        return (
            f"its sample, drawn here, differs from the trainer's by {sample.mean:.2f} in the mean and {sample.largest}"
            f" at most, of 255; {SAME_MEAN} and {SAME_LARGEST} are tolerated"
        )
    if base.largest < AWAY_LARGEST:
        return "it changes nothing: what it draws is the base's own picture, value by value"
    return ""
