"""One process's part of a run's budget, and of the pipeline's for today.

A call takes from the process's own slice, at a microsecond or two; a slice that is too small for the next call is
enlarged from the ledger, for some hundred calls at once. If the ledger has no more, calls wait for those in flight to
be settled; if there are none, the process returns the rest and raises BudgetReached."""

import asyncio
import contextlib
import datetime as dt
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from functools import cached_property
from pathlib import Path

from pipeline.limits import ledger
from pipeline.limits.account import Account
from pipeline.limits.ledger import BudgetLimits, Ledger
from pipeline.stores import Store
from schemas.errors import BudgetReached, StoreError
from schemas.messages.base import RunRef
from stages.limits.budget import NOTHING, Amount, amount_of

_LOOK_EVERY_S = 1.0
_ASK_EVERY_S = 0.25
_LATELY_S, _MOST_LATELY = 900.0, 16  # a run whose batches all wait has none open
_ASKS = 12  # other holders look once a second


class RunBudget:
    """The budget of a run in this process, shared by its batches. Not `limited`: there is none so far, and nothing is
    counted."""

    def __init__(
        self,
        store: Store,
        run: str,
        folder: Path,
        day_nanos: int | None,
        today: Callable[[], dt.date],
        *,
        limited: bool = True,
    ) -> None:
        self._book = ledger.of_run(store, run)
        self._store, self._folder, self._day_nanos, self._today = store, folder, day_nanos, today
        self.limited = limited
        self.was_set = False  # True once a budget was set on the live run
        self._days: dict[dt.date, Account] = {}
        self.tight = False
        self._turn = asyncio.Lock()
        self._settled = asyncio.Event()
        self._out = 0
        self._patience = _ASKS

    @cached_property
    def of_run(self) -> Account:
        return Account(self._book, self._folder, lambda found: (found.limits.nanos, found.limits.tokens))

    async def look(self) -> None:
        """Begin to count if a budget was set meanwhile; give up recalled amounts. Raises StoreError."""
        if self.limited:
            for account in self._accounts():
                await account.yield_free()
            return
        found = await asyncio.to_thread(self._book.read)
        if found is not None and found.limits.any:
            self._day_nanos, self.limited = found.limits.day_nanos, True

    async def reserve(self, most: Amount) -> "RunReservation":
        """See `stages.limits.budget.Budget`."""
        accounts = self._accounts()
        if self._turn.locked() or not all(account.fits(most) for account in accounts):
            accounts = await self._wait_for_room(most)
        self._out += 1
        return RunReservation(self, accounts, most)

    def _accounts(self) -> tuple[Account, ...]:
        if self._day_nanos is None:
            return (self.of_run,)
        day, limit = self._today(), self._day_nanos
        if day not in self._days:
            book = ledger.of_day(self._store, day)
            self._days[day] = Account(book, self._folder, lambda found: (limit, None))
        return self.of_run, self._days[day]

    async def _wait_for_room(self, most: Amount) -> tuple[Account, ...]:
        """Return the accounts once the call fits, in order of arrival. Raises BudgetReached if no call in flight can
        make room for it."""
        async with self._turn:
            while True:
                accounts = self._accounts()
                short = next((account for account in accounts if not account.fits(most)), None)
                if short is None:
                    return accounts
                self._settled.clear()
                if await short.enlarge(most):
                    self._patience = _ASKS
                    continue
                if self._out:
                    await self._settled.wait()
                elif not self._settled.is_set():
                    if self._patience and await short.ask_others():
                        self._patience -= 1  # for all calls together: holders that refuse one refuse the next
                        await asyncio.sleep(_ASK_EVERY_S)
                        continue
                    for account in accounts:
                        await account.give_back()
                    raise BudgetReached("the next call does not fit in what is left of the budget", needed=most)

    def settled(self) -> None:
        """Note that a call is over."""
        self._out -= 1
        self._settled.set()

    async def close(self) -> None:
        """Return the rest of the slices. If the store refuses, they stay charged."""
        for account in (self.of_run, *self._days.values()) if self.limited else ():
            with contextlib.suppress(StoreError):
                await account.close()


class RunReservation:
    """See `stages.limits.budget.Reservation`."""

    __slots__ = ("_accounts", "_budget", "_done", "_most", "_sent")

    def __init__(self, budget: RunBudget, accounts: tuple[Account, ...], most: Amount) -> None:
        self._budget, self._accounts, self._most = budget, accounts, most
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
        self._budget.settled()


def utc_today() -> dt.date:
    return dt.datetime.now(dt.UTC).date()


class RunBudgets:
    """The budgets of a process, one per run, while a batch of that run is running."""

    def __init__(self, folder: Path, today: Callable[[], dt.date] = utc_today) -> None:
        self.folder = folder
        self._today = today
        self._open: dict[tuple[str, str], asyncio.Task[RunBudget]] = {}
        self._users: dict[asyncio.Task[RunBudget], int] = {}
        self._watching: dict[asyncio.Task[RunBudget], asyncio.Task[None]] = {}
        self._closed_lately: dict[str, tuple[Ledger, float]] = {}

    @asynccontextmanager
    async def of(self, store: Store, ref: RunRef) -> AsyncIterator[RunBudget]:
        """Open the run's budget while a batch runs. After the last batch, the rest is returned to the ledger."""
        key = (ref.sink, ref.run)
        task = self._open.get(key)
        if task is None:
            task = self._open[key] = asyncio.create_task(self._opened(store, ref.run))
            self._watching[task] = asyncio.create_task(_watch(task))
        self._users[task] = self._users.get(task, 0) + 1
        try:
            yield await asyncio.shield(task)
        finally:
            self._users[task] -= 1
            if not self._users[task]:
                del self._users[task], self._open[key]
                self._watching.pop(task).cancel()
                await asyncio.shield(_closed(task))  # also for an activity that is cancelled
                self._keep_ledger(ref.run, task)

    def ledgers(self) -> Iterator[tuple[str, Ledger, Amount]]:
        """Yield the runs with a budget that are open here or were lately: the ledger as it was last read, and what this
        process has spent that is not in it."""
        for (_, run), task in self._open.items():
            account = _account_of(task)
            if account is not None and account.seen is not None:
                yield run, account.seen, account.settled
        for run, (found, closed_at) in self._closed_lately.items():
            if time.monotonic() - closed_at < _LATELY_S:
                yield run, found, NOTHING

    def _keep_ledger(self, run: str, task: "asyncio.Task[RunBudget]") -> None:
        account = _account_of(task)
        if account is not None and account.seen is not None:
            self._closed_lately.pop(run, None)
            self._closed_lately[run] = account.seen, time.monotonic()
            while len(self._closed_lately) > _MOST_LATELY:
                del self._closed_lately[next(iter(self._closed_lately))]

    async def was_set(self, ref: RunRef) -> None:
        """Note that a budget was set on a live run: read it, even if there was none before."""
        task = self._open.get((ref.sink, ref.run))
        if task is not None:
            (await asyncio.shield(task)).was_set = True

    async def _opened(self, store: Store, run: str) -> RunBudget:
        found = await asyncio.to_thread(ledger.of_run(store, run).read)
        limits = found.limits if found is not None else BudgetLimits()
        return RunBudget(store, run, self.folder, limits.day_nanos, self._today, limited=limits.any)


def _account_of(task: "asyncio.Task[RunBudget]") -> Account | None:
    """Return the account of a budget that could be opened, and is limited."""
    if not task.done() or task.cancelled() or task.exception() is not None or not task.result().limited:
        return None
    return task.result().of_run


async def _watch(task: "asyncio.Task[RunBudget]") -> None:
    """Apply changes of the run's budget, within a second or two."""
    budget = await asyncio.shield(task)
    while True:
        await asyncio.sleep(_LOOK_EVERY_S)
        if budget.limited or budget.was_set:
            with contextlib.suppress(StoreError):  # it is looked at again
                await budget.look()


async def _closed(task: "asyncio.Task[RunBudget]") -> None:
    with contextlib.suppress(Exception):  # it could not be opened, and its users got the error
        await (await task).close()
