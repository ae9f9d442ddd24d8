"""Figures of activities: batches at work and waiting, and how long a publication took."""

import datetime as dt
import time
from collections.abc import Iterable
from typing import Any

from temporalio.worker import ActivityInboundInterceptor, ExecuteActivityInput, Interceptor

from pipeline.telemetry.metrics.recorder import Gauge, Recorder
from schemas.messages.batch import BatchResult
from schemas.messages.partition import PartitionResult

_BATCH = "enrich_batch"


class ActivityFigures(Interceptor):
    """Hears of the activities of one worker. A batch that waits does so in its workflow, until a time that it names."""

    def __init__(self, recorder: Recorder) -> None:
        self.recorder = recorder
        self.running = 0
        self._waiting_until: list[dt.datetime] = []
        recorder.gauges.append(self._batches)

    def intercept_activity(self, next: ActivityInboundInterceptor) -> ActivityInboundInterceptor:
        return _Inbound(next, self)

    def ended(self, activity: str, result: object, seconds: float) -> None:
        """Record the end of an activity; `result` None: it failed."""
        if activity == _BATCH:
            state = result.state if isinstance(result, BatchResult) else "failed"
            self.recorder.count("tandem_batch_attempts_total", {"result": state})
            if isinstance(result, BatchResult) and result.until is not None:
                self._waiting_until.append(result.until)
        elif activity == "publish" and isinstance(result, PartitionResult):
            self.recorder.observe("tandem_publish_seconds", {}, seconds)

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
        self._figures.running += name == _BATCH
        try:
            result = await super().execute_activity(input)
            return result
        finally:
            self._figures.running -= name == _BATCH
            self._figures.ended(name, result, time.monotonic() - began)
