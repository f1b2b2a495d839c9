"""Creating at most once: a POST that is sent again under its `Idempotency-Key` gets its first answer."""

import hashlib
from typing import Annotated, Any, TypeVar

import msgspec
from litestar import Request
from litestar.di import NamedDependency
from litestar.params import HeaderParameter
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

Key = Annotated[
    str | None,
    HeaderParameter(
        name=HEADER,
        description="New for each thing to create: sent again under its key, a request gets its first answer.",
        schema_extra={"minLength": 1, "maxLength": LONGEST_KEY, "pattern": "^[ -~]+$"},
    ),
]


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
        return self._earlier(row, kind) if row else None

    async def claim(self, conn: AsyncConnection, kind: type[Answer]) -> Answer | None:
        """Take the key for this transaction, or answer as `answer` does where the request was served before.

        A repetition that arrives while the first request is being served waits here until that has committed, or
        takes its place if it failed. The key's row stays locked until the transaction ends, so that it is not
        forgotten meanwhile.
        """
        if self.key is None:
            return None
        statement = insert(conn, idempotency_keys).values(
            tenant_id=self.tenant_id, key=self.key, fingerprint=self.fingerprint, answer={}, created_at=now_sql(conn)
        )
        # Setting the key to itself changes nothing; it locks the row that is there and answers what it holds.
        statement = statement.on_conflict_do_update(
            index_elements=[idempotency_keys.c.tenant_id, idempotency_keys.c.key],
            set_={"key": statement.excluded.key},
        ).returning(idempotency_keys.c.fingerprint, idempotency_keys.c.answer)
        row = (await conn.execute(statement)).one()
        return self._earlier(row, kind) if row.answer else None

    async def remember(self, conn: AsyncConnection, answer: Struct) -> None:
        """Store the answer, in the transaction that claimed the key and created what it speaks of."""
        if self.key is None:
            return
        await conn.execute(
            update(idempotency_keys)
            .where(idempotency_keys.c.tenant_id == self.tenant_id, idempotency_keys.c.key == self.key)
            .values(answer=msgspec.to_builtins(answer))
        )

    def _earlier(self, row: Any, kind: type[Answer]) -> Answer:
        """The answer in a key's row, if that is this request's."""
        if row.fingerprint != self.fingerprint:
            raise MaquetteError(
                ErrorReason.IDEMPOTENCY_KEY_REUSED,
                f"{HEADER}: this key came with another request before; take a new key for each thing to create",
            )
        return msgspec.convert(row.answer, kind)


async def idempotency_of(
    request: Request[str, Any, Any],
    tenant_id: NamedDependency[str],
    declared: Key = None,  # noqa: ARG001
) -> Idempotency:
    """The creating request at hand.

    `declared` puts the header into the schema. The key is read from the request itself, since the framework takes the
    word null for None.

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
