"""Check of the budget when the next call does not fit and no call is in flight."""

import datetime as dt
from pathlib import Path

from pipeline.limits import ledger
from pipeline.limits.account import left_of
from pipeline.limits.budget import in_usd
from pipeline.limits.job_budget import MACHINE
from pipeline.limits.ledger import Ledger, usd
from pipeline.limits.run_budget import utc_today
from pipeline.limits.spend_file import reconcile
from pipeline.stores import Store
from schemas.messages.run import BudgetCheck, BudgetVerdict
from stages.limits.budget import Amount

_LARGE_PART = 20  # a call that may take more than this part of a budget gets a hint on max_tokens


def check_budget(store: Store, request: BudgetCheck, folder: Path) -> BudgetVerdict:
    """Decide whether the run goes on: no call is in flight, so the rest is exact. Closes accounts of dead processes."""
    need = Amount(request.nanos, request.tokens)
    book = ledger.of_run(store, request.ref.run)
    found = reconcile(book, folder)
    limits = found.limits
    left = left_of(found, (limits.nanos, limits.tokens))
    message, until = "", None
    if limits.nanos is not None and left.nanos < need.nanos:
        message = _over_budget_message(found, limits.nanos, need, request.ref.run)
    elif limits.tokens is not None and left.tokens < need.tokens:
        message = (
            f"limits.max_tokens is {limits.tokens:,}: {found.charged.tokens:,} tokens are used, and the next call may "
            f"take {need.tokens:,}. Raise it in the spec and repeat the command."
        )
    elif limits.day_nanos is not None:
        today = utc_today()
        day = reconcile(ledger.of_day(store, today), folder)
        if left_of(day, (limits.day_nanos, None)).nanos < need.nanos:
            message = (
                f"limits.max_cost_usd_per_day is {usd(limits.day_nanos):g} USD: {in_usd(day.charged.nanos)} are spent "
                f"today, and the next call may take {in_usd(need.nanos)}. The run goes on after midnight UTC, or raise "
                "the limit in the spec and repeat the command."
            )
            until = dt.datetime.combine(today + dt.timedelta(days=1), dt.time(), dt.UTC)
    if message:
        book.change(lambda seen: seen.model_copy(update={"paused": message}))
    return BudgetVerdict(go_on=not message, message=message, until=until)


def _over_budget_message(found: Ledger, limit: int, need: Amount, run: str) -> str:
    jobs = sum(held.nanos for held in found.slices.values() if held.machine == MACHINE)
    lost = sum(held.nanos for held in found.slices.values()) - jobs
    of_those = f", {in_usd(lost)} of them reserved by workers that were killed" if lost else ""
    of_those += f", {in_usd(jobs)} of them reserved for provider jobs that are out" if jobs else ""
    message = (
        f"The budget of {usd(limit):g} USD is reached: {in_usd(found.charged.nanos)} are spent{of_those}, and the next "
        f"call may take up to {in_usd(need.nanos)}."
    )
    if need.nanos * _LARGE_PART > limit:
        message += " A lower params.max_tokens lets more calls fit."
    return f"{message} To continue: tandem runs resume {run} --max-cost {2 * usd(limit):g}"
