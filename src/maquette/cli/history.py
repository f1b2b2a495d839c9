"""A task's history in words: what its owner should know while it trains, and everything that happened."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from rich.filesize import decimal

from maquette.client.client import Client
from maquette.client.records import Status, TaskDetail

Event = Mapping[str, Any]

NEWS = frozenset({"finding", "note", "plan", "resumed", "stepped_back"})
"""Kinds of events that tell how good a LoRA may become, or how it is come by."""


class Told(NamedTuple):
    """One line of a history: what kind of thing is told, in a word, the thing itself, and the pictures it is about."""

    label: str
    words: str
    pictures: tuple[str, ...] = ()


class News:
    """What a task's history tells that its owner should know, from the beginning and as it goes on.

    Each finding is told once, since every attempt finds the same.
    """

    def __init__(self, client: Client, names: Sequence[str] = ()) -> None:
        """Take the names of the task's pictures by which their owner knows them, where they are at hand."""
        self._client = client
        self._names = names
        self._seen = 0
        self._findings: set[Told] = set()

    def of(self, task: TaskDetail) -> list[Told]:
        """What the task's history tells since it was last asked for."""
        fresh: list[Told] = []
        for event in self._client.events(task.task_id, after=self._seen):
            self._seen = event["number"]
            told = told_of(event)
            if is_news(event) and told not in self._findings:
                fresh.append(told)
            if event["kind"] == "finding":
                self._findings.add(told)
        return [Told(told.label, in_full(told, task, self._names)) for told in gathered(fresh)]


def gathered(lines: Sequence[Told]) -> list[Told]:
    """What is told of several pictures alike becomes one line, in the place of the first."""
    pictures: dict[tuple[str, str], tuple[str, ...]] = {}
    for label, words, about in lines:
        pictures[label, words] = pictures.get((label, words), ()) + about
    together = (told._replace(pictures=pictures[told.label, told.words]) for told in lines)
    return [all_of for told, all_of in zip(lines, together, strict=True) if told.pictures[:1] == all_of.pictures[:1]]


def is_news(event: Event) -> bool:
    """Whether its owner should know of an event while the task goes on."""
    data = event["data"]
    is_retried = data.get("from") == Status.TRAINING and data["to"] == Status.QUEUING
    return is_retried or event["kind"] in NEWS


def told_of(event: Event) -> Told:
    """An event in words, whatever it tells."""
    label, data = event["kind"], event["data"]
    match label:
        case "finding":
            label, words = data["severity"], data["message"]
        case "note":
            words = data["text"]
        case "plan":
            words = data["why"]
        case "resumed":
            label, words = _resumed(data)
        case "stepped_back":
            back = f"from step {data['diverged_at']} to step {data['to']}, at half the rate, {data['lr']:.3g}"
            label, words = "went back", f"{back}: {data['why']}"
        case "task" | "model":
            words = f"{data['to']}: {data.get('message') or data['reason']}"
        case "started":
            step = data["resumed_from"]
            words = "from the beginning" if step is None else f"with the checkpoint of step {step}"
        case "phase":
            words = data["phase"]
        case "memory":
            words = f"{decimal(data['peak_bytes'])} at the most, {decimal(data['needed_bytes'])} were planned"
        case _:
            words = ", ".join(f"{name} {_plain(value)}" for name, value in data.items())
    return Told(label, words, (data["picture"],) if data.get("picture") else ())


def in_full(told: Told, task: TaskDetail, names: Sequence[str] = ()) -> str:
    """The words of a line behind the pictures that it is about, see `called`."""
    words = f"{', '.join(told.pictures)}: {told.words}" if told.pictures else told.words
    return called(words, task, names)


def called(words: str, task: TaskDetail, names: Sequence[str] = ()) -> str:
    """Words in which a task's pictures are called as their owner calls them, or else by their place."""
    for picture, name in zip(task.pictures, names or places(task), strict=True):
        words = words.replace(picture.name, name)
    return words


def places(task: TaskDetail) -> list[str]:
    """What to call a task's pictures where nobody knows their names: picture 1, picture 2, ..."""
    return [f"picture {number + 1}" for number in range(len(task.pictures))]


def _plain(value: object) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _resumed(data: Mapping[str, Any]) -> tuple[str, str]:
    step, recorded, computed = data["step"], data["recorded"], data["computed"]
    if recorded is None:
        return "resumed", f"from step {step}; an older version recorded no loss to compare"
    if data["verified"]:
        return "resumed", f"from step {step}, where the loss is {computed:.4g} as recorded"
    return "dropped", f"the checkpoint of step {step}: its loss is {computed:.4g}, {recorded:.4g} was recorded"
