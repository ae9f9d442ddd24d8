"""The observer of what stages do. Nobody listens by default, and then nothing is computed: those who have something to
report look at `current` first.

    if (seen := observer.current) is not None:
        seen.call_answered(model, usage, cost_usd)
"""

from collections.abc import Mapping
from typing import Protocol


class Observer(Protocol):
    """Hears of single events, on any thread; it must return at once, and must not raise."""

    def call_answered(self, model: str, usage: Mapping[str, int], cost_usd: float | None) -> None:
        """Hear of a call whose answer is paid for. `usage`: tokens as `input`, `output`, `cached_input`, …;
        `cost_usd` None: its price is unknown."""

    def call_failed(self, model: str, *, unknown: bool) -> None:
        """Hear of a call without an answer. `unknown`: it may have been billed all the same."""

    def limit_waited(self, seconds: float) -> None:
        """Hear how long a call waited for its turn."""

    def rows_done(self, stage: str, rows: int) -> None:
        """Hear of rows that have an outcome in a stage, from the journal or from its graph."""

    def flush_began(self, journal: object) -> None:
        """Hear that a journal begins to store its records; again, if the store refused them before."""

    def flush_ended(self, journal: object) -> None:
        """Hear that these records are stored."""


current: Observer | None = None


def listen(observer: Observer | None) -> None:
    """Let an observer hear of everything in this process from now on; None: nobody."""
    global current  # noqa: PLW0603  one a process, set once before its work
    current = observer
