"""Creating at most once: a POST that is sent again under its `Idempotency-Key` gets its first answer."""

import hashlib
from typing import Any, TypeVar

import msgspec
from litestar import Request
from litestar.di import NamedDependency
from msgspec import Struct
from sqlalchemy import delete, select, update
from sqlalchemy.ext.asyncio import AsyncConnection

from maquette.core.errors import ErrorReason, InvalidRequest, MaquetteError
from maquette.db.dialects import insert
from maquette.db.now import now_sql
from maquette.db.tables import idempotency_keys

Answer = TypeVar("Answer", bound=Struct)

HEADER = "Idempotency-Key"
LONGEST_KEY = 255


class Idempotency(Struct, frozen=True):
    """One creating request.

    Attributes:
        tenant_id: who sent it; keys of different tenants never meet.
        key: what makes it one with its repetitions, or None: then it creates whenever it is sent.
        fingerprint: hex SHA-256 of what was asked for.
    """

    tenant_id: str
    key: str | None
    fingerprint: str

    async def answer(self, conn: AsyncConnection, kind: type[Answer]) -> Answer | None:
        """What this request was answered when it came before; None where it is new.

        Raises:
            MaquetteError: IDEMPOTENCY_KEY_REUSED, where its key came with another request.
        """
        if self.key is None:
            return None
        row = (
            await conn.execute(
                select(idempotency_keys.c.fingerprint, idempotency_keys.c.answer).where(
                    idempotency_keys.c.tenant_id == self.tenant_id, idempotency_keys.c.key == self.key
                )
            )
        ).one_or_none()
        if row is None:
            return None
        if row.fingerprint != self.fingerprint:
            raise MaquetteError(
                ErrorReason.IDEMPOTENCY_KEY_REUSED,
                f"{HEADER}: this key came with another request before; take a new key for each thing to create",
            )
        return msgspec.convert(row.answer, kind)

    async def claim(self, conn: AsyncConnection, kind: type[Answer]) -> Answer | None:
        """Take the key for this transaction, or answer as `answer` does where the request was served before.

        A repetition that arrives while the first request is being served waits here until that has committed, or
        takes its place if it failed.
        """
        if self.key is None:
            return None
        statement = (
            insert(conn, idempotency_keys)
            .values(
                tenant_id=self.tenant_id,
                key=self.key,
                fingerprint=self.fingerprint,
                answer={},
                created_at=now_sql(conn),
            )
            .on_conflict_do_nothing()
            .returning(idempotency_keys.c.key)
        )
        if (await conn.execute(statement)).one_or_none():
            return None
        return await self.answer(conn, kind)

    async def remember(self, conn: AsyncConnection, answer: Struct) -> None:
        """Store the answer, in the transaction that claimed the key and created what it speaks of."""
        if self.key is None:
            return
        await conn.execute(
            update(idempotency_keys)
            .where(idempotency_keys.c.tenant_id == self.tenant_id, idempotency_keys.c.key == self.key)
            .values(answer=msgspec.to_builtins(answer))
        )


async def idempotency_of(request: Request[str, Any, Any], tenant_id: NamedDependency[str]) -> Idempotency:
    """The creating request at hand.

    Raises:
        InvalidRequest: its key can't be used.
    """
    key = request.headers.get(HEADER)
    if key is not None and not (1 <= len(key) <= LONGEST_KEY and key.isascii() and key.isprintable()):
        raise InvalidRequest(HEADER, f"must be 1 to {LONGEST_KEY} printable ASCII characters")
    asked = f"{request.route_handler.handler_name}\n".encode() + await request.body()
    return Idempotency(tenant_id, key, hashlib.sha256(asked).hexdigest())


async def forget_old_keys(conn: AsyncConnection, age: float) -> None:
    """Drop the keys that came more than `age` seconds ago; sent again they create anew."""
    await conn.execute(delete(idempotency_keys).where(idempotency_keys.c.created_at < now_sql(conn) - age))
