"""How long a loop waits before its next turn."""

from maquette.core.backoff import back_off

LONGEST_PAUSE = 30.0


def pause_after(interval: float, failures: int) -> float:
    """Seconds until the next try: the interval, doubled for each failure in a row, up to half a minute."""
    return back_off(failures + 1, first=interval, longest=max(interval, LONGEST_PAUSE))
