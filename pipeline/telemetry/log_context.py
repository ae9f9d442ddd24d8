"""What records say about the activity that wrote them: run, partition, batch, attempt, trace."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from temporalio import activity
from temporalio.worker import ActivityInboundInterceptor, ExecuteActivityInput, Interceptor

from pipeline.telemetry import logs
from pipeline.telemetry.traces import place, switch

_FIELDS = ("partition", "batch")


@contextmanager
def of_batch(number: int) -> Iterator[None]:
    """Let records name a batch that an activity of another name runs."""
    token = logs.context.set({**logs.context.get(), "batch": number})
    try:
        yield
    finally:
        logs.context.reset(token)


class LogContext(Interceptor):
    """An interceptor for the worker of a process whose logs are records."""

    def intercept_activity(self, next: ActivityInboundInterceptor) -> ActivityInboundInterceptor:
        return _Inbound(next)


class _Inbound(ActivityInboundInterceptor):
    async def execute_activity(self, input: ExecuteActivityInput) -> Any:
        request, info = (input.args[0] if input.args else None), activity.info()
        known = {name: getattr(request, name) for name in _FIELDS if hasattr(request, name)}
        run = getattr(getattr(request, "ref", None), "run", None)
        of = place.of_request(request) if switch.exporter_of() else None
        trace = {"trace_id": of.trace_hex} if of is not None else {}
        logs.context.set({"run": run, **known, "attempt": info.attempt, "activity": info.activity_type, **trace})
        return await super().execute_activity(input)
