"""Pause a run when its budget has no room for the next call.

A batch that cannot reserve its cost ends as `short`, and its partition starts no other. Once every running partition is
short, nothing is in flight and all reservations are returned: then either the ledger has room after all, or the run
pauses until the budget is raised or a new day begins.
"""

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, Sequence
from datetime import timedelta

from temporalio import workflow
from temporalio.exceptions import ActivityError, is_cancelled_exception

with workflow.unsafe.imports_passed_through():
    from pipeline.workflows.activity_calls import CHECK_BUDGET, call, cause_of
    from pipeline.workflows.policies import SHORT
    from schemas.errors import BudgetReached
    from schemas.messages.base import RunRef
    from schemas.messages.run import BudgetCheck, BudgetShortfall, BudgetVerdict, Failure


class BudgetPause:
    """The partitions of a run that are over budget, and the reason for which the run is `paused`."""

    def __init__(self, ref: RunRef) -> None:
        self._ref = ref
        self._over_budget: dict[str, BudgetShortfall] = {}
        self._go_on = False
        self.paused: Failure | None = None

    @property
    def any_over_budget(self) -> bool:
        return bool(self._over_budget)

    def note(self, shortfall: BudgetShortfall) -> None:
        self._over_budget[shortfall.partition] = shortfall

    def forget(self, partition: str) -> None:
        self._over_budget.pop(partition, None)

    def go_on(self) -> None:
        """End the pause: the budget was raised, or the run resumed."""
        self._go_on = True

    async def watch(
        self,
        in_flight: Callable[[], set[str]],
        on_change: Callable[[], None],
        resume: Callable[[Sequence[str]], Awaitable[None]],
    ) -> None:
        """Watch the budget as long as the run lasts. `in_flight` returns the partitions that may have calls in flight;
        `resume` lets partitions go on; `on_change` is called when the run pauses or goes on."""
        while True:
            await workflow.wait_condition(lambda: bool(self._over_budget) and in_flight() <= self._over_budget.keys())
            self._go_on = False
            verdict = await self._check()
            if not verdict.go_on:
                self.paused = Failure(partition="", error=BudgetReached.__name__, message=verdict.message)
                on_change()
                timeout = None if verdict.until is None else max(verdict.until - workflow.now(), timedelta(seconds=1))
                with contextlib.suppress(TimeoutError):
                    await workflow.wait_condition(lambda: self._go_on, timeout=timeout)
                self.paused = None
                on_change()
            short = list(self._over_budget)
            self._over_budget.clear()
            await resume(short)

    async def _check(self) -> BudgetVerdict:
        needed = min(self._over_budget.values(), key=lambda shortfall: (shortfall.nanos, shortfall.tokens))
        try:
            request = BudgetCheck(ref=self._ref, nanos=needed.nanos, tokens=needed.tokens)
            return await call(CHECK_BUDGET, request, within=SHORT)
        except ActivityError as exc:
            if is_cancelled_exception(exc):
                raise asyncio.CancelledError from None
            return BudgetVerdict(go_on=False, message=f"The rest of the budget cannot be read: {cause_of(exc)[1]}")


class PartitionBudget:
    """The budget of one partition: `needed` is the cost of its next call, set while one of its batches is short."""

    def __init__(self) -> None:
        self.needed: tuple[int, int] | None = None
        self.in_flight = 0
        self._reported = False

    def __bool__(self) -> bool:
        return self.needed is not None

    def note(self, needed: tuple[int, int]) -> None:
        self.needed = needed if self.needed is None else min(self.needed, needed)

    def clear(self) -> None:
        self.needed, self._reported = None, False

    async def report(self, partition: str) -> None:
        """Signal the run each time a batch is short and no batch is in flight any more."""
        while True:
            await workflow.wait_condition(lambda: self.needed is not None and not self.in_flight and not self._reported)
            parent = workflow.info().parent
            if parent is None or self.needed is None:
                return
            self._reported = True
            nanos, tokens = self.needed
            handle = workflow.get_external_workflow_handle(parent.workflow_id)
            with contextlib.suppress(Exception):  # the run has ended, and cancels us
                await handle.signal("short", BudgetShortfall(partition=partition, nanos=nanos, tokens=tokens))
