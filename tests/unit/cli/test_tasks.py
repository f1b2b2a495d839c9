"""What `list`, `show`, `events`, `checkpoints`, `watch` and `cancel` print, and `download` saves."""

import json
import re
from hashlib import sha256
from pathlib import Path
from typing import Any

import httpx
import pytest
from rich.console import Console

from maquette.cli import output
from maquette.testing.commands import Answer, Play, Run

TASK_ID = "3c6f9d1e-1111-4222-8333-444455556666"
MODEL = "model_1750000540_0A1B2C3D4E.safetensors"
NAME = "[/x] [red]acme :cat:"
NAMES = ["00-9b1f.png", "01-9b1f.jpeg"]
PICTURES = [{"name": name, "sha256": "", "caption": "a photo"} for name in NAMES]
CURVE = Path(__file__).parents[2] / "golden" / "metrics.json"


def row(**changes: Any) -> dict[str, Any]:
    return {
        "task_name": NAME,
        "task_id": TASK_ID,
        "task_type": "subject",
        "task_status": "SUCCESS",
        "created_at": 1750000000,
        "models": [{"model_name": MODEL, "model_status": "DEPLOYING"}],
        **changes,
    }


def detail(**changes: Any) -> dict[str, Any]:
    known = {
        "reason": "finished",
        "message": "",
        "step": 5,
        "total_steps": 5,
        "eta_seconds": 0,
        "settings": {"instance_prompt": "[/x]\n\x1b[31mred"},
        "pictures": [],
        "only_the_server_knows": 1,
    }
    return row(**known | changes)


def columns(shown: str, count: int = 2) -> list[list[str]]:
    return [re.split(r" {2,}", line, maxsplit=count - 1) for line in shown.splitlines()]


def listing(*rows: dict[str, Any]) -> Answer:
    """A server that has these tasks."""

    def answer(request: httpx.Request) -> httpx.Response:
        found = [] if request.url.params["pagination.cursor"] else rows
        return httpx.Response(200, json={"tasks": found, "pagination": {"next_cursor": "c_1"}})

    return answer


def task(*history: dict[str, Any], **changes: Any) -> Answer:
    """A server that has this task, with this history."""

    def answer(request: httpx.Request) -> httpx.Response:
        if request.url.path.endswith("/events"):
            after = int(request.url.params["after"])
            return httpx.Response(200, json={"events": [event for event in history if event["number"] > after]})
        return httpx.Response(200, json=detail(**changes))

    return answer


def event(number: int, kind: str, **data: Any) -> dict[str, Any]:
    return {"number": number, "kind": kind, "created_at": 1750000000.0 + number, "data": data}


def finding(number: int, severity: str, message: str, picture: str | None = None) -> dict[str, Any]:
    return event(number, "finding", code="blurred", severity=severity, message=message, picture=picture)


def test_ids_and_names_are_whole_in_a_narrow_terminal(run: Run, play: Play) -> None:
    play(listing(row(), row(task_status="QUEUING", models=[])))
    header, first, second = run("list").out.splitlines()
    assert header.split() == ["task", "created", "type", "status", "model", "name"]
    assert first.startswith(f"{TASK_ID}  ")
    assert f"  {MODEL} (DEPLOYING)  " in first
    assert [line.index(NAME) for line in (first, second)] == [header.index("name")] * 2


def test_a_name_stays_on_its_line_and_moves_no_cursor(run: Run, play: Play) -> None:
    play(listing(row(task_name="two\nlines\x1b[2J")))
    assert run("list").out.splitlines()[1].endswith(r"two\nlines\x1b[2J")


def test_a_status_of_a_newer_server_is_unknown(run: Run, play: Play) -> None:
    play(listing(row(task_status="DREAMING")))
    assert "UNKNOWN" in run("list").out
    assert json.loads(run("list", "--json").out)[0]["task_status"] == "UNKNOWN"


def test_show_prints_data_as_it_is(run: Run, play: Play) -> None:
    play(task(message="failed at [red]once"))
    shown = run("show", TASK_ID).out
    for words in (TASK_ID, NAME, f"{MODEL} (DEPLOYING)", "finished: failed at [red]once", r"[/x]\n\x1b[31mred"):
        assert words in shown


def test_show_tells_how_the_last_steps_went(run: Run, play: Play) -> None:
    (point, _) = json.loads(CURVE.read_bytes())["points"]
    play(task(metrics=point))
    shown = [line.split(maxsplit=1) for line in run("show", TASK_ID).out.splitlines()]
    assert ["loss", "0.1875"] in shown
    assert ["pace", "4 steps/s"] in shown


HISTORY = [
    event(1, "task", **{"from": None, "to": "QUEUING", "reason": "created"}),
    event(2, "task", **{"from": "QUEUING", "to": "TRAINING", "reason": "dispatched", "message": ""}),
    event(3, "started", resumed_from=None, versions={"torch": "9"}),
    event(4, "plan", why="about 2 GiB of the 8 GiB that are free"),
    event(5, "phase", phase="prepare"),
    finding(6, "warning", f"shows nearly the same as {NAMES[0]}", NAMES[1]),
    finding(7, "info", "instance_prompt is longer than the text encoder reads"),
    event(8, "validation", step=5, loss=0.123456),
    event(9, "checkpoint", step=5),
    event(10, "memory", peak_bytes=1500, needed_bytes=2500),
    event(11, "task", **{"from": "TRAINING", "to": "QUEUING", "reason": "worker_lost", "message": "It was lost."}),
    finding(12, "warning", f"shows nearly the same as {NAMES[0]}", NAMES[1]),
    event(13, "started", resumed_from=9, versions={}),
    event(14, "resumed", step=9, verified=False, recorded=0.25, computed=0.5),
    event(15, "resumed", step=5, verified=True, recorded=0.125, computed=0.125),
    event(16, "stepped_back", diverged_at=8, to=5, lr=0.00005, why="the loss of step 8 is not finite"),
    event(17, "note", text="no sample could be drawn", picture=None),
    event(18, "of_a_newer_server", words="[/x]", share=1.23456),
]
NEWS = [
    ["plan", "about 2 GiB of the 8 GiB that are free"],
    ["warning", "picture 2: shows nearly the same as picture 1"],
    ["info", "instance_prompt is longer than the text encoder reads"],
    ["task", "QUEUING: It was lost."],
    ["dropped", "the checkpoint of step 9: its loss is 0.5, 0.25 was recorded"],
    ["resumed", "from step 5, where the loss is 0.125 as recorded"],
    ["went back", "from step 8 to step 5, at half the rate, 5e-05: the loss of step 8 is not finite"],
    ["note", "no sample could be drawn"],
]
OLDER = event(1, "resumed", step=4, verified=False, recorded=None, computed=0.5)


def test_show_tells_what_its_owner_should_know(run: Run, play: Play) -> None:
    play(task(*HISTORY, pictures=PICTURES, task_status="FAILED", message=f"{NAMES[1]}: can't be decoded"))
    shown = columns(run("show", TASK_ID).out)
    assert [line for line in shown if line in NEWS] == NEWS
    assert ["reason", "finished: picture 2: can't be decoded"] in shown
    assert not any("phase" in line for line in shown)


def test_news_are_told_while_a_task_is_followed(run: Run, play: Play) -> None:
    play(task(*HISTORY, pictures=PICTURES))
    *told, bar = run("watch", TASK_ID).err.splitlines()
    assert [[line[:11].strip(), line[11:]] for line in told] == NEWS
    assert bar.startswith("training   ")


def test_in_a_terminal_news_are_wrapped_beside_what_they_are(
    run: Run, play: Play, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "40")
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setattr(output, "err", Console(stderr=True, highlight=False, soft_wrap=True))
    play(task(HISTORY[15]))
    told = re.sub("\x1b[^a-zA-Z]*[a-zA-Z]", "", run("watch", TASK_ID).err)
    assert [line.rstrip() for line in told.splitlines()[:3]] == [
        "went back  from step 8 to step 5, at",
        "           half the rate, 5e-05: the",
        "           loss of step 8 is not finite",
    ]


def test_what_is_found_of_several_pictures_alike_is_one_line(run: Run, play: Play) -> None:
    history = [
        finding(1, "warning", "no face was found", NAMES[0]),
        finding(2, "warning", "is blurred", NAMES[0]),
        event(3, "resumed", step=5, verified=True, recorded=0.5, computed=0.5),
        event(4, "resumed", step=5, verified=True, recorded=0.5, computed=0.5),
        finding(5, "warning", "no face was found", NAMES[1]),
    ]
    play(task(*history, pictures=PICTURES))
    *told, _ = run("watch", TASK_ID).err.splitlines()
    assert told == [
        "warning    picture 1, picture 2: no face was found",
        "warning    picture 1: is blurred",
        *["resumed    from step 5, where the loss is 0.5 as recorded"] * 2,
    ]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    folder = tmp_path / "trained on"
    folder.mkdir()
    for name, content in {"copy.png": "cat", "cat.png": "cat", "dog.jpg": "dog"}.items():
        (folder / name).write_text(content)
    return folder


@pytest.mark.parametrize("command", ["show", "events", "watch"])
def test_pictures_are_called_as_in_the_folder_that_was_trained_on(
    run: Run, play: Play, folder: Path, command: str
) -> None:
    sent = [("0.png", "cat"), ("1.png", "cat"), ("2.png", "elk"), ("3.png", "dog")]
    pictures = [{"name": name, "sha256": sha256(content.encode()).hexdigest(), "caption": ""} for name, content in sent]
    history = [finding(number, "warning", f"{number} is like {name}", name) for number, (name, _) in enumerate(sent, 1)]
    play(task(*history, pictures=pictures, message="3.png: can't be decoded"))
    ended = run(command, TASK_ID, "--pictures", folder)
    for words in (
        "cat.png: 1 is like cat.png",
        "copy.png: 2 is like copy.png",
        "picture 3: 3 is like picture 3",
        "dog.jpg: 4 is like dog.jpg",
    ):
        assert words in ended.out + ended.err
    assert command == "events" or "dog.jpg: can't be decoded" in ended.out


def test_a_checkpoint_of_an_older_version_is_told_as_such(run: Run, play: Play) -> None:
    play(task(OLDER))
    assert ["resumed", "from step 4; an older version recorded no loss to compare"] in columns(run("show", TASK_ID).out)


def test_events_are_a_table_of_everything_or_the_servers_own_objects(run: Run, play: Play) -> None:
    play(task(*HISTORY, pictures=PICTURES))
    header, *lines = columns(run("events", TASK_ID).out, 3)
    assert header == ["when", "what", "told"]
    assert [[what, told] for _, what, told in lines] == [
        ["task", "QUEUING: created"],
        ["task", "TRAINING: dispatched"],
        ["started", "from the beginning"],
        NEWS[0],
        ["phase", "prepare"],
        NEWS[1],
        NEWS[2],
        ["validation", "step 5, loss 0.1235"],
        ["checkpoint", "step 5"],
        ["memory", "1.5 kB at the most, 2.5 kB were planned"],
        NEWS[3],
        NEWS[1],
        ["started", "with the checkpoint of step 9"],
        *NEWS[4:],
        ["of_a_newer_server", "words [/x], share 1.235"],
    ]
    assert json.loads(run("events", TASK_ID, "--json").out) == HISTORY


def test_the_bar_tells_how_the_last_steps_went(run: Run, play: Play, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    (point, _) = json.loads(CURVE.read_bytes())["points"]
    for status, words in {"SUCCESS": "loss 0.188, 4 steps/s", "FAILED": "failed"}.items():
        play(task(task_status=status, metrics=point))
        assert run("watch", TASK_ID).err.rstrip().endswith(f" left 0:00:00 {words}")


def test_in_a_narrow_terminal_the_bar_is_one_line(run: Run, play: Play, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "60")
    (point, _) = json.loads(CURVE.read_bytes())["points"]
    play(task(metrics=point))
    (line,) = run("watch", TASK_ID).err.splitlines()
    assert "5/5" in line


@pytest.mark.parametrize(("status", "code"), [("SUCCESS", 0), ("CANCELED", 1)])
def test_watch_asks_once_for_a_task_that_has_ended(run: Run, play: Play, status: str, code: int) -> None:
    requests = play(task(task_status=status, message="[/x]"))
    ended = run("watch", TASK_ID)
    assert (ended.code, ended.out) == (code, f"{TASK_ID} {status} [/x]\n")
    assert [request.url.path.rpartition("/")[2] for request in requests] == [TASK_ID, "events"]


@pytest.mark.parametrize("command", ["show", "watch"])
def test_a_task_in_json_is_the_servers_own_object(run: Run, play: Play, command: str) -> None:
    play(task())
    ended = run(command, TASK_ID, "--json")
    assert (ended.code, json.loads(ended.out)) == (0, detail())


def downloads(request: httpx.Request) -> httpx.Response:
    if request.url.path.endswith("/weights"):
        return httpx.Response(200, text=f"weights as {request.url.params['layout']}")
    return httpx.Response(200, json=detail())


@pytest.mark.parametrize("layout", ["diffusers", "kohya"])
def test_a_lora_is_saved_under_its_published_name(run: Run, play: Play, tmp_path: Path, layout: str) -> None:
    play(downloads)
    folder = tmp_path / "loras"
    ended = run("download", TASK_ID, "--output", folder, "--layout", layout)
    assert (ended.code, ended.out) == (0, f"{folder / MODEL}\n"), ended.err
    assert (folder / MODEL).read_text() == f"weights as {layout}"
    assert json.loads(run("download", TASK_ID, "--output", folder, "--json").out) == {
        "file": str(folder / MODEL),
        "samples": [],
    }
    assert (folder / MODEL).read_text() == "weights as diffusers"


def test_what_has_no_lora_is_not_downloaded(run: Run, play: Play, tmp_path: Path) -> None:
    requests = play(lambda _: httpx.Response(200, json=detail(task_status="TRAINING", models=[])))
    ended = run("download", TASK_ID, "--output", tmp_path)
    assert (ended.code, ended.out) == (1, "")
    assert "the task is TRAINING and has no LoRA" in ended.err
    assert len(requests) == 1
    assert list(tmp_path.iterdir()) == []


KEPT = [
    {"step": 5, "created_at": 1750000000, "size": 1500, "sha256": "", "samples": 0},
    {"step": 10, "created_at": 1750000001, "size": 1500, "sha256": "", "samples": 2},
]


def keeps(request: httpx.Request) -> httpx.Response:
    """A server that keeps two checkpoints, and answers what is in them with where it is."""
    if request.url.path.endswith("/checkpoints"):
        return httpx.Response(200, json={"checkpoints": KEPT})
    return httpx.Response(200, text=request.url.path.partition("/checkpoints/")[2])


def test_checkpoints_are_a_table_or_json(run: Run, play: Play) -> None:
    play(keeps)
    header, first, second = columns(run("checkpoints", TASK_ID).out, 4)
    assert header == ["step", "taken", "size", "samples"]
    assert [first[0], *first[2:], second[0], *second[2:]] == ["5", "1.5 kB", "0", "10", "1.5 kB", "2"]
    shown = json.loads(run("checkpoints", TASK_ID, "--json").out)
    assert shown == [{name: one[name] for name in ("step", "created_at", "size", "samples")} for one in KEPT]


def test_a_checkpoint_is_saved_with_what_was_drawn_with_it(run: Run, play: Play, tmp_path: Path) -> None:
    play(keeps)
    lora, *samples = (tmp_path / f"{TASK_ID}-step-10{end}" for end in (".safetensors", "-0.png", "-1.png"))
    ended = run("download", TASK_ID, "--step", "10", "--output", tmp_path)
    assert ended.out.splitlines() == [str(file) for file in (lora, *samples)], ended.err
    assert [file.read_text() for file in (lora, *samples)] == ["10/weights", "10/samples/0", "10/samples/1"]
    told = json.loads(run("download", TASK_ID, "--step", "10", "--output", tmp_path, "--json").out)
    assert told == {"file": str(lora), "samples": [str(sample) for sample in samples]}


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (("--step", "7"), "CHECKPOINT_NOT_FOUND no checkpoint of step 7 is kept; kept are 5, 10"),
        (("--step", "5", "--layout", "kohya"), "layout: checkpoints are in diffusers layout alone; leave out --layout"),
    ],
)
def test_what_is_no_checkpoint_is_not_saved(
    run: Run, play: Play, tmp_path: Path, options: tuple[str, ...], words: str
) -> None:
    play(keeps)
    ended = run("download", TASK_ID, "--output", tmp_path, *options)
    assert (ended.code, ended.out) == (1, "")
    assert words in ended.err
    assert list(tmp_path.iterdir()) == []


def test_a_curve_is_a_table_or_the_servers_own_object(run: Run, play: Play) -> None:
    curve = json.loads(CURVE.read_bytes())
    requests = play(lambda _: httpx.Response(200, json=curve))
    lines = [line.split() for line in run("metrics", TASK_ID, "--points", "7").out.splitlines()]
    assert lines == [
        ["step", "loss", "average", "rate", "gradient", "steps/s", "memory"],
        ["2", "0.1875", "0.1875", "0.0001", "0.75", "4", "2.0", "kB"],
        ["3", "0.0625", "0.1458", "5e-05", "1.5", "2", "3.0", "kB"],
        ["step", "held", "out"],
        ["0", "0.5"],
        ["2", "0.25"],
    ]
    assert json.loads(run("metrics", TASK_ID, "--json").out) == curve
    assert [request.url.params["points"] for request in requests] == ["7", "20"]


def test_a_curve_without_held_out_pictures_is_one_table(run: Run, play: Play) -> None:
    play(lambda _: httpx.Response(200, json={"points": [], "validation": []}))
    assert run("metrics", TASK_ID).out.split() == ["step", "loss", "average", "rate", "gradient", "steps/s", "memory"]


def test_cancel_prints_the_status_it_led_to(run: Run, play: Play) -> None:
    answer = {"task_id": TASK_ID, "task_status": "TRAINING"}
    requests = play(lambda _: httpx.Response(200, json=answer))
    assert run("cancel", TASK_ID).out == f"{TASK_ID} TRAINING\n"
    assert json.loads(run("cancel", TASK_ID, "--json").out) == answer
    assert [request.method for request in requests] == ["POST", "POST"]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--url", "http://127.0.0.1:abc"), "MAQUETTE_URL"),
        (("--url", "http://"), "MAQUETTE_URL"),
        (("--api-key", "mq_ä"), "MAQUETTE_API_KEY"),
        (("--url", "http://127.0.0.1:1"), "nothing answers at http://127.0.0.1:1"),
    ],
)
def test_what_can_not_be_reached_is_words_at_once(run: Run, arguments: tuple[str, ...], words: str) -> None:
    ended = run("list", "--api-key", "mq_key", *arguments)
    assert (ended.code, ended.out) == (1, "")
    assert words in ended.err
    assert "waiting" not in ended.err


def test_another_service_is_words(run: Run, play: Play) -> None:
    play(lambda _: httpx.Response(200, html="<html>welcome</html>"))
    ended = run("list")
    assert ended.code == 1
    assert "not as a Maquette server" in ended.err


def test_what_is_no_id_is_not_sent(run: Run, play: Play) -> None:
    requests = play(lambda _: httpx.Response(200, json=detail()))
    ended = run("show", "../training")
    assert ended.code == 1
    assert "'../training'" in ended.err
    assert requests == []
