"""Trained models."""

from sqlalchemy.ext.asyncio import AsyncConnection

from maquette.db.move import CreatedModel, create_model


async def birth(
    conn: AsyncConnection,
    *,
    tenant_id: str,
    task_id: str,
    name: str,
    object_key: str,
    sample_key: str,
    size: int,
    sha256: str,
) -> CreatedModel:
    """Give a task its model, DEPLOYING; belongs in the transaction that moves the task to SUCCESS.

    The objects are stored and verified already; `size` (bytes) and `sha256` (hex) are those of the weights, and `name`
    is the published one (`maquette.core.ids.model_name`).
    """
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
