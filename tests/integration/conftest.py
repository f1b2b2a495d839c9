"""A server's loops for every integration test."""

from collections.abc import AsyncGenerator

import pytest

from maquette.db.engine import Database
from maquette.testing.loops import Service, open_service


@pytest.fixture
async def service(database: Database) -> AsyncGenerator[Service]:
    """The loops over a database of each kind; none runs until a test starts them."""
    async with open_service(database) as service:
        yield service
