"""Figures of activities: batches at work and waiting, and how long a publication took."""

import datetime as dt
import time
from collections.abc import Iterable, Sequence
from typing import Any

from temporalio.worker import ActivityInboundInterceptor, ExecuteActivityInput, Interceptor

from pipeline.telemetry.metrics.recorder import Gauge, Recorder
from schemas.messages.batch import BatchResult
from schemas.messages.partition import Opened, OpenRequest, PartitionResult

_BATCH, _OPEN = "enrich_batch", "open"


class ActivityFigures(Interceptor):
    """Hears of the activities of one worker. A batch that waits does so in its workflow, until a time that it names."""

    def __init__(self, recorder: Recorder) -> None:
        self.recorder = recorder
        self.running = 0
        self._waiting_until: list[dt.datetime] = []
        recorder.gauges.append(self._batches)

    def intercept_activity(self, next: ActivityInboundInterceptor) -> ActivityInboundInterceptor:
        return _Inbound(next, self)

    def ended(self, activity: str, result: object, seconds: float, *, enriches: bool) -> None:
        """Record the end of an activity, which has run a batch if it `enriches`; `result` None: it failed."""
        if isinstance(result, Opened):
            if (onward := result.onward) is not None:
                self._batch_ended(onward.batch)
                if onward.published is not None:
                    self.recorder.observe("tandem_publish_seconds", {}, onward.publish_s)
        elif enriches:
            self._batch_ended(result if isinstance(result, BatchResult) else None)
        elif activity == "publish" and isinstance(result, PartitionResult):
            self.recorder.observe("tandem_publish_seconds", {}, seconds)

    def _batch_ended(self, result: BatchResult | None) -> None:
        self.recorder.count("tandem_batch_attempts_total", {"result": result.state if result else "failed"})
        if result is not None and result.until is not None:
            self._waiting_until.append(result.until)

    def _batches(self) -> Iterable[Gauge]:
        now = dt.datetime.now(dt.UTC)
        self._waiting_until = [until for until in self._waiting_until if until > now]
        yield "tandem_batches", {"state": "running"}, self.running
        yield "tandem_batches", {"state": "waiting"}, len(self._waiting_until)


class _Inbound(ActivityInboundInterceptor):
    def __init__(self, next: ActivityInboundInterceptor, figures: ActivityFigures) -> None:
        super().__init__(next)
        self._figures = figures

    async def execute_activity(self, input: ExecuteActivityInput) -> Any:
        name, began, result = input.fn.__name__, time.monotonic(), None
        enriches = name == _BATCH or (name == _OPEN and _goes_on(input.args))
        self._figures.running += enriches
        try:
            result = await super().execute_activity(input)
            return result
        finally:
            self._figures.running -= enriches
            self._figures.ended(name, result, time.monotonic() - began, enriches=enriches)


def _goes_on(args: Sequence[Any]) -> bool:
    return bool(args) and isinstance(args[0], OpenRequest) and args[0].onward
