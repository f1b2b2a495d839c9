"""Trained models."""

from sqlalchemy.ext.asyncio import AsyncConnection

from maquette.core.ids import model_name
from maquette.db.move import CreatedModel, create_model
from maquette.server.models import repository


async def birth(
    conn: AsyncConnection,
    *,
    tenant_id: str,
    task_id: str,
    finished_at: int,
    object_key: str,
    sample_key: str,
    size: int,
    sha256: str,
) -> CreatedModel:
    """Give a task its model, DEPLOYING; belongs in the transaction that moves the task to SUCCESS.

    The objects are stored and verified already; `size` (bytes) and `sha256` (hex) are those of the weights. The name
    is the published one, of the second `finished_at` (Unix), or of a later one where an equal LoRA has that name.
    """
    name = model_name(finished_at, sha256)
    while await repository.is_taken(conn, tenant_id, name):
        finished_at += 1
        name = model_name(finished_at, sha256)
    return await create_model(
        conn,
        tenant_id=tenant_id,
        task_id=task_id,
        name=name,
        object_key=object_key,
        sample_key=sample_key,
        size=size,
        sha256=sha256,
    )
