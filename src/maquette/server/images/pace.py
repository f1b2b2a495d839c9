"""How many pictures a tenant may ask for in a minute.

Counted from the rows of its image tasks, so that it outlives a restart and holds over all servers of one database.
"""

from collections.abc import Sequence
from math import ceil

from sqlalchemy.ext.asyncio import AsyncConnection

from maquette.core.errors import RateLimitExceeded
from maquette.server.images import repository
from maquette.server.images.repository import AskedPictures

MINUTE = 60.0


async def hold(conn: AsyncConnection, tenant_id: str, most: int, *, further: int = 0) -> None:
    """Let no more than `most` pictures be asked for within a minute, those that are `further` asked for now included.

    Exact in the transaction that has inserted the task at hand: the running number that the task took makes others of
    the tenant wait until then. `most` of 0 is no limit.

    Raises:
        RateLimitExceeded: it says when there is room again.
    """
    if most == 0:
        return
    # Every task has a picture, so that older ones than these can't matter.
    newest = await repository.newest_asked(conn, tenant_id, tasks=most + 1)
    within = [asked for asked in newest if asked.age < MINUTE]
    excess = sum(asked.images for asked in within) + further - most
    if excess > 0:
        raise RateLimitExceeded(
            f"at most {most} pictures a minute may be asked for on this server", _room_in(within, excess)
        )


def _room_in(newest_first: Sequence[AskedPictures], excess: int) -> int:
    """Whole seconds until so many pictures are a minute old."""
    for asked in reversed(newest_first):
        excess -= asked.images
        if excess <= 0:
            return ceil(MINUTE - asked.age)
    return ceil(MINUTE)
