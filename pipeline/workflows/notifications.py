"""Who hears how a run goes: the hooks of `notify:`, each told beside whatever else is done. One that cannot be told
gives up soon, and none can fail the run."""

import asyncio
import contextlib

from temporalio import workflow

with workflow.unsafe.imports_passed_through():
    from pipeline.workflows.activity_calls import send_notification
    from schemas.messages.base import RunRef, RunState
    from schemas.messages.run import Failure, NotifyRequest, RunResult, Totals


class Notifications:
    """`wanted` holds, of each hook, the events that it wants to hear of: known once there is a plan."""

    def __init__(self, ref: RunRef, wanted: tuple[tuple[str, ...], ...]) -> None:
        self.wanted = wanted
        self._ref = ref
        self._telling: list[asyncio.Task[None]] = []
        self._paused_by_budget = False
        self._asked_people = False

    def budget(self, paused: Failure | None, totals: Totals) -> None:
        """The run waits for money, or no longer does."""
        if paused is not None and not self._paused_by_budget:
            self._tell("budget", "paused", paused.message, totals)
        self._paused_by_budget = paused is not None

    def people_asked(self, totals: Totals) -> None:
        """Rows wait for a person: said of the first only."""
        if not self._asked_people:
            self._asked_people = True
            self._tell("review", "running", "Rows wait for a person: tandem review ls", totals)

    def ended(self, result: RunResult, first: Failure | None) -> None:
        """How, and what failed `first`. A run that was cancelled is known to whoever cancelled it."""
        self.wanted = result.hooks
        if result.state == "failed":
            self._tell("failed", result.state, first.message if first else "", result.totals)
        elif result.state == "completed" and result.recovered:
            self._tell("recovered", result.state, "The run before this one had failed.", result.totals)
        if result.state == "completed" and result.totals.counts.pending and not self._asked_people:
            waiting = f"{result.totals.counts.pending:,} rows wait for a person."
            self._tell("review", result.state, waiting, result.totals)

    async def heard(self) -> None:
        """Wait for those that are being told."""
        with contextlib.suppress(asyncio.CancelledError):
            await asyncio.gather(*self._telling, return_exceptions=True)

    def _tell(self, event: str, state: RunState, message: str, totals: Totals) -> None:
        for number, wanted in enumerate(self.wanted):
            if event in wanted:
                request = NotifyRequest(
                    ref=self._ref, hook=number, event=event, state=state, message=message, totals=totals
                )
                self._telling.append(asyncio.create_task(send_notification(request)))
