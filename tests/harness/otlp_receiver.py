"""A receiver of traces over OTLP and HTTP, which reads what it gets by OpenTelemetry's own message definitions."""

from __future__ import annotations

import gzip
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import (
    ExportTraceServiceRequest,
    ExportTraceServiceResponse,
)
from opentelemetry.proto.common.v1.common_pb2 import AnyValue


@dataclass(frozen=True)
class ReceivedSpan:
    """A span as a backend has it. Identifiers are hex; `parent` is "" at the root."""

    trace: str
    id: str
    parent: str
    name: str
    kind: int
    began: int
    ended: int
    failed: bool
    message: str
    attributes: dict[str, Any]
    resource: dict[str, Any]
    events: int = 0


@dataclass
class OtlpReceiver:
    """What was received so far; `raw` is every request as it came, unpacked."""

    url: str
    spans: list[ReceivedSpan] = field(default_factory=list)
    raw: list[bytes] = field(default_factory=list)

    @classmethod
    @contextmanager
    def started(cls) -> Iterator[OtlpReceiver]:
        server = ThreadingHTTPServer(("127.0.0.1", 0), _Handler)
        receiver = server.receiver = cls(f"http://127.0.0.1:{server.server_port}")  # type: ignore[attr-defined]
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        try:
            yield receiver
        finally:
            server.shutdown()
            server.server_close()
            thread.join()

    def env(self) -> dict[str, str]:
        """The variables that send traces here, at once."""
        return {"OTEL_EXPORTER_OTLP_ENDPOINT": self.url, "OTEL_BSP_SCHEDULE_DELAY": "200"}

    def take(self, data: bytes) -> None:
        request = ExportTraceServiceRequest.FromString(data)
        self.raw.append(data)
        for of_resource in request.resource_spans:
            resource = _attributes(of_resource.resource.attributes)
            for scope in of_resource.scope_spans:
                self.spans += [_received(span, resource) for span in scope.spans]

    def by_id(self) -> dict[str, ReceivedSpan]:
        return {span.id: span for span in self.spans}

    def path(self, span: ReceivedSpan) -> list[ReceivedSpan]:
        """Return a span and those that it is a part of, the root first. Raises KeyError for one that is missing."""
        known, found = self.by_id(), [span]
        while found[0].parent:
            found.insert(0, known[found[0].parent])
        return found


class _Handler(BaseHTTPRequestHandler):
    def do_POST(self) -> None:
        data = self.rfile.read(int(self.headers["Content-Length"]))
        if self.headers.get("Content-Encoding") == "gzip":
            data = gzip.decompress(data)
        assert self.path == "/v1/traces", self.path
        self.server.receiver.take(data)  # type: ignore[attr-defined]
        answer = ExportTraceServiceResponse().SerializeToString()
        self.send_response(200)
        self.send_header("Content-Type", "application/x-protobuf")
        self.send_header("Content-Length", str(len(answer)))
        self.end_headers()
        self.wfile.write(answer)

    def log_message(self, format: str, *args: Any) -> None:
        """Stay silent."""


def _received(span: Any, resource: dict[str, Any]) -> ReceivedSpan:
    return ReceivedSpan(
        trace=span.trace_id.hex(),
        id=span.span_id.hex(),
        parent=span.parent_span_id.hex(),
        name=span.name,
        kind=span.kind,
        began=span.start_time_unix_nano,
        ended=span.end_time_unix_nano,
        failed=span.status.code == 2,
        message=span.status.message,
        attributes=_attributes(span.attributes),
        resource=resource,
        events=len(span.events),
    )


def _attributes(found: Any) -> dict[str, Any]:
    return {one.key: _value(one.value) for one in found}


def _value(value: AnyValue) -> Any:
    kind = value.WhichOneof("value")
    if kind == "array_value":
        return [_value(one) for one in value.array_value.values]
    return getattr(value, kind) if kind is not None else None
