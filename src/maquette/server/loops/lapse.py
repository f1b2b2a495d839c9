"""What is under way when a lease lapses."""

from collections.abc import Sequence

from maquette.server.loops.base import Loop
from maquette.server.loops.lease import Lease


class LapseLoop(Loop):
    """Cuts off the errands of other loops once the lease is not trusted any more.

    It asks nobody but the clock: the others may hang on a database that does not answer. A launch that went on would
    start a trainer, and an observation keep one alive, after another server may have taken the attempt.
    """

    def __init__(self, lease: Lease, loops: Sequence[Loop], *, interval: float) -> None:
        super().__init__(interval)
        self._lease = lease
        self._loops = loops

    async def turn(self) -> None:
        """One look at the lease."""
        if not self._lease.trusted:
            for loop in self._loops:
                loop.errands.cancel_all()
