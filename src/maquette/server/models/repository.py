"""What the models slice asks of the database. Every query takes the tenant."""

from sqlalchemy import exists, select
from sqlalchemy.ext.asyncio import AsyncConnection

from maquette.db.tables import models


async def is_taken(conn: AsyncConnection, tenant_id: str, name: str) -> bool:
    """Whether one of a tenant's models has this name."""
    query = select(exists().where(models.c.tenant_id == tenant_id, models.c.name == name))
    return bool(await conn.scalar(query))
