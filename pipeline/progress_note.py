"""The progress callback of work over many rows: it gets the number of rows done since its last call.

An activity sends it with its heartbeat; other callers leave it out.
"""

from collections.abc import Callable

Note = Callable[[int], None]


def unnoted(rows: int) -> None:
    """Ignore progress, for callers without a heartbeat."""
