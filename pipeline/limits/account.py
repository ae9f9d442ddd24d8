"""A process's slice of a ledger."""

import asyncio
import time
import uuid
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from pipeline.limits.ledger import Ledger, LedgerStore, share
from pipeline.limits.spend_file import SpendFile, reconcile
from stages.limits.budget import NOTHING, Amount

_UNBOUNDED = 1 << 62
_WANTED_S = 30.0  # older requests for more were served, or their holder is gone


@dataclass
class Account:
    """This process's slice of one ledger. `limit`: of a ledger; None in it means no limit."""

    book: LedgerStore
    folder: Path
    limit: Callable[[Ledger], tuple[int | None, int | None]]
    holder: str = field(default_factory=lambda: uuid.uuid4().hex)
    granted: Amount = NOTHING
    settled: Amount = NOTHING
    reserved: Amount = NOTHING
    seen: Ledger | None = None  # as it was last read
    _recalled: bool = False  # the budget was lowered: nothing is spent until the ledger grants more
    _count: SpendFile = field(init=False)

    def __post_init__(self) -> None:
        self._count = SpendFile(self.folder, self.holder)

    @property
    def free(self) -> Amount:
        return self.granted - self.settled - self.reserved

    def fits(self, most: Amount) -> bool:
        free = self.free
        return not self._recalled and most.nanos <= free.nanos and most.tokens <= free.tokens

    def move(self, reserved: Amount, settled: Amount) -> None:
        self.reserved += reserved
        self.settled += settled
        self._count.note(self.settled, self.reserved)

    async def enlarge(self, most: Amount) -> bool:
        """Take more from the ledger, so that calls of this size fit. Returns False if it has not enough."""
        free = self.free
        short = Amount(max(0, most.nanos - free.nanos), max(0, most.tokens - free.tokens))
        granted = await asyncio.to_thread(self._enlarge, short, most)
        if granted is not None:
            self.granted, self._recalled = granted, False
        return granted is not None

    def _enlarge(self, short: Amount, most: Amount) -> Amount | None:
        reconcile(self.book, self.folder)
        enlarged: Amount | None = None

        def more(before: Ledger) -> Ledger:
            nonlocal enlarged
            left = left_of(before, self.limit(before))
            others = len(before.slices.keys() - {self.holder})
            increase = share(most, left, others) or (short if share(short, left) else None)
            enlarged = None if increase is None else self.granted + increase
            return before if enlarged is None else before.with_slice(self.holder, enlarged, self._count.machine)

        self.book.change(more)
        return enlarged

    async def ask_others(self) -> bool:
        """Tell the other holders of slices that this one needs more. Returns False if there are none."""
        found = await asyncio.to_thread(
            self.book.change, lambda before: before.with_request_of(self.holder, time.time())
        )
        return bool(found.slices.keys() - {self.holder})

    async def yield_free(self) -> None:
        """Give up the free amount if the budget was lowered below the sum of slices, and half of it if another holder
        needs some. Calls in flight end as they were reserved."""
        found = await asyncio.to_thread(self.book.read)
        self.seen = found or self.seen
        if found is None:
            return
        left = left_of(found, self.limit(found))
        if left.nanos < 0 or left.tokens < 0:
            self._recalled = True
            await self.give_back()
        elif any(name != self.holder and time.time() - since < _WANTED_S for name, since in found.wanted.items()):
            await self.give_back(NOTHING if self.free == NOTHING else self.free.half())

    async def give_back(self, kept: Amount = NOTHING) -> None:
        """Keep only the spent and reserved amounts, and `kept` of the free one."""
        kept = self.settled + self.reserved + kept
        if kept != self.granted:
            self.granted = kept
            await asyncio.to_thread(self.book.change, lambda before: self._kept(before, kept))

    def _kept(self, before: Ledger, kept: Amount) -> Ledger:
        if self.holder not in before.slices:
            return before
        return before.with_slice(self.holder, kept, self._count.machine).model_copy(update={"paused": before.paused})

    async def close(self) -> None:
        """Charge the spent amount, and free the rest of the slice."""
        spent = self.settled + self.reserved
        if self.granted != NOTHING:
            self.seen = await asyncio.to_thread(self.book.change, lambda before: before.closed(self.holder, spent))
        self._count.drop()


def left_of(ledger: Ledger, limit: tuple[int | None, int | None]) -> Amount:
    """Return the amount that is neither spent nor in a slice."""
    nanos, tokens = (_UNBOUNDED if most is None else most for most in limit)
    return Amount(nanos, tokens) - ledger.charged
