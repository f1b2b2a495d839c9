"""What `list`, `show`, `watch` and `cancel` print."""

import json
from pathlib import Path
from typing import Any

import httpx
import pytest

from maquette.testing.commands import Answer, Play, Run

TASK_ID = "3c6f9d1e-1111-4222-8333-444455556666"
MODEL = "model_1750000540_0A1B2C3D4E.safetensors"
NAME = "[/x] [red]acme :cat:"
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
        "only_the_server_knows": 1,
    }
    return row(**known | changes)


def listing(*rows: dict[str, Any]) -> Answer:
    """A server that has these tasks."""

    def answer(request: httpx.Request) -> httpx.Response:
        found = [] if request.url.params["pagination.cursor"] else rows
        return httpx.Response(200, json={"tasks": found, "pagination": {"next_cursor": "c_1"}})

    return answer


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
    play(lambda _: httpx.Response(200, json=detail(message="failed at [red]once")))
    shown = run("show", TASK_ID).out
    for words in (TASK_ID, NAME, f"{MODEL} (DEPLOYING)", "finished: failed at [red]once", r"[/x]\n\x1b[31mred"):
        assert words in shown


def test_show_tells_how_the_last_steps_went(run: Run, play: Play) -> None:
    (point, _) = json.loads(CURVE.read_bytes())["points"]
    play(lambda _: httpx.Response(200, json=detail(metrics=point)))
    shown = [line.split(maxsplit=1) for line in run("show", TASK_ID).out.splitlines()]
    assert ["loss", "0.1875"] in shown
    assert ["pace", "4 steps/s"] in shown


@pytest.mark.parametrize(
    ("changes", "words"), [({}, "failed, loss 0.188, 4 steps/s"), ({"message": "[/x]"}, "failed: [/x]")]
)
def test_the_bar_tells_how_the_last_steps_went_or_what_is_wrong(
    run: Run, play: Play, monkeypatch: pytest.MonkeyPatch, changes: dict[str, str], words: str
) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    (point, _) = json.loads(CURVE.read_bytes())["points"]
    play(lambda _: httpx.Response(200, json=detail(task_status="FAILED", metrics=point, **changes)))
    assert words in run("watch", TASK_ID).err


@pytest.mark.parametrize(("status", "code"), [("SUCCESS", 0), ("CANCELED", 1)])
def test_watch_asks_once_for_a_task_that_has_ended(run: Run, play: Play, status: str, code: int) -> None:
    requests = play(lambda _: httpx.Response(200, json=detail(task_status=status, message="[/x]")))
    ended = run("watch", TASK_ID)
    assert (ended.code, ended.out) == (code, f"{TASK_ID} {status} [/x]\n")
    assert len(requests) == 1


@pytest.mark.parametrize("command", ["show", "watch"])
def test_a_task_in_json_is_the_servers_own_object(run: Run, play: Play, command: str) -> None:
    play(lambda _: httpx.Response(200, json=detail()))
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
    assert json.loads(run("download", TASK_ID, "--output", folder, "--json").out) == {"file": str(folder / MODEL)}
    assert (folder / MODEL).read_text() == "weights as diffusers"


def test_what_has_no_lora_is_not_downloaded(run: Run, play: Play, tmp_path: Path) -> None:
    requests = play(lambda _: httpx.Response(200, json=detail(task_status="TRAINING", models=[])))
    ended = run("download", TASK_ID, "--output", tmp_path)
    assert (ended.code, ended.out) == (1, "")
    assert "the task is TRAINING and has no LoRA" in ended.err
    assert len(requests) == 1
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
