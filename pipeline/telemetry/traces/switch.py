"""Traces of this process: on if OpenTelemetry's own variables name an exporter. Nothing of it is imported otherwise.

OTEL_EXPORTER_OTLP_ENDPOINT, OTEL_EXPORTER_OTLP_TRACES_ENDPOINT   where spans are sent to
OTEL_TRACES_EXPORTER                                              otlp, console (stderr) or none
OTEL_SDK_DISABLED                                                 true: no traces
"""

import asyncio
import contextlib
import logging
import os
import threading
from collections.abc import Awaitable, Callable, Mapping
from importlib.util import find_spec
from typing import TYPE_CHECKING, ParamSpec, TypeVar

if TYPE_CHECKING:
    from pipeline.telemetry.traces.tracer import Tracer

log = logging.getLogger("tandem.traces")
P = ParamSpec("P")
R = TypeVar("R")
_ENDPOINTS = ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "OTEL_EXPORTER_OTLP_ENDPOINT")
_FLUSH_S = 3.0
_NEEDED = ("opentelemetry.sdk", "opentelemetry.exporter.otlp.proto.http")
_open: "Tracer | None" = None  # of this process


def exporter_of(environment: Mapping[str, str] = os.environ) -> str:
    """Return the exporter that the variables name, "" for none."""
    if environment.get("OTEL_SDK_DISABLED", "").strip().lower() == "true":
        return ""
    named = environment.get("OTEL_TRACES_EXPORTER", "").strip().lower()
    if named:
        return "" if named == "none" else named
    return "otlp" if any(environment.get(name, "").strip() for name in _ENDPOINTS) else ""


def complaint(environment: Mapping[str, str] = os.environ) -> str:
    """Return a sentence if traces are requested and cannot be written, else ""."""
    exporter = exporter_of(environment)
    if exporter not in ("", "otlp", "console"):
        return f"OTEL_TRACES_EXPORTER {exporter!r} is not known; no traces are written. Known: otlp, console, none."
    if exporter and not all(_installed(name) for name in _NEEDED):
        return (
            "OTEL_… variables ask for traces, but OpenTelemetry is not installed: pip install 'tandem-pipeline[otel]'"
        )
    return ""


def tracer() -> "Tracer | None":
    """Return this process's tracer, opened at the first use; None if no traces are requested, or can be written. Not to
    be called before a fork: it has threads."""
    global _open  # noqa: PLW0603  one a process
    if _open is None and exporter_of() and not complaint():
        from pipeline.telemetry.traces.tracer import Tracer  # its library is for those who want traces

        _open = Tracer.to(exporter_of())
    return _open


async def flush() -> None:
    """Send what is recorded, within some seconds; what cannot be sent then is lost."""
    if _open is None:
        return
    loop, over = asyncio.get_running_loop(), asyncio.Event()
    # The exporter keeps no time of its own: in a thread that nothing waits for when the process ends.
    threading.Thread(target=_flush, args=(_open, loop, over), daemon=True).start()
    try:
        async with asyncio.timeout(_FLUSH_S):
            await over.wait()
    except TimeoutError:
        log.warning("not all spans could be sent within %g s", _FLUSH_S)


def flushed(work: Callable[P, Awaitable[R]]) -> Callable[P, Awaitable[R]]:
    """Return the same work, which ends when the spans that it made are sent: its process may then be killed."""

    async def done(*args: P.args, **kwargs: P.kwargs) -> R:
        try:
            return await work(*args, **kwargs)
        finally:
            await flush()

    return done


def _flush(opened: "Tracer", loop: asyncio.AbstractEventLoop, over: asyncio.Event) -> None:
    opened.flush(_FLUSH_S)
    with contextlib.suppress(RuntimeError):  # the loop has ended meanwhile
        loop.call_soon_threadsafe(over.set)


def close() -> None:
    """End the tracer of this process."""
    global _open  # noqa: PLW0603
    if _open is not None:
        _open.close()
    _open = None


def _installed(name: str) -> bool:
    try:
        return find_spec(name) is not None
    except ModuleNotFoundError:
        return False
