"""A batch of rows whose spans are kept in memory."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from pipeline.telemetry.traces import place
from pipeline.telemetry.traces.batch_spans import BatchSpans, Kept
from pipeline.telemetry.traces.tracer import Tracer
from schemas.messages.base import RunRef

REF = RunRef(pipeline="tests", run="run-1", sink="memory://out")


class Traced:
    """A process's tracer, and what it has exported so far."""

    def __init__(self, share: float = 1.0, *, content: bool = False) -> None:
        self._exporter = InMemorySpanExporter()
        self.tracer = Tracer.with_exporter(self._exporter)
        self.kept = Kept(share, content)

    @classmethod
    @contextmanager
    def opened(cls, share: float = 1.0, *, content: bool = False) -> Iterator["Traced"]:
        traced = cls(share, content=content)
        try:
            yield traced
        finally:
            traced.tracer.close()

    def batch(self, attempt: int = 1) -> BatchSpans:
        return BatchSpans(self.tracer, REF, place.of_batch(REF, "day=1", 0), self.kept, attempt)

    @property
    def spans(self) -> Sequence[ReadableSpan]:
        self.tracer.flush(5)
        return self._exporter.get_finished_spans()

    def named(self, name: str) -> list[ReadableSpan]:
        return [span for span in self.spans if span.name.split()[0] == name]

    def path(self, span: ReadableSpan) -> list[str]:
        """Names from the outermost span that is known to this one."""
        known = {one.context.span_id: one for one in self.spans if one.context is not None}
        names = [span.name]
        while span.parent is not None and span.parent.span_id in known:
            span = known[span.parent.span_id]
            names.insert(0, span.name)
        return names


def values(span: ReadableSpan) -> dict[str, object]:
    return dict(span.attributes or {})
