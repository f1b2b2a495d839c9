"""What lies here does not depend on the kind of database."""

import pytest

from maquette.db.engine import Database


@pytest.fixture
def database(sqlite_database: Database) -> Database:
    """A migrated, empty SQLite database."""
    return sqlite_database
