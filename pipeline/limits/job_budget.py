"""The budget of a provider job: what it may cost at most is charged before it is submitted, what it cost once its
answers are in the journal.

A job outlives the processes that work for it. So it is a holder of its own in the ledger, which no process's death
closes; its name makes both steps repeatable.
"""

import datetime as dt

from pipeline.limits import ledger
from pipeline.limits.account import left_of
from pipeline.limits.ledger import Ledger, LedgerStore
from pipeline.limits.run_budget import utc_today
from pipeline.stores import Store
from stages.limits.budget import Amount

MACHINE = "provider job"  # in the place of a holder's machine
Limit = tuple[int | None, int | None]


def reserve(store: Store, run: str, job: str, most: Amount) -> str | None:
    """Charge the most that a job may cost to the run, and to the pipeline's day. Returns the day, empty if none has a
    limit; None if it does not fit, and nothing is charged then. Blocks; raises StoreError."""
    book = ledger.of_run(store, run)
    found = book.read()
    if found is None or not found.limits.any:
        return ""
    if not _charge(book, job, most, (found.limits.nanos, found.limits.tokens)):
        return None
    if found.limits.day_nanos is None:
        return ""
    today = utc_today()
    if not _charge(ledger.of_day(store, today), job, most, (found.limits.day_nanos, None)):
        book.change(lambda seen: seen.closed(_holder(job), Amount()))
        return None
    return today.isoformat()


def settle(store: Store, run: str, job: str, day: str, spent: Amount) -> None:
    """Charge what a job has cost in the place of what was reserved. A second time, nothing. Blocks."""
    books = [ledger.of_run(store, run), *([ledger.of_day(store, dt.date.fromisoformat(day))] if day else [])]
    for book in books:
        found = book.read()
        if found is not None and _holder(job) in found.slices:
            book.change(lambda seen: seen.closed(_holder(job), spent))


def _charge(book: LedgerStore, job: str, most: Amount, limit: Limit) -> bool:
    holder, fits = _holder(job), True

    def charged(before: Ledger) -> Ledger:
        nonlocal fits
        if holder in before.slices:
            fits = True
            return before
        left = left_of(before, limit)
        fits = most.nanos <= left.nanos and most.tokens <= left.tokens
        return before.with_slice(holder, most, MACHINE) if fits else before

    book.change(charged)
    return fits


def _holder(job: str) -> str:
    return f"job-{job}"
