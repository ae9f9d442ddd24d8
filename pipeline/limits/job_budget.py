"""The budget of a provider job: what it may cost at most is charged before it is submitted, what it cost once its
answers are in the journal.

A job outlives the processes that work for it. So it is a holder of its own in the ledger, which no process's death
closes; its name makes both steps repeatable. The day that it was charged to is kept with what it holds of the run's.
"""

import datetime as dt
from collections.abc import Iterator
from typing import TypeVar

from pipeline.limits import ledger
from pipeline.limits.account import left_of
from pipeline.limits.ledger import Ledger, LedgerStore, Slice
from pipeline.limits.run_budget import utc_today
from pipeline.stores import Store
from pipeline.stores.documents import read_document
from schemas import ids
from schemas.errors import ObjectMissing
from schemas.jobs import Intent, JobEnd, Submitted
from stages.limits.budget import NOTHING, Amount

MACHINE = "provider job"  # in the place of a holder's machine
_POOL = 16  # characters of a pool's folder
Limit = tuple[int | None, int | None]
Document = TypeVar("Document", Intent, JobEnd, Submitted)


def reserve(store: Store, run: str, job: str, most: Amount) -> str | None:
    """Charge the most that a job may cost to the run, and to the pipeline's day. Returns the day, empty if none has a
    limit; None if it does not fit, and nothing is charged then. Blocks; raises StoreError."""
    book = ledger.of_run(store, run)
    found = book.read()
    if found is None:
        return ""
    today = utc_today().isoformat() if found.limits.day_nanos is not None else ""
    held = _charge(book, job, most, (found.limits.nanos, found.limits.tokens), today)
    if held is None:
        return None
    if held.day and _charge(_of_day(store, held.day), job, most, (found.limits.day_nanos, None)) is None:
        book.change(lambda seen: seen.closed(_holder(job), NOTHING))
        return None
    return held.day


def hold(store: Store, run: str, job: str, most: Amount) -> None:
    """Charge a job that is out, whether it fits or not, where it is not charged: the budget was set after it was asked,
    and before the job could be seen. Blocks; raises StoreError."""
    book = ledger.of_run(store, run)
    if (found := book.read()) is not None and _holder(job) not in found.slices:
        book.change(lambda seen: seen if _holder(job) in seen.slices else seen.with_slice(_holder(job), most, MACHINE))


def settle(store: Store, run: str, job: str, day: str, spent: Amount) -> None:
    """Charge what a job has cost in the place of what was reserved. A second time, nothing. `day`: the one that it was
    charged to, where the ledger does not name it. Blocks."""
    book = ledger.of_run(store, run)
    found = book.read()
    held = found.slices.get(_holder(job)) if found is not None else None
    if held is None:
        return
    # The run's last: what it holds names the day, also to whoever does this again after an interruption.
    for one in [*([_of_day(store, held.day or day)] if held.day or day else []), book]:
        one.change(lambda seen: seen.closed(_holder(job), spent))


def left(store: Store, run: str) -> Amount:
    """Return what a job may still cost at most, of the run's budget and the day's. Blocks; raises StoreError."""
    found = ledger.of_run(store, run).read() or Ledger()
    of_run = left_of(found, (found.limits.nanos, found.limits.tokens))
    if found.limits.day_nanos is None:
        return of_run
    of_day = left_of(ledger.of_day(store, utc_today()).read() or Ledger(), (found.limits.day_nanos, None))
    return Amount(min(of_run.nanos, of_day.nanos), of_run.tokens)


# A budget that is set while jobs are out -----------------------------------------------------------------------------


def account_of_jobs(store: Store, run: str) -> tuple[Amount, dict[str, Slice]]:
    """Return what the jobs of a run have cost that are over, and what those that are out, or are being submitted, hold
    of a budget that is set now. Blocks; raises StoreError, Damaged."""
    spent, held = NOTHING, dict[str, Slice]()
    for pool, job in job_names(store, run):
        end = _read(store, ids.job_ended(run, pool, job), JobEnd)
        if end is not None:
            spent += Amount(end.nano_usd, end.tokens)
            continue
        intent = _read(store, ids.job_intent(run, pool, job), Intent)
        done = _read(store, ids.job_submitted(run, pool, job), Submitted)
        if intent is not None and (done is None or done.id):
            most = Slice(nanos=intent.most_nano_usd, tokens=intent.most_tokens, machine=MACHINE)
            held[_holder(job)] = most
    return spent, held


def settle_ended(store: Store, run: str) -> None:
    """Settle the jobs that have ended while their budget was being set. Blocks; raises StoreError, Damaged."""
    for pool, job in job_names(store, run):
        if (end := _read(store, ids.job_ended(run, pool, job), JobEnd)) is not None:
            settle(store, run, job, "", Amount(end.nano_usd, end.tokens))


def job_names(store: Store, run: str) -> Iterator[tuple[str, str]]:
    """Yield the pool and the name of each job of a run. Blocks; raises StoreError."""
    for pool in store.folders(ids.run_jobs(run)):
        if len(pool) == _POOL:
            yield from ((pool, job) for job in store.folders(ids.pool_folder(run, pool)))


def _read(store: Store, key: str, kind: type[Document]) -> Document | None:
    try:
        return read_document(store, key, kind)
    except ObjectMissing:
        return None


# One ledger ----------------------------------------------------------------------------------------------------------


def _charge(book: LedgerStore, job: str, most: Amount, limit: Limit, day: str = "") -> Slice | None:
    """Return what a job holds of a ledger, charged now or before; None if it does not fit."""
    holder = _holder(job)

    def charged(before: Ledger) -> Ledger:
        rest = left_of(before, limit)
        if holder in before.slices or most.nanos > rest.nanos or most.tokens > rest.tokens:
            return before
        return before.with_slice(holder, most, MACHINE, day)

    return book.change(charged).slices.get(holder)


def _of_day(store: Store, day: str) -> LedgerStore:
    return ledger.of_day(store, dt.date.fromisoformat(day))


def _holder(job: str) -> str:
    return f"job-{job}"
