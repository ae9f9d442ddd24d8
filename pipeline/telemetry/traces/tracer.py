"""The tracer of a process: spans as values become OpenTelemetry's, at their place and time, and are sent in the
background."""

import random
import sys
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from os import environ
from typing import Any, Self

from opentelemetry import context as otel_context
from opentelemetry import trace
from opentelemetry.context import Context
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, ConsoleSpanExporter, SpanExporter
from opentelemetry.sdk.trace.id_generator import IdGenerator, RandomIdGenerator
from opentelemetry.trace import NonRecordingSpan, SpanContext, SpanKind, Status, StatusCode, TraceFlags

from pipeline.settings import version
from pipeline.telemetry.traces.place import Place
from pipeline.telemetry.traces.slow_rows import SlowRows

_NAME = "tandem"
_PROTOCOLS = ("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL", "OTEL_EXPORTER_OTLP_PROTOCOL")
_KINDS = {"client": SpanKind.CLIENT, "internal": SpanKind.INTERNAL}


@dataclass(frozen=True, slots=True)
class Span:
    """A span that has ended. `place`: its own, if others know it, else None; `parent`: the place of the span that it is
    a part of, None for the root. Times are in nanoseconds since 1970; `error`: its class, if it failed."""

    name: str
    parent: Place | None
    began: int
    ended: int
    attributes: Mapping[str, Any]
    place: Place | None = None
    kind: str = "internal"
    error: str = ""
    message: str = ""  # of the error; only where texts are allowed


@dataclass
class Tracer:
    """A process's way out for spans. `slow` knows how long rows take, by stage."""

    provider: TracerProvider
    ids: "_Ids"
    slow: dict[str, SlowRows] = field(default_factory=dict)

    @classmethod
    def to(cls, exporter: str) -> Self:
        """Open a tracer whose exporter, `otlp` or `console`, follows OpenTelemetry's variables."""
        return cls.with_exporter(_exporter(exporter))

    @classmethod
    def with_exporter(cls, exporter: SpanExporter) -> Self:
        ids = _Ids()
        provider = TracerProvider(resource=_resource(), id_generator=ids, shutdown_on_exit=False)
        provider.add_span_processor(BatchSpanProcessor(exporter))
        return cls(provider, ids)

    @property
    def otel(self) -> trace.Tracer:
        """OpenTelemetry's own tracer, for libraries that make spans themselves."""
        return self.provider.get_tracer(_NAME, version())

    def emit(self, span: Span) -> None:
        """Write a span."""
        self.ids.next(span.place)
        try:
            made = self.otel.start_span(
                span.name,
                context=context_of(span.parent) if span.parent is not None else Context(),
                kind=_KINDS[span.kind],
                attributes={name: value for name, value in span.attributes.items() if value is not None},
                start_time=span.began,
                record_exception=False,
                set_status_on_exception=False,
            )
        finally:
            self.ids.next(None)
        if span.error:
            made.set_attribute("error.type", span.error)
            made.set_status(Status(StatusCode.ERROR, span.message or None))
        made.end(max(span.began, span.ended))

    def slow_rows(self, stage: str) -> SlowRows:
        found = self.slow.get(stage)
        if found is None:
            found = self.slow[stage] = SlowRows()
        return found

    def flush(self, seconds: float) -> None:
        """Send what is recorded, if possible within this time."""
        self.provider.force_flush(round(seconds * 1000))

    def close(self) -> None:
        self.provider.shutdown()


def context_of(place: Place) -> Context:
    """Return a context in which the span at this place, of whatever process, is the parent."""
    known = SpanContext(place.trace, place.span, is_remote=True, trace_flags=TraceFlags(TraceFlags.SAMPLED))
    return trace.set_span_in_context(NonRecordingSpan(known), Context())


@contextmanager
def attached(place: Place) -> Iterator[None]:
    """Let spans that libraries make in this block be parts of the span at this place."""
    token = otel_context.attach(context_of(place))
    try:
        yield
    finally:
        otel_context.detach(token)


class _Ids(IdGenerator):
    """Identifiers of spans: those of the place that `next` named in this thread, random ones otherwise."""

    def __init__(self) -> None:
        self._random = RandomIdGenerator()
        self._next = threading.local()

    def next(self, place: Place | None) -> None:
        self._next.place = place

    def generate_span_id(self) -> int:
        place: Place | None = getattr(self._next, "place", None)
        return place.span if place is not None else self._random.generate_span_id()

    def generate_trace_id(self) -> int:
        place: Place | None = getattr(self._next, "place", None)
        return place.trace if place is not None else random.getrandbits(128) or 1


def _resource() -> Resource:
    """Return what names this service: the variables' name, else ours."""
    named = environ.get("OTEL_SERVICE_NAME") or "service.name=" in environ.get("OTEL_RESOURCE_ATTRIBUTES", "")
    ours = {"service.version": version()}
    return Resource.create(ours if named else {**ours, "service.name": _NAME})


def _exporter(name: str) -> SpanExporter:
    if name == "console":
        return ConsoleSpanExporter(out=sys.stderr)
    protocol = next((environ[variable] for variable in _PROTOCOLS if environ.get(variable)), "http/protobuf")
    if protocol == "grpc":
        from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import OTLPSpanExporter as GrpcExporter

        exporter: SpanExporter = GrpcExporter()
        return exporter
    from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter

    return OTLPSpanExporter()
