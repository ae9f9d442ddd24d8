"""The time that a row has used itself: its code, and the calls that it has sent. Waiting does not count."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field


@dataclass
class RowClock:
    """Stands still while anything of the row waits for a limit, a Retry-After, an outage, a budget, or another row."""

    began: float = field(default_factory=time.monotonic)
    _waited: float = 0.0
    _waiting: int = 0
    _since: float = 0.0

    @contextmanager
    def waiting(self) -> Iterator[None]:
        """Stop the clock within the block."""
        if not self._waiting:
            self._since = time.monotonic()
        self._waiting += 1
        try:
            yield
        finally:
            self._waiting -= 1
            if not self._waiting:
                self._waited += time.monotonic() - self._since

    def seconds(self) -> float:
        """Return the seconds that the row has used so far."""
        until = self._since if self._waiting else time.monotonic()
        return until - self.began - self._waited
