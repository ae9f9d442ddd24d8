"""Limits set on a live run: an object beside its request, which each worker reads while it works on the run.

Activities can receive nothing but a cancellation, and a batch may take an hour; so workers read the object regularly.
"""

import asyncio
import logging
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

from pipeline.stores import Store
from pipeline.stores.documents import read_document
from schemas import ids
from schemas.errors import ObjectMissing, StoreError
from schemas.messages.run import SetLimits

log = logging.getLogger("tandem.controls")
LOOK_EVERY_S = 2.0


def load_limits(store: Store, run: str) -> SetLimits:
    """Load the limits set on a run; they hold until the run has ended, also after a resume."""
    try:
        return read_document(store, ids.limits_of_run(run), SetLimits)
    except ObjectMissing:
        return SetLimits()


def save_limits(store: Store, run: str, limits: SetLimits) -> SetLimits:
    """Add to the limits set before. Of a budget it keeps only that one was set: its amount is in a ledger."""
    merged = load_limits(store, run).model_copy(update=limits.model_dump(exclude_none=True))
    store.put(ids.limits_of_run(run), merged.model_dump_json().encode())
    return merged


@dataclass
class LiveLimits:
    """Live limits of a worker: one reader for all batches of a plan that run here."""

    _running: Counter[str] = field(default_factory=Counter)
    _watching: dict[str, "asyncio.Task[None]"] = field(default_factory=dict)

    @asynccontextmanager
    async def followed(
        self, store: Store, run: str, plan: str, apply: Callable[[SetLimits], Awaitable[None]]
    ) -> AsyncIterator[None]:
        """Within the block, call `apply` with the limits, and again when they change. Afterwards, `is_idle` is True if
        it was the last of its plan."""
        self._running[plan] += 1
        if plan not in self._watching:
            self._watching[plan] = asyncio.create_task(_look(store, run, apply))
        try:
            yield
        finally:
            self._running[plan] -= 1
            if not self._running[plan]:
                del self._running[plan]
                self._watching.pop(plan).cancel()

    def is_idle(self, plan: str) -> bool:
        return not self._running[plan]


async def _look(store: Store, run: str, apply: Callable[[SetLimits], Awaitable[None]]) -> None:
    seen = SetLimits()
    while True:
        try:
            found = await asyncio.to_thread(load_limits, store, run)
        except (StoreError, OSError, ValueError) as exc:  # it is looked at again
            log.warning("limits of run %s cannot be read: %s", run, exc)
            found = seen
        if found != seen:
            await apply(found)
            seen = found
        await asyncio.sleep(LOOK_EVERY_S)
