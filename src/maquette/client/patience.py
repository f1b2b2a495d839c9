"""Going on while a server is away."""

import time
from collections.abc import Callable, Iterator

import httpx

from maquette.client.address import origin
from maquette.core.errors import ErrorReason, MaquetteError

PATIENCE_SECONDS = 120.0
"""How long a server may be away before a call gives up: long enough for its restart."""
RETRY_AFTER = "retry-after"
FIRST_PAUSE = 0.5
LONGEST_PAUSE = 8.0
AWAY = frozenset({502, 503, 504})
"""Statuses of a server, or of the proxy before it, that say: not now."""
NOT_NOW = frozenset({429, 500})
"""Statuses that say so where they come with a `Retry-After`."""
LONGEST_ASKED = 60.0
"""Seconds that a `Retry-After` is believed."""


class Patience:
    """Tries calls again while their server is away.

    Only a server that was there before can be away: where nothing has ever answered, not even with a 503, the address
    is wrong or nobody has started the server, and waiting would only hide it. A connection is no answer.
    """

    def __init__(self, on_wait: Callable[[str], object]) -> None:
        """Take whom to tell, once for each time that a server is waited for."""
        self._on_wait = on_wait
        self._reached: set[str] = set()
        self._waited_for: set[str] = set()

    def answered(self, response: httpx.Response) -> None:
        """Take note of an answer, as soon as its head is here: its body may still break off."""
        self._reached.add(origin(response.url))

    def call(self, url: httpx.URL, send: Callable[[], httpx.Response], *, advice: str) -> httpx.Response:
        """Send until there is an answer, with growing pauses; a server that stays away answers as it last did.

        Args:
            url: where `send` sends to.
            send: may be called again and again; what it gets is told to `answered`.
            advice: what to look at where nothing has ever answered.

        Raises:
            MaquetteError: nothing answers.
        """
        address = origin(url)
        pauses = _pauses()
        while True:
            outcome = self._try(address, send, advice)
            if isinstance(outcome, httpx.Response) and not _says_not_now(outcome):
                self._waited_for.discard(address)
                return outcome
            pause = next(pauses, None)
            if pause is None:
                return _last(address, outcome)
            self._tell(address, outcome)
            time.sleep(max(pause, _asked(outcome)))

    def _try(
        self, address: str, send: Callable[[], httpx.Response], advice: str
    ) -> httpx.Response | httpx.TransportError:
        try:
            return send()
        except httpx.TransportError as error:
            if address not in self._reached:
                raise _unavailable(f"nothing answers at {address} ({error}); {advice}") from error
            return error

    def _tell(self, address: str, outcome: httpx.Response | httpx.TransportError) -> None:
        if address not in self._waited_for:
            self._waited_for.add(address)
            why = f"it answers {outcome.status_code}" if isinstance(outcome, httpx.Response) else str(outcome)
            self._on_wait(f"waiting for {address} ({why})")


def _says_not_now(response: httpx.Response) -> bool:
    return response.status_code in AWAY or (response.status_code in NOT_NOW and RETRY_AFTER in response.headers)


def _asked(outcome: httpx.Response | httpx.TransportError) -> float:
    """Seconds that an answer asks to wait; a date there asks for none."""
    after = outcome.headers.get(RETRY_AFTER, "") if isinstance(outcome, httpx.Response) else ""
    return min(float(after), LONGEST_ASKED) if after.isdecimal() else 0.0


def _pauses() -> Iterator[float]:
    """Pauses until patience ends, counted from the first."""
    deadline = time.monotonic() + PATIENCE_SECONDS
    pause = FIRST_PAUSE
    while time.monotonic() + pause <= deadline:
        yield pause
        pause = min(2 * pause, LONGEST_PAUSE)


def _last(address: str, outcome: httpx.Response | httpx.TransportError) -> httpx.Response:
    if isinstance(outcome, httpx.Response):
        return outcome
    raise _unavailable(f"{address} can't be reached any more: {outcome}") from outcome


def _unavailable(words: str) -> MaquetteError:
    return MaquetteError(ErrorReason.SERVICE_UNAVAILABLE, words)
