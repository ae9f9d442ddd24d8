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
_WANTED_S = 30.0  # who wanted more before that has it, or is gone


@dataclass
class Account:
    """This process's slice of one ledger. `limit`: of a ledger; None in it means no limit."""

    book: LedgerStore
    folder: Path
    limit: Callable[[Ledger], tuple[int | None, int | None]]
    holder: str = field(default_factory=lambda: uuid.uuid4().hex)
    given: Amount = NOTHING
    settled: Amount = NOTHING
    reserved: Amount = NOTHING
    _recalled: bool = False  # the budget was lowered: nothing more until the ledger gives some
    _count: SpendFile = field(init=False)

    def __post_init__(self) -> None:
        self._count = SpendFile(self.folder, self.holder)

    @property
    def free(self) -> Amount:
        return self.given - self.settled - self.reserved

    def fits(self, most: Amount) -> bool:
        free = self.free
        return not self._recalled and most.nanos <= free.nanos and most.tokens <= free.tokens

    def move(self, reserved: Amount, settled: Amount) -> None:
        self.reserved += reserved
        self.settled += settled
        self._count.note(self.settled, self.reserved)

    async def enlarge(self, most: Amount) -> bool:
        """Take more from the ledger, so that calls of this size fit. False where it has not as much."""
        free = self.free
        short = Amount(max(0, most.nanos - free.nanos), max(0, most.tokens - free.tokens))
        given = await asyncio.to_thread(self._enlarge, short, most)
        if given is not None:
            self.given, self._recalled = given, False
        return given is not None

    def _enlarge(self, short: Amount, most: Amount) -> Amount | None:
        reconcile(self.book, self.folder)
        given: Amount | None = None

        def more(before: Ledger) -> Ledger:
            nonlocal given
            left = left_of(before, self.limit(before))
            others = len(before.slices.keys() - {self.holder})
            taken = share(most, left, others) or (short if share(short, left) else None)
            given = None if taken is None else self.given + taken
            return before if given is None else before.with_slice(self.holder, given, self._count.machine)

        self.book.change(more)
        return given

    async def ask_others(self) -> bool:
        """Let those that hold a slice know that this one needs more. False where there are none."""
        found = await asyncio.to_thread(self.book.change, lambda before: before.wanted_by(self.holder, time.time()))
        return bool(found.slices.keys() - {self.holder})

    async def obey(self) -> None:
        """Give up what is free where the budget was lowered below what is given out, and half of it where another
        holder needs some. What is in flight ends as it was reserved."""
        found = await asyncio.to_thread(self.book.read)
        if found is None:
            return
        left = left_of(found, self.limit(found))
        if left.nanos < 0 or left.tokens < 0:
            self._recalled = True
            await self.give_back()
        elif any(name != self.holder and time.time() - at < _WANTED_S for name, at in found.wanted.items()):
            await self.give_back(NOTHING if self.free == NOTHING else self.free.half())

    async def give_back(self, kept: Amount = NOTHING) -> None:
        """Keep no more than what is spent or set aside, and `kept` of what is free."""
        kept = self.settled + self.reserved + kept
        if kept != self.given:
            self.given = kept
            await asyncio.to_thread(self.book.change, lambda before: self._kept(before, kept))

    def _kept(self, before: Ledger, kept: Amount) -> Ledger:
        if self.holder not in before.slices:
            return before
        return before.with_slice(self.holder, kept, self._count.machine).model_copy(update={"paused": before.paused})

    async def close(self) -> None:
        """Charge what was spent, and free the rest of the slice."""
        spent = self.settled + self.reserved
        if self.given != NOTHING:
            await asyncio.to_thread(self.book.change, lambda before: before.closed(self.holder, spent))
        self._count.drop()


def left_of(found: Ledger, limit: tuple[int | None, int | None]) -> Amount:
    """What nobody holds and nobody spent."""
    nanos, tokens = (_UNBOUNDED if most is None else most for most in limit)
    return Amount(nanos, tokens) - found.charged
