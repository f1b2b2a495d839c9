"""The machines themselves, and the page that draws them."""

import re
from collections.abc import Mapping
from contextlib import suppress
from itertools import product
from pathlib import Path
from typing import Any

import pytest

from maquette.core.drawing import Refusal
from maquette.core.lifecycle import (
    ATTEMPT_ENDED,
    FAILURES,
    IMAGE,
    IMAGE_FAILURES,
    MODEL,
    TASK,
    Failure,
    FailureClass,
    IllegalMove,
    ImageStatus,
    Machine,
    ModelStatus,
    Reason,
    TaskStatus,
)

NOTHING = "\N{EN DASH}"
PAGE = (Path(__file__).parents[2] / "docs" / "lifecycle.md").read_text()
MACHINES: list[tuple[Machine[Any], Any, str]] = [
    (TASK, TaskStatus, "Tasks"),
    (MODEL, ModelStatus, "Models"),
    (IMAGE, ImageStatus, "Image tasks"),
]
Failures = Mapping[Reason, Failure[Any]]


def section(title: str) -> str:
    return PAGE.split(f"\n## {title}\n")[1].split("\n## ")[0]


def table(title: str) -> list[list[str]]:
    """Cells of the section's table, without its head."""
    rows = [line for line in section(title).splitlines() if line.startswith("|")]
    return [[cell.strip() for cell in row.strip("|").split("|")] for row in rows[2:]]


def drawn(title: str) -> set[tuple[str, str]]:
    """Arrows of the section's picture."""
    return set(re.findall(r"^ +(\S+) --> (\S+)$", section(title), re.MULTILINE))


@pytest.mark.parametrize(("machine", "_statuses", "title"), MACHINES)
def test_the_page_lists_exactly_the_edges(machine: Machine[Any], _statuses: Any, title: str) -> None:
    listed = {
        (None if source == NOTHING else source, to): set(re.findall(r"`(\w+)`", reasons))
        for source, to, reasons, _when in table(title)
    }
    assert listed == {edge: set(reasons) for edge, reasons in machine.edges.items()}


@pytest.mark.parametrize(("machine", "statuses", "title"), MACHINES)
def test_the_page_draws_exactly_the_edges(machine: Machine[Any], statuses: Any, title: str) -> None:
    edges = {(source or "[*]", to) for source, to in machine.edges}
    ends = {(status, "[*]") for status in statuses if machine.is_final(status)}
    assert drawn(title) == edges | ends


@pytest.mark.parametrize(("failures", "title"), [(FAILURES, "Failed attempts"), (IMAGE_FAILURES, "Failed drawings")])
def test_the_page_lists_exactly_the_failures(failures: Failures, title: str) -> None:
    listed = {reason.strip("`"): (kind, int(attempts), words) for reason, kind, attempts, words in table(title)}
    assert listed == {
        reason: (failure.failure_class, failure.attempts, failure.words) for reason, failure in failures.items()
    }


@pytest.mark.parametrize(("machine", "statuses", "_title"), MACHINES)
def test_sources_and_births_are_the_edges(machine: Machine[Any], statuses: Any, _title: str) -> None:
    """Every pair of states, and birth, with every reason."""
    every_source: list[Any] = [None, *statuses]
    every_reason: list[Reason] = list(Reason)
    for source, to, reason in product(every_source, statuses, every_reason):
        edge = reason in machine.edges.get((source, to), frozenset())
        assert (source in sources(machine, to, reason)) == edge


def sources(machine: Machine[Any], to: Any, reason: Reason) -> set[Any]:
    """From where `reason` leads to `to`, None for birth: as the machine's guards answer it."""
    found: set[Any] = set()
    with suppress(IllegalMove):
        machine.check_birth(to, reason)
        found.add(None)
    with suppress(IllegalMove):
        found |= machine.sources(to, reason)
    return found


def test_the_ends_are_final() -> None:
    assert {status for status in TaskStatus if TASK.is_final(status)} == {"SUCCESS", "FAILED", "CANCELED"}
    assert {status for status in ImageStatus if IMAGE.is_final(status)} == {"TASK_STATUS_SUCCEED", "TASK_STATUS_FAILED"}


def test_every_status_can_be_reached() -> None:
    for machine, statuses, _ in MACHINES:
        reached: set[Any] = {None}
        for _round in statuses:
            reached |= {to for source, to in machine.edges if source in reached}
        assert reached == {None, *statuses}


@pytest.mark.parametrize(
    ("machine", "failures", "running", "waiting"),
    [
        (TASK, FAILURES, TaskStatus.TRAINING, TaskStatus.QUEUING),
        (IMAGE, IMAGE_FAILURES, ImageStatus.PROCESSING, ImageStatus.QUEUED),
    ],
)
def test_every_failed_attempt_leads_somewhere(
    machine: Machine[Any], failures: Failures, running: Any, waiting: Any
) -> None:
    """An attempt may end for any failure: its final status is open, and the queue for what may be tried again."""
    requeued = machine.edges[running, waiting]
    for reason, failure in failures.items():
        assert reason in machine.edges[running, failure.final_status]
        assert machine.is_final(failure.final_status)
        assert not failure.retries_after(failure.attempts)
        for ended in range(failure.attempts):
            assert failure.retries_after(ended) == (reason in requeued)
        assert (reason in requeued) == (failure.failure_class is not FailureClass.USER)
    assert frozenset(FAILURES) == ATTEMPT_ENDED


def test_what_a_worker_refuses_is_a_failed_drawing() -> None:
    assert {Reason(refusal) for refusal in Refusal} <= set(IMAGE_FAILURES)


def test_an_illegal_move_says_what_was_tried() -> None:
    with pytest.raises(IllegalMove, match="task: no edge from nothing to SUCCESS for created"):
        TASK.check_birth(TaskStatus.SUCCESS, Reason.CREATED)


def test_statuses_are_the_published_words() -> None:
    published: Mapping[Any, str] = {
        TaskStatus: "QUEUING TRAINING SUCCESS FAILED CANCELED",
        ModelStatus: "DEPLOYING SERVING",
        ImageStatus: "TASK_STATUS_QUEUED TASK_STATUS_PROCESSING TASK_STATUS_SUCCEED TASK_STATUS_FAILED",
    }
    for statuses, words in published.items():
        assert [str(status) for status in statuses] == words.split()
