"""How long to wait before what failed is tried again."""

LONGEST_BACK_OFF = 30.0
MOST_DOUBLINGS = 16


def pause_after(interval: float, failures: int) -> float:
    """Seconds until the next try: the interval, doubled for each failure in a row, up to half a minute."""
    return max(interval, min(interval * 2.0 ** min(failures, MOST_DOUBLINGS), LONGEST_BACK_OFF))
