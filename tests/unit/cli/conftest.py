import os
import sys
from functools import partial

import httpx
import pytest

from maquette.cli import output
from maquette.cli.main import app
from maquette.client.client import Client
from maquette.testing.commands import Answer, Ended, Play, Run


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    """Output goes into a pipe and is 80 columns wide; nothing is set in the environment."""
    for name in [name for name in os.environ if name.startswith("MAQUETTE_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("COLUMNS", "80")

    def run_command(*arguments: object) -> Ended:
        monkeypatch.setattr(sys, "argv", ["maquette", *map(str, arguments)])
        with pytest.raises(SystemExit) as ended:
            app()
        said = capsys.readouterr()
        return Ended(int(ended.value.code or 0), said.out, said.err)

    return run_command


@pytest.fixture
def play(monkeypatch: pytest.MonkeyPatch) -> Play:
    seen: list[httpx.Request] = []

    def play_server(answer: Answer) -> list[httpx.Request]:
        def handle(request: httpx.Request) -> httpx.Response:
            seen.append(request)
            return answer(request)

        monkeypatch.setattr(output, "Client", partial(Client, transport=httpx.MockTransport(handle)))
        monkeypatch.setenv("MAQUETTE_API_KEY", "mq_key")
        return seen

    return play_server
