"""The manual says what a training takes of a GPU, as the planner would."""

from pathlib import Path

from msgspec.structs import replace

from maquette.families.memory import GIB, MemoryPlan, layout_of, plans
from maquette.families.registry import FAMILIES, load_spec
from maquette.testing.factories import training_spec

MANUAL = Path(__file__).parents[3] / "docs" / "operations.md"
BFLOAT16 = 2


def ladder(family: str, *, side: int) -> list[MemoryPlan]:
    """Plans of a training of rank 16 with one picture at once, on the published base."""
    spec = training_spec()
    spec = replace(
        spec,
        preparation=replace(spec.preparation, width=side, height=side),
        settings=replace(spec.settings, lora_r=16, lora_alpha=16),
        sample=replace(spec.sample, width=side, height=side),
    )
    model = load_spec(family).memory
    sizes = model.published_sizes
    return list(plans(layout_of(spec, model, sizes, weight_bytes=BFLOAT16, on_host=False, graphs=True)))


def row(family: str, side: int) -> str:
    taken = " | ".join(f"{plan.needed / GIB:.1f}" for plan in ladder(family, side=side))
    return f"| {load_spec(family).title} at {side} | {taken} |"


def test_the_manuals_table_is_the_planners() -> None:
    expected = [row(family, side) for family in FAMILIES.own_names() for side in (512, 1024)]
    found = [line for line in MANUAL.read_text().splitlines() if line in expected]
    assert found == expected, "\n".join(expected)
