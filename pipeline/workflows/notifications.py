"""Call the hooks of `notify:` in the background of a run. A failing call is given up soon and never fails the run."""

import asyncio
import contextlib

from temporalio import workflow

with workflow.unsafe.imports_passed_through():
    from pipeline.workflows.activity_calls import send_notification
    from schemas.messages.base import RunRef, RunState
    from schemas.messages.run import Failure, NotifyRequest, RunResult, Totals


class Notifications:
    """`events` holds, for each hook, the events that it subscribes to; they are known once there is a plan."""

    def __init__(self, ref: RunRef, events: tuple[tuple[str, ...], ...]) -> None:
        self.events = events
        self._ref = ref
        self._calls: list[asyncio.Task[None]] = []
        self._paused_by_budget = False
        self._review_sent = False

    def budget(self, paused: Failure | None, totals: Totals) -> None:
        """Notify when the run pauses for its budget."""
        if paused is not None and not self._paused_by_budget:
            self._notify("budget", "paused", paused.message, totals)
        self._paused_by_budget = paused is not None

    def review_needed(self, totals: Totals) -> None:
        """Notify when the first row waits for a person, once a run."""
        if not self._review_sent:
            self._review_sent = True
            self._notify("review", "running", "Rows wait for a person: tandem review ls", totals)

    def ended(self, result: RunResult, first: Failure | None) -> None:
        """Notify of the end of the run; `first` is its first failure. A cancelled run calls no hook."""
        self.events = result.hooks
        if result.state == "failed":
            self._notify("failed", result.state, first.message if first else "", result.totals)
        elif result.state == "completed" and result.recovered:
            self._notify("recovered", result.state, "The run before this one had failed.", result.totals)
        if result.state == "completed" and result.totals.counts.pending and not self._review_sent:
            waiting = f"{result.totals.counts.pending:,} rows wait for a person."
            self._notify("review", result.state, waiting, result.totals)

    async def wait(self) -> None:
        """Wait for the calls that are still going on."""
        with contextlib.suppress(asyncio.CancelledError):
            await asyncio.gather(*self._calls, return_exceptions=True)

    def _notify(self, event: str, state: RunState, message: str, totals: Totals) -> None:
        for hook, events in enumerate(self.events):
            if event in events:
                request = NotifyRequest(
                    ref=self._ref, hook=hook, event=event, state=state, message=message, totals=totals
                )
                self._calls.append(asyncio.create_task(send_notification(request)))
