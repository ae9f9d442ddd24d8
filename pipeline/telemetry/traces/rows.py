"""Where the work on rows finds its observer."""

from pipeline.telemetry.traces import place, switch
from schemas.messages.base import RunRef
from schemas.spec.sections import Spec
from stages.observer import BatchObserver


def batch_spans(ref: RunRef, partition: str, batch: int, spec: Spec, attempt: int = 1) -> BatchObserver | None:
    """Return an observer of a batch's rows, None if this process writes no traces."""
    tracer = switch.tracer()
    if tracer is None:
        return None
    from pipeline.telemetry.traces.batch_spans import BatchSpans, Kept  # its library is for those who want traces

    kept = Kept(spec.trace, spec.trace_content)
    return BatchSpans(tracer, ref, place.of_batch(ref, partition, batch), kept, attempt)
