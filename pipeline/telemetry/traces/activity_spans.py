"""Activities as spans, by the interceptor of Temporal's SDK, each at the place of what it works on."""

from collections.abc import Sequence
from typing import Any

from temporalio.contrib.opentelemetry import TracingInterceptor
from temporalio.worker import ActivityInboundInterceptor, ExecuteActivityInput, Interceptor

from pipeline.telemetry.traces import place
from pipeline.telemetry.traces.tracer import Tracer, attached


def activity_spans(tracer: Tracer) -> Sequence[Interceptor]:
    """Return the interceptors of a worker, in their order."""
    return _Placed(), TracingInterceptor(tracer.otel)


class _Placed(Interceptor):
    """Lets what an activity does be a part of the run, partition or batch that its request names. No message is needed
    for that, so a run that was begun without traces has them as soon as its workers write them."""

    def intercept_activity(self, next: ActivityInboundInterceptor) -> ActivityInboundInterceptor:
        return _Inbound(next)


class _Inbound(ActivityInboundInterceptor):
    async def execute_activity(self, input: ExecuteActivityInput) -> Any:
        of = place.of_request(input.args[0]) if input.args else None
        if of is None:
            return await super().execute_activity(input)
        with attached(of):
            return await super().execute_activity(input)
