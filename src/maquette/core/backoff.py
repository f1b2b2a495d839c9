"""How long to wait before what failed is tried again."""

MOST_DOUBLINGS = 64
"""Beyond any bound in use, and few enough for a float."""


def back_off(failures: int, *, first: float = 1.0, longest: float = 60.0) -> float:
    """Seconds before the next try: `first` after one failure, twice as long after each further one in a row.

    Args:
        failures: how many there were in a row; none waits as one does.
        first: seconds after the first.
        longest: seconds that are never exceeded.
    """
    return min(first * 2.0 ** min(max(failures - 1, 0), MOST_DOUBLINGS), longest)
