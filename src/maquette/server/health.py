"""Whether the server lives, and whether it can do its work. Open to everybody, and silent about everything else."""

from litestar import get
from litestar.di import NamedDependency
from litestar.params import SkipValidation
from msgspec import UNSET, Struct, UnsetType
from sqlalchemy import select

from maquette.db.engine import Database
from maquette.db.tables import tenants
from maquette.server.http_errors import ERRORS
from maquette.serving.base import Pool, PoolState


class Health(Struct, frozen=True):
    """The good news; bad news is an error."""

    status: str = "ok"


class Readiness(Struct, frozen=True):
    """The same, and in words how drawing does: what is asked for waits while it is down, and the API works on."""

    drawing: str | UnsetType
    status: str = "ok"


@get("/healthz")
async def healthz() -> Health:
    """The process answers."""
    return Health()


@get("/readyz", responses={503: ERRORS[503]})
async def readyz(database: NamedDependency[Database], pool: NamedDependency[SkipValidation[Pool | None]]) -> Readiness:
    """The database answers, in the schema of this version."""
    async with database.read() as conn:
        await conn.execute(select(tenants.c.id).limit(1))
    return Readiness(_drawing(pool.state()) if pool else UNSET)


def _drawing(state: PoolState) -> str:
    if state.ready:
        return "ready"
    if state.waiting:
        return "down: pictures wait, and no worker is ready to draw them; if that lasts, the server's log says why"
    return "idle: workers start with the first picture"
