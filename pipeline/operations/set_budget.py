"""Set the budget of a run that is not completed."""

import asyncio
from functools import partial

from pipeline.limits import budget
from pipeline.operations.control import refuse_unpriced
from pipeline.runs.progress import usage_so_far
from pipeline.runs.report import load_report
from pipeline.stores import Store
from schemas.plan import RunRequest


async def set_budget(store: Store, request: RunRequest, max_cost_usd: float) -> None:
    """Set the budget of a run that is not completed. Raises SpecError, UsageError."""
    report = await asyncio.to_thread(load_report, store, request.run)
    if report is not None and report.state == "completed":
        return
    await asyncio.to_thread(refuse_unpriced, store, request, max_cost_usd)
    paid = partial(usage_so_far, store, request.run)
    await asyncio.to_thread(budget.set_to, store, request.run, max_cost_usd, paid)
