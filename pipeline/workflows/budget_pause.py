"""What a run does when its budget has no room for the next call.

A batch that gets no money ends as `short`, and its partition begins no other. Once every partition at work is short,
nothing is in flight and all slices are back: the ledger then says whether there is room after all, or the run pauses
until the budget is raised, or a new day begins.
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
    """The parent's side: which partitions are over budget, and since when the run is `paused`."""

    def __init__(self, ref: RunRef) -> None:
        self._ref = ref
        self._over_budget: dict[str, BudgetShortfall] = {}
        self._go_on = False
        self.paused: Failure | None = None

    @property
    def any_over_budget(self) -> bool:
        return bool(self._over_budget)

    def note(self, shortage: BudgetShortfall) -> None:
        self._over_budget[shortage.partition] = shortage

    def forget(self, partition: str) -> None:
        self._over_budget.pop(partition, None)

    def go_on(self) -> None:
        """Somebody says that there is money again."""
        self._go_on = True

    async def watch(
        self, at_work: Callable[[], set[str]], say: Callable[[], None], tell: Callable[[Sequence[str]], Awaitable[None]]
    ) -> None:
        """For as long as the run lasts. `at_work`: partitions that may have something in flight; `tell`: those may go
        on; `say`: whether the run is paused has changed."""
        while True:
            await workflow.wait_condition(lambda: bool(self._over_budget) and at_work() <= self._over_budget.keys())
            self._go_on = False
            reckoned = await self._reckoned()
            if not reckoned.go_on:
                self.paused = Failure(partition="", error=BudgetReached.__name__, message=reckoned.message)
                say()
                left = None if reckoned.until is None else max(reckoned.until - workflow.now(), timedelta(seconds=1))
                with contextlib.suppress(TimeoutError):
                    await workflow.wait_condition(lambda: self._go_on, timeout=left)
                self.paused = None
                say()
            short = list(self._over_budget)
            self._over_budget.clear()
            await tell(short)

    async def _reckoned(self) -> BudgetVerdict:
        needed = min(self._over_budget.values(), key=lambda shortage: (shortage.nanos, shortage.tokens))
        try:
            request = BudgetCheck(ref=self._ref, nanos=needed.nanos, tokens=needed.tokens)
            return await call(CHECK_BUDGET, request, within=SHORT)
        except ActivityError as exc:
            if is_cancelled_exception(exc):
                raise asyncio.CancelledError from None
            return BudgetVerdict(go_on=False, message=f"What is left of the budget cannot be told: {cause_of(exc)[1]}")


class PartitionBudget:
    """A partition's side: is one of its batches short, and what does its next call need?"""

    def __init__(self) -> None:
        self.needed: tuple[int, int] | None = None
        self.at_work = 0
        self._told = False

    def __bool__(self) -> bool:
        return self.needed is not None

    def note(self, needed: tuple[int, int]) -> None:
        self.needed = needed if self.needed is None else min(self.needed, needed)

    def over(self) -> None:
        self.needed, self._told = None, False

    async def report(self, partition: str) -> None:
        """Tell the run, each time that one of its batches is short and none is at work any more."""
        while True:
            await workflow.wait_condition(lambda: self.needed is not None and not self.at_work and not self._told)
            parent = workflow.info().parent
            if parent is None or self.needed is None:
                return
            self._told = True
            nanos, tokens = self.needed
            handle = workflow.get_external_workflow_handle(parent.workflow_id)
            with contextlib.suppress(Exception):  # the run has ended, and cancels us
                await handle.signal("short", BudgetShortfall(partition=partition, nanos=nanos, tokens=tokens))
