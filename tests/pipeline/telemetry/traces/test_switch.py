"""Traces are on where OpenTelemetry's own variables say so, and who cannot have them hears why."""

import asyncio
from types import SimpleNamespace

import pytest

from pipeline.telemetry.traces import place, switch
from pipeline.telemetry.traces.tracer import Tracer
from schemas.messages.base import RunRef
from tests.harness.otlp_receiver import OtlpReceiver
from tests.pipeline.telemetry.traces.support import REF, Traced


@pytest.mark.parametrize(
    ("variables", "exporter"),
    [
        ({}, ""),
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": "http://host:4318"}, "otlp"),
        ({"OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": "http://host:4318/v1/traces"}, "otlp"),
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": " "}, ""),
        ({"OTEL_EXPORTER_OTLP_METRICS_ENDPOINT": "http://host:4318"}, ""),
        ({"OTEL_TRACES_EXPORTER": "console"}, "console"),
        ({"OTEL_TRACES_EXPORTER": "otlp"}, "otlp"),
        ({"OTEL_TRACES_EXPORTER": "none", "OTEL_EXPORTER_OTLP_ENDPOINT": "http://host:4318"}, ""),
        ({"OTEL_SDK_DISABLED": "true", "OTEL_EXPORTER_OTLP_ENDPOINT": "http://host:4318"}, ""),
    ],
)
def test_the_variables_name_the_exporter(variables: dict[str, str], exporter: str) -> None:
    assert switch.exporter_of(variables) == exporter
    assert switch.complaint(variables) == ""


def test_an_exporter_that_is_not_known_and_a_library_that_is_not_there_are_sentences(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    assert "'zipkin' is not known" in switch.complaint({"OTEL_TRACES_EXPORTER": "zipkin"})
    monkeypatch.setattr(switch, "_NEEDED", ("opentelemetry.no_such_part",))
    variables = {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://host:4318"}
    assert "pip install 'tandem-pipeline[otel]'" in switch.complaint(variables)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    assert switch.tracer() is None


async def test_what_is_recorded_is_sent_when_it_is_flushed(monkeypatch: pytest.MonkeyPatch) -> None:
    with OtlpReceiver.started() as receiver:
        for name, value in {**receiver.env(), "OTEL_SERVICE_NAME": "mine", "OTEL_BSP_SCHEDULE_DELAY": "60000"}.items():
            monkeypatch.setenv(name, value)
        tracer = switch.tracer()
        assert tracer is not None
        assert switch.tracer() is tracer
        with tracer.otel.start_as_current_span("theirs"):
            await asyncio.sleep(0)
        await switch.flush()

        async def work(name: str) -> None:
            with tracer.otel.start_as_current_span(name):
                await asyncio.sleep(0)

        await switch.flushed(work)("of a request")
        switch.close()
        names = [(span.name, span.resource["service.name"]) for span in receiver.spans]
        assert names == [("theirs", "mine"), ("of a request", "mine")]


def test_the_place_of_a_request_is_that_of_its_batch_partition_or_run() -> None:
    run = place.of_run(REF)
    assert place.of_request(SimpleNamespace(ref=REF)) == run
    partition = place.of_request(SimpleNamespace(ref=REF, partition="day=1"))
    assert partition == place.of_partition(REF, "day=1")
    batch = place.of_request(SimpleNamespace(ref=REF, partition="day=1", batch=0))
    assert batch == place.of_batch(REF, "day=1", 0)
    assert place.of_request(SimpleNamespace(other=1)) is None
    assert len({run.span, partition.span, batch.span}) == 3 if partition and batch else False
    other = place.of_run(RunRef(pipeline="tests", run="run-2", sink="memory://out"))
    assert other.trace != run.trace


def test_a_span_that_a_library_makes_in_an_activity_is_a_part_of_its_batch() -> None:
    from pipeline.telemetry.traces.tracer import attached

    with Traced.opened() as traced:
        batch = place.of_batch(REF, "day=1", 0)
        with attached(batch), traced.tracer.otel.start_as_current_span("GET /x"):
            pass
        (span,) = traced.spans
        assert span.parent is not None
        assert (span.parent.trace_id, span.parent.span_id) == (batch.trace, batch.span)
        assert isinstance(traced.tracer, Tracer)
