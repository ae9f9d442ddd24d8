"""Record of the activities that a child runs, so that the supervisor can fail them at once if the child dies."""

import base64
from contextvars import ContextVar
from typing import Any

from temporalio import activity
from temporalio.worker import ActivityInboundInterceptor, ExecuteActivityInput, Interceptor

from pipeline.processes.child.in_flight import InFlight

activity_slot: ContextVar[int | None] = ContextVar("tandem_activity", default=None)


class ActivityWatch(Interceptor):
    """An interceptor for one child's worker. Rows that an activity runs find its slot in `activity_slot`."""

    def __init__(self, in_flight: InFlight) -> None:
        self._in_flight = in_flight

    def intercept_activity(self, next: ActivityInboundInterceptor) -> ActivityInboundInterceptor:
        return _Recorder(next, self._in_flight)


class _Recorder(ActivityInboundInterceptor):
    def __init__(self, next: ActivityInboundInterceptor, in_flight: InFlight) -> None:
        super().__init__(next)
        self._in_flight = in_flight

    async def execute_activity(self, input: ExecuteActivityInput) -> Any:
        info = activity.info()
        slot = self._in_flight.activities.put(
            {
                "token": base64.b64encode(info.task_token).decode(),
                "workflow": info.workflow_id,
                "activity": info.activity_id,
                "type": info.activity_type,
            }
        )
        activity_slot.set(slot)
        try:
            return await super().execute_activity(input)
        finally:
            self._in_flight.activities.clear(slot)
