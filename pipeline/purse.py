"""What one process may spend of a run's budget, and of the pipeline's for today.

A call takes from the process's own slice, at a microsecond or two; a slice that is too small for the next call is
enlarged from the ledger, for some hundred calls at once. Where the ledger has no more, calls wait for those in flight
to be settled; when none is, the process gives back what it has left and says that the budget is reached.
"""

import asyncio
import contextlib
import datetime as dt
import fcntl
import os
import struct
import uuid
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

from pipeline import ledger
from pipeline.ledger import Book, Ledger, share
from pipeline.stores import Store
from schemas import digests
from schemas.errors import BudgetReached, StoreError
from schemas.messages.base import RunRef
from stages.limits.budget import NOTHING, Amount, amount_of

_COUNTS = struct.Struct("<4q")
_UNBOUNDED = 1 << 62


class Count:
    """What a slice was spent on, in a file: after a kill somebody else on this machine closes the account by it. Locked
    by its owner; the kernel releases the lock however the owner dies."""

    def __init__(self, folder: Path, holder: str) -> None:
        self.machine = ""
        self._path = folder / holder
        with contextlib.suppress(OSError):
            folder.mkdir(parents=True, exist_ok=True)
            self._file = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600)
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            os.pwrite(self._file, _COUNTS.pack(0, 0, 0, 0), 0)
            self.machine = machine(folder)

    def note(self, settled: Amount, reserved: Amount) -> None:
        """One small write, which a kill finds done or not begun."""
        if self.machine:
            try:
                os.pwrite(self._file, _COUNTS.pack(*settled, *reserved), 0)
            except OSError:  # a full disk: better no count than an old one
                self.drop()

    def drop(self) -> None:
        if self.machine:
            self.machine = ""
            self._path.unlink(missing_ok=True)
            os.close(self._file)


def machine(folder: Path) -> str:
    """Where a count can be read: this folder, since this machine was started."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    except OSError:
        boot = ""
    return digests.digest(os.uname().nodename, boot, str(folder.absolute()))[:16]


def left_by_the_dead(book: Ledger, folder: Path) -> dict[str, Amount]:
    """What holders that died on this machine had spent, calls in flight in full."""
    found = {}
    here = machine(folder)
    for holder, held in book.slices.items():
        if held.machine != here:
            continue
        with contextlib.suppress(OSError):
            file = os.open(folder / holder, os.O_RDWR)
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)  # fails while its owner lives
                settled, tokens, reserved, more = _COUNTS.unpack(os.pread(file, _COUNTS.size, 0))
                found[holder] = Amount(settled + reserved, tokens + more)
            except struct.error:
                pass
            finally:
                os.close(file)
    return found


def reconcile(book: Book, folder: Path) -> Ledger:
    """Close the accounts of those who died here. Blocks."""
    found = book.read() or Ledger()
    dead = left_by_the_dead(found, folder)
    if not dead:
        return found

    def closed(before: Ledger) -> Ledger:
        for holder, spent in dead.items():
            before = before.closed(holder, spent)
        return before

    found = book.change(closed)
    for holder in dead:
        (folder / holder).unlink(missing_ok=True)
    return found


@dataclass
class Account:
    """This process's slice of one ledger. `limit`: of a ledger; None in it means no limit."""

    book: Book
    folder: Path
    limit: Callable[[Ledger], tuple[int | None, int | None]]
    holder: str = field(default_factory=lambda: uuid.uuid4().hex)
    given: Amount = NOTHING
    settled: Amount = NOTHING
    reserved: Amount = NOTHING
    _count: Count = field(init=False)

    def __post_init__(self) -> None:
        self._count = Count(self.folder, self.holder)

    @property
    def free(self) -> Amount:
        return self.given - self.settled - self.reserved

    def fits(self, most: Amount) -> bool:
        free = self.free
        return most.nanos <= free.nanos and most.tokens <= free.tokens

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
            self.given = given
        return given is not None

    def _enlarge(self, short: Amount, most: Amount) -> Amount | None:
        reconcile(self.book, self.folder)
        given: Amount | None = None

        def more(before: Ledger) -> Ledger:
            nonlocal given
            left = left_of(before, self.limit(before))
            taken = share(most, left) or (short if share(short, left) else None)
            given = None if taken is None else self.given + taken
            return before if given is None else before.with_slice(self.holder, given, self._count.machine)

        self.book.change(more)
        return given

    async def give_back(self) -> None:
        """Keep no more than what is spent or set aside."""
        kept = self.settled + self.reserved
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


class RunPurse:
    """The purse of a run in this process, shared by its batches."""

    def __init__(
        self, store: Store, run: str, folder: Path, day_nanos: int | None, today: Callable[[], dt.date]
    ) -> None:
        self._of_run = Account(
            ledger.of_run(store, run), folder, lambda found: (found.limits.nanos, found.limits.tokens)
        )
        self._store, self._folder, self._day_nanos, self._today = store, folder, day_nanos, today
        self._days: dict[dt.date, Account] = {}
        self.tight = False
        self._turn = asyncio.Lock()
        self._settled = asyncio.Event()
        self._out = 0

    async def reserve(self, most: Amount) -> "Reserved":
        """See `stages.limits.budget.Purse`."""
        accounts = self._accounts()
        if self._turn.locked() or not all(account.fits(most) for account in accounts):
            accounts = await self._made_room(most)
        self._out += 1
        return Reserved(self, accounts, most)

    def _accounts(self) -> tuple[Account, ...]:
        if self._day_nanos is None:
            return (self._of_run,)
        day, limit = self._today(), self._day_nanos
        if day not in self._days:
            book = ledger.of_day(self._store, day)
            self._days[day] = Account(book, self._folder, lambda found: (limit, None))
        return self._of_run, self._days[day]

    async def _made_room(self, most: Amount) -> tuple[Account, ...]:
        """The accounts once the call fits, first come first served. Raises BudgetReached when nothing that is in
        flight could make room for it."""
        async with self._turn:
            while True:
                accounts = self._accounts()
                short = next((account for account in accounts if not account.fits(most)), None)
                if short is None:
                    return accounts
                self._settled.clear()
                if await short.enlarge(most):
                    continue
                if self._out:
                    await self._settled.wait()
                elif not self._settled.is_set():
                    for account in accounts:
                        await account.give_back()
                    raise BudgetReached("the next call does not fit in what is left of the budget", needed=most)

    def settled(self) -> None:
        """A call is over."""
        self._out -= 1
        self._settled.set()

    async def close(self) -> None:
        """Give back what is left. What the store does not take stays charged."""
        for account in (self._of_run, *self._days.values()):
            with contextlib.suppress(StoreError):
                await account.close()


class Reserved:
    """See `stages.limits.budget.Held`."""

    __slots__ = ("_accounts", "_done", "_most", "_purse", "_sent")

    def __init__(self, purse: RunPurse, accounts: tuple[Account, ...], most: Amount) -> None:
        self._purse, self._accounts, self._most = purse, accounts, most
        self._sent = self._done = False
        for account in accounts:
            account.move(most, NOTHING)

    def sending(self) -> None:
        self._sent = True

    def unbilled(self) -> None:
        self._end(NOTHING)

    def settle(self, usd: float | None, tokens: int) -> None:
        self._end(Amount(self._most.nanos, tokens) if usd is None else amount_of(usd, tokens))

    def close(self) -> None:
        self._end(self._most if self._sent else NOTHING)

    def _end(self, spent: Amount) -> None:
        if self._done:
            return
        self._done = True
        for account in self._accounts:
            account.move(NOTHING - self._most, spent)
        self._purse.settled()


def utc_today() -> dt.date:
    return dt.datetime.now(dt.UTC).date()


class Purses:
    """The purses of a process, a run each, for as long as a batch of that run is at work."""

    def __init__(self, folder: Path, today: Callable[[], dt.date] = utc_today) -> None:
        self.folder = folder
        self._today = today
        self._open: dict[tuple[str, str], asyncio.Task[RunPurse | None]] = {}
        self._users: dict[asyncio.Task[RunPurse | None], int] = {}

    @asynccontextmanager
    async def of(self, store: Store, ref: RunRef) -> AsyncIterator[RunPurse | None]:
        """None where the run has no budget. With the last batch, what is left goes back to the ledger."""
        key = (ref.sink, ref.run)
        task = self._open.get(key)
        if task is None:
            task = self._open[key] = asyncio.create_task(self._opened(store, ref.run))
        self._users[task] = self._users.get(task, 0) + 1
        try:
            yield await asyncio.shield(task)
        finally:
            self._users[task] -= 1
            if not self._users[task]:
                del self._users[task], self._open[key]
                await asyncio.shield(_closed(task))  # also for an activity that is cancelled

    async def _opened(self, store: Store, run: str) -> RunPurse | None:
        found = await asyncio.to_thread(ledger.of_run(store, run).read)
        if found is None or not found.limits.any:
            return None
        return RunPurse(store, run, self.folder, found.limits.day_nanos, self._today)


async def _closed(task: "asyncio.Task[RunPurse | None]") -> None:
    with contextlib.suppress(Exception):  # it could not be opened, and whoever asked for it was told
        purse = await task
        if purse is not None:
            await purse.close()
