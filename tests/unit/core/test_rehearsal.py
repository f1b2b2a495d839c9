"""What a name or a prompt asks a sandbox for."""

from pathlib import Path

import pytest

from maquette.core.rehearsal import OF_PICTURES, OF_TRAININGS, Breakdown, asked_for

MANUAL = Path(__file__).parents[3] / "docs" / "sandbox.md"


@pytest.mark.parametrize("breakdown", Breakdown)
@pytest.mark.parametrize("form", ["sandbox: {}", "  Sandbox:{} a cat", "SANDBOX:\t{}\n"])
def test_a_breakdown_is_asked_for_by_its_name(breakdown: Breakdown, form: str) -> None:
    assert asked_for(form.format(breakdown)) == breakdown
    assert asked_for(form.format(breakdown.upper())) == breakdown


@pytest.mark.parametrize("words", ["", "a cat", "nan", "sandbox", "a sandbox: nan", "sandbox nan"])
def test_other_words_ask_for_nothing(words: str) -> None:
    assert asked_for(words) is None


def test_what_is_no_breakdown_is_told_as_it_is() -> None:
    assert asked_for("sandbox: no-such thing") == "no-such"
    assert asked_for("sandbox:") == ""


def test_each_breakdown_can_be_asked_for_and_is_in_the_manual() -> None:
    assert set(Breakdown) == OF_TRAININGS | OF_PICTURES
    rows = [row for row in MANUAL.read_text().splitlines() if row.startswith("| `sandbox: ")]
    assert {row.split("`")[1].removeprefix("sandbox: ") for row in rows} == set(Breakdown)
