"""Which databases a URL may name, and what is said of the others."""

import subprocess
import sys
from pathlib import Path

import pytest

from maquette.db.engine import UnusableDatabase, open_database

WITHOUT_ASYNCPG = """
import asyncio, sys
sys.modules["asyncpg"] = None
from maquette.db.engine import UnusableDatabase, open_database
from maquette.db.migrate import upgrade

async def main(path):
    database = open_database(f"sqlite:///{path}")
    await upgrade(database)
    await database.dispose()
    try:
        open_database("postgresql://host/name")
    except UnusableDatabase as error:
        print(error)

asyncio.run(main(sys.argv[1]))
"""


@pytest.mark.parametrize(
    ("url", "words"),
    [
        ("mysql://root:secret@host/name", "no support for 'mysql' databases; the URL must start with"),
        ("sqlite://", "a SQLite database needs a file"),
        ("sqlite:///:memory:", "a SQLite database needs a file"),
        ("/var/lib/maquette.db", "write sqlite:///path/to/file or postgresql://user@host/name"),
        ("", "write sqlite:///path/to/file"),
    ],
)
def test_an_unusable_url_is_answered_with_what_to_write(url: str, words: str) -> None:
    with pytest.raises(UnusableDatabase) as refusal:
        open_database(url)
    assert words in str(refusal.value)
    assert "secret" not in str(refusal.value)


@pytest.mark.parametrize(
    "url",
    [
        "postgres://user:password@host/name",
        "postgresql://user@host:5433/name?sslmode=require",
        "postgresql+psycopg://user@host/name",
        "sqlite+aiosqlite:////tmp/x.db",
    ],
)
async def test_other_spellings_are_understood(url: str) -> None:
    await open_database(url).dispose()


async def test_sslmode_reaches_the_driver(postgresql_url: str) -> None:
    """The test server has no TLS: required, it is refused; preferred, it is done without."""
    demanding, easy = (open_database(f"{postgresql_url}&sslmode={mode}") for mode in ("verify-full", "prefer"))
    async with easy.read():
        pass
    with pytest.raises(Exception, match=r"(?i)ssl|certificate"):
        async with demanding.read():
            pass
    await easy.dispose()
    await demanding.dispose()


def test_sqlite_needs_no_postgresql_driver(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", WITHOUT_ASYNCPG, tmp_path / "x.db"], capture_output=True, text=True, check=True
    )
    assert done.stdout == "PostgreSQL needs asyncpg: pip install 'maquette[postgres]'\n"
