"""Questions that somebody is looking at, so that two reviewers are not shown the same one."""

import threading
import time
from collections.abc import Callable, Iterable

_KEPT_S = 180.0


class Claims:
    """Claims of one process: the name of a question → who looks at it, for some minutes after the last look."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._held: dict[str, tuple[str, float]] = {}
        self._lock = threading.Lock()

    def claim(self, questions: Iterable[str], reviewer: str) -> str | None:
        """Return the first of these questions that nobody else looks at, claimed for this reviewer, who gives up
        another one. None if all are taken."""
        with self._lock:
            now = self._clock()
            self._held = {
                name: held for name, held in self._held.items() if held[1] > now - _KEPT_S and held[0] != reviewer
            }
            for name in questions:
                if name not in self._held:
                    self._held[name] = (reviewer, now)
                    return name
        return None

    def of_others(self, reviewer: str) -> int:
        """Return the number of questions that others look at."""
        with self._lock:
            return sum(1 for name, at in self._held.values() if name != reviewer and at > self._clock() - _KEPT_S)

    def release(self, question: str) -> None:
        with self._lock:
            self._held.pop(question, None)
