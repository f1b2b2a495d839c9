"""A server of one's own, run as a user runs it: `maquette serve` in a process."""

import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

MAQUETTE = (sys.executable, "-m", "maquette")
GREETING = "listening on "
HOST = "127.0.0.1"
STOP_SECONDS = 30


class ServerProcess:
    """`maquette serve` on a free port over a data directory; started by entering, stopped by leaving.

    Attributes:
        data_dir: its data directory, which outlives it.
        url: its address while it runs.
    """

    def __init__(
        self, data_dir: Path, settings: Mapping[str, str] | None = None, *, options: Sequence[str] = ()
    ) -> None:
        """Take the data directory, further `MAQUETTE_*` variables and options of `serve`; nothing runs yet."""
        self.data_dir = data_dir
        self.log = data_dir / "server.log"
        self.url = ""
        self._port = 0
        self._options = options
        # What an operator has set is about another server: this one must not touch its database.
        ours = {name: value for name, value in os.environ.items() if not name.startswith("MAQUETTE_")}
        self._environment = ours | dict(settings or {})
        self._process: subprocess.Popen[str] | None = None

    def start(self) -> None:
        """Start, and wait until it listens; once started, it always gets the same port again.

        Raises:
            RuntimeError: it ended instead; the words are its log's.
        """
        self.data_dir.mkdir(parents=True, exist_ok=True)
        where = ("--host", HOST, "--port", str(self._port), "--data-dir", str(self.data_dir))
        command = [*MAQUETTE, "serve", *where, *self._options]
        with self.log.open("a") as log:
            self._process = subprocess.Popen(
                command, stdout=subprocess.PIPE, stderr=log, text=True, env=self._environment
            )
        assert self._process.stdout is not None
        with self._process.stdout as lines:
            greeting = lines.readline().strip()
        if not greeting.startswith(GREETING):
            self.stop()
            raise RuntimeError(f"the server did not start:\n{self.log.read_text()}")
        self.url = greeting.removeprefix(GREETING)
        self._port = int(self.url.rpartition(":")[2])

    def stop(self) -> None:
        """Ask it to end, and end it if it takes too long."""
        if self._process is None:
            return
        self._process.terminate()
        try:
            self._process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            self.kill()

    def kill(self) -> None:
        """End it at once, as a power cut would."""
        assert self._process is not None
        self._process.kill()
        self._process.wait()

    def command(self, *arguments: str) -> str:
        """Run one of the operator's commands on the same data directory, and answer what it printed."""
        command = [*MAQUETTE, *arguments, "--data-dir", str(self.data_dir)]
        done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True, env=self._environment)
        return done.stdout.strip()

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()
