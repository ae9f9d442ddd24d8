"""What traces of 1 % of the rows cost: the CPU of runs without and with them, in turns; and of the hooks alone, with
all that is written and sent."""

import asyncio
import cProfile
import os
import pstats
import statistics
import tempfile
import time
from pathlib import Path

from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from pipeline.telemetry.traces import place
from pipeline.telemetry.traces.batch_spans import BatchSpans, Kept
from pipeline.telemetry.traces.tracer import Tracer
from schemas.messages.base import RunRef
from stages.journal.records import CallRecord
from stages.journal.requests import RequestText
from stages.observer import RowOutcome
from tests.bench.pipelines import Ran, run, write_spec, write_table
from tests.harness.model_server import ModelServer
from tests.harness.otlp_receiver import OtlpReceiver
from tests.stages.support import a_context, an_extract, enrich

ROWS, LATENCY_MS, IN_FLIGHT, TIMES = 6_000, 20, 256, 4
SHARE = 0.01
_EVENTS, _COUNTED = 50_000, 2_000
_PROMPT = RequestText(b'{"model": {"name": "m", "params": {}}, "messages": []}', b"[]")


def one(server: ModelServer, receiver: OtlpReceiver | None) -> Ran:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_table(folder / "t.csv", ROWS)
        write_spec(folder, "openai:test-model")
        with (folder / "tandem.yaml").open("a") as spec:
            spec.write(f"limits: {{rows_in_flight: {IN_FLIGHT}}}\ntrace: {SHARE}\n")
        traced = {"OTEL_EXPORTER_OTLP_ENDPOINT": receiver.url} if receiver is not None else {}
        return run(folder, "--processes", "2", env={**server.env(), **traced})


def hooks_us(receiver: OtlpReceiver) -> float:
    """CPU of all that a row of one node and one call reports, in microseconds, sending and receiving included."""
    tracer = Tracer.with_exporter(OTLPSpanExporter(f"{receiver.url}/v1/traces"))
    ref = RunRef(pipeline="bench", run="run", sink="out")
    batch = BatchSpans(tracer, ref, place.of_batch(ref, "day=1", 0), Kept(SHARE, content=False))
    call = CallRecord(
        request="r", ordinal=0, id="x", model="openai:m", raw='{"content": "hi", "response_metadata": {}}', error=None,
        usage={"input": 9, "output": 2}, cost_usd=0.1, request_id="q", latency_ms=20, run="run", batch=0,
        at=time.time(), nonce="n",
    )  # fmt: skip
    taken = time.process_time()
    outcomes = []
    for number in range(_EVENTS):
        id = f"{number:032x}"
        row = batch.row_began("triage", "extract", id, {})
        node = row.node_began("ask")
        row.call_answered(call, _PROMPT)
        row.node_ended(node, None)
        row.ended("ok", None)
        outcomes.append(RowOutcome(id, "ok"))
    batch.rows_ended(outcomes)
    tracer.flush(30)
    return (time.process_time() - taken) / _EVENTS * 1e6


async def _calls_of_row(*, traced: bool) -> float:
    """Return how many functions are called for a row of one call to the offline model, in Python and in C."""
    stage = an_extract(model="offline:lexical", limits={"rows_in_flight": 64})
    tracer = Tracer.with_exporter(InMemorySpanExporter())
    ref = RunRef(pipeline="bench", run="run", sink="out")
    batch = BatchSpans(tracer, ref, place.of_batch(ref, "day=1", 0), Kept(SHARE, content=False))
    context = a_context(observer=batch if traced else None)
    profile = cProfile.Profile()
    profile.enable()
    await enrich(stage, [f"text number {number}" for number in range(_COUNTED)], context)
    profile.disable()
    tracer.close()
    return float(pstats.Stats(profile).total_calls) / _COUNTED  # type: ignore[attr-defined]


def counted() -> tuple[float, float]:
    """Return the calls of functions for a row, without traces and with them: a figure that no busy machine changes."""
    asyncio.run(_calls_of_row(traced=False))  # what the first row imports
    return asyncio.run(_calls_of_row(traced=False)), asyncio.run(_calls_of_row(traced=True))


def main() -> str:
    cpu: dict[bool, list[float]] = {False: [], True: []}
    with ModelServer.start(latency_ms=LATENCY_MS) as server, OtlpReceiver.started() as receiver:
        for turn in range(2 * TIMES):
            server.reset()
            server.script({"latency_ms": LATENCY_MS})
            ran = one(server, receiver if turn % 2 else None)
            cpu[bool(turn % 2)].append(ran.cpu_s / ROWS * 1000)
        spans = len(receiver.spans)
        hooks = hooks_us(receiver)
    few, more = counted()
    without, with_them = (statistics.median(cpu[traced]) for traced in (False, True))
    return (
        f"without {without:.2f} ms CPU a row, with {with_them:.2f}: {with_them / without - 1:+.1%} ({spans} spans); "
        f"hooks alone {hooks:.1f} us a row = {hooks / without / 10:.2f} %; {few:.0f} functions called for a row, "
        f"{more:.0f} with traces: {more / few - 1:+.1%} (load {os.getloadavg()[0]:.0f})"
    )
