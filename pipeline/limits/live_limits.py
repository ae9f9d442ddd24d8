"""Limits set on a live run: an object beside its request, which each worker looks at while it is at work on the run.

Activities cannot be told anything but that they are cancelled, and a batch may take an hour; so workers look.
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
    """What was set on a run; it holds until the run has ended, also where it is resumed."""
    try:
        return read_document(store, ids.limits_of_run(run), SetLimits)
    except ObjectMissing:
        return SetLimits()


def save_limits(store: Store, run: str, asked: SetLimits) -> SetLimits:
    """Add to what was set before. Of a budget it only says that one was set: it has a ledger."""
    merged = load_limits(store, run).model_copy(update=asked.model_dump(exclude_none=True))
    store.put(ids.limits_of_run(run), merged.model_dump_json().encode())
    return merged


@dataclass
class LiveLimits:
    """One a worker: one look for all batches of a plan that are at work here."""

    _at_work: Counter[str] = field(default_factory=Counter)
    _looking: dict[str, "asyncio.Task[None]"] = field(default_factory=dict)

    @asynccontextmanager
    async def followed(
        self, store: Store, run: str, plan: str, apply: Callable[[SetLimits], Awaitable[None]]
    ) -> AsyncIterator[None]:
        """Within the block, `apply` is told of the limits, and again when they change. `is_idle` says afterwards
        whether it was the last of its plan."""
        self._at_work[plan] += 1
        if plan not in self._looking:
            self._looking[plan] = asyncio.create_task(_look(store, run, apply))
        try:
            yield
        finally:
            self._at_work[plan] -= 1
            if not self._at_work[plan]:
                del self._at_work[plan]
                self._looking.pop(plan).cancel()

    def is_idle(self, plan: str) -> bool:
        return not self._at_work[plan]


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
