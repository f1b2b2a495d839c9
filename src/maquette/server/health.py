"""Whether the server lives, and whether it can do its work. Open to everybody, and silent about everything else."""

from litestar import get
from litestar.di import NamedDependency
from msgspec import Struct
from sqlalchemy import select

from maquette.db.engine import Database
from maquette.db.tables import tenants
from maquette.server.http_errors import ERRORS


class Health(Struct, frozen=True):
    """The good news; bad news is an error."""

    status: str = "ok"


@get("/healthz")
async def healthz() -> Health:
    """The process answers."""
    return Health()


@get("/readyz", responses={503: ERRORS[503]})
async def readyz(database: NamedDependency[Database]) -> Health:
    """The database answers, in the schema of this version."""
    async with database.read() as conn:
        await conn.execute(select(tenants.c.id).limit(1))
    return Health()
