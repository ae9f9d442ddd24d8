"""How work over many rows says that it goes on: with how many rows it has done since it last did.

An activity takes a note as its heartbeat; other callers leave it out.
"""

from collections.abc import Callable

Note = Callable[[int], None]


def unnoted(rows: int) -> None:
    """For callers that nobody waits for."""
