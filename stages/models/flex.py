"""Flex: half the price, slower, and at times without room for a call, which is then waited out, and at last asked at
the standard price."""

import time
from collections.abc import Callable
from dataclasses import dataclass
from math import inf

TIMEOUT_S = 900.0  # of a call, as the provider advises
_REST_S = 300.0  # of standard calls, before flex is tried again


@dataclass(eq=False)
class Flex:
    """The room that a model has at flex, as its calls found it. `patience_s`: how long it may have none."""

    patience_s: float
    clock: Callable[[], float] = time.monotonic
    _full_since: float = inf
    _standard_until: float = -inf

    def may_have_room(self) -> bool:
        """False while calls are asked at the standard price."""
        return self.clock() >= self._standard_until

    def record_answer(self) -> None:
        self._full_since = inf

    def record_full(self) -> None:
        """Note that a call was refused because there was no room."""
        now = self.clock()
        self._full_since = min(self._full_since, now)
        if now - self._full_since >= self.patience_s:
            self._full_since, self._standard_until = inf, now + _REST_S
