"""The spans of rows: which are kept, what each is a part of, and by which names they say what they say."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
from opentelemetry.semconv._incubating.attributes import error_attributes, gen_ai_attributes, server_attributes

from stages.journal.records import CallRecord
from stages.observer import RowOutcome
from tests.harness.model_server import ModelServer
from tests.pipeline.telemetry.traces.support import REF, Traced, values
from tests.stages.conftest import _forget_endpoints, server  # noqa: F401
from tests.stages.support import MODEL, Segments, a_context, a_graph_stage, an_extract, enrich, kinds

TOOL = "tests.stages.toolbox:stock"
BAD = [{"match": text, "action": "bad_json"} for text in ("broken", "That answer is not valid")]
KNOWN = {
    value
    for module in (gen_ai_attributes, error_attributes, server_attributes)
    for name, value in vars(module).items()
    if name.isupper() and isinstance(value, str)
}


def words_of(name: str) -> set[str]:
    return {one.value for one in getattr(gen_ai_attributes, name)}


async def test_a_rejected_row_is_kept_with_its_nodes_calls_and_repairs_though_no_row_is_sampled(
    server: ModelServer,  # noqa: F811
) -> None:
    server.script({"rules": BAD})
    with Traced.opened(0.0) as traced:
        found = await enrich(an_extract(), ["good", "broken", "fine"], a_context(observer=traced.batch()))
        assert kinds(found) == ["ok", "invalid_answer", "ok"]
        paths = [traced.path(span)[1:] for span in traced.named("chat")]
        chat = f"chat {MODEL.partition(':')[2]}"
        assert paths == [["node ask", chat], *[["node ask", "repair", chat]] * 2]
        (stage,) = traced.named("stage")
        assert values(stage)["tandem.trace.reason"] == "reject"
        assert values(stage)["error.type"] == "invalid_answer"
        assert not stage.status.is_ok
        visits = [values(span)["tandem.node.visit"] for span in traced.named("node")]
        assert visits == [1, 2, 3]
        assert values(traced.named("node")[-1])["error.type"] == "RowError"


async def test_the_share_of_rows_is_the_same_one_in_every_process(server: ModelServer) -> None:  # noqa: F811
    texts = [f"text {number}" for number in range(120)]
    with Traced.opened(0.1) as one, Traced.opened(0.1) as other:
        for traced in (one, other):
            await enrich(an_extract(), texts, a_context(observer=traced.batch()))
        rows = [{values(span)["tandem.row.id"] for span in traced.named("stage")} for traced in (one, other)]
        sampled = {f"row-{at}" for at in range(120) if one.kept.sampled(REF.run, f"row-{at}")}
    assert 3 < len(sampled) < 25
    assert sampled <= rows[0] & rows[1]
    assert all(len(found - sampled) < 10 for found in rows), "beside them, only slow ones"


def test_a_row_slower_than_99_of_100_before_it_is_slow() -> None:
    with Traced.opened(0.0) as traced:
        slow = traced.tracer.slow_rows("triage")
        assert not any(slow.is_slow(0.1 + number % 10 / 100) for number in range(1_000))
        assert slow.is_slow(0.5)
        assert not slow.is_slow(0.15)
        assert not traced.tracer.slow_rows("another").is_slow(9.0)


def a_call(**changed: Any) -> CallRecord:
    known = {
        "request": "r", "ordinal": 0, "id": "row-0", "model": MODEL, "raw": '{"content": "hi"}', "error": None,
        "usage": {"input": 9, "output": 2, "cached_input": 4, "cache_write": 3, "reasoning": 1}, "cost_usd": 0.25,
        "request_id": "req-1", "latency_ms": 500, "run": "run-1", "batch": 0, "at": 1_700_000_000.0, "nonce": "n",
        "by": {"model": "m-1", "tier": "flex", "endpoint": "host:1"},
    }  # fmt: skip
    return CallRecord(**{**known, **changed})


def test_what_an_attempt_wrote_before_its_kill_belongs_to_what_its_successor_writes() -> None:
    """The killed one never came to the end of the node, the stage and the row."""
    with Traced.opened() as killed, Traced.opened() as successor:
        row = killed.batch(1).row_began("triage", "extract", "row-0", {})
        row.node_began("ask")
        row.call_answered(a_call(), None)
        batch = successor.batch(2)
        again = batch.row_began("triage", "extract", "row-0", {})
        node = again.node_began("ask")
        again.call_reused(a_call())
        again.node_ended(node, None)
        again.ended("ok", None)
        batch.rows_ended([RowOutcome("row-0", "ok")])
        (left,) = killed.spans
        known = {span.context.span_id: span for span in successor.spans if span.context is not None}
        assert left.context is not None
        assert left.parent is not None
        assert known[left.parent.span_id].name == "node ask"
        assert {span.context.trace_id for span in (left, *known.values()) if span.context} == {left.context.trace_id}
        (reused,) = successor.named("chat")
        assert successor.path(reused) == ["row", "stage triage", "node ask", "chat test-model"]
        assert values(reused)["tandem.journal.hit"] is True
        assert left.end_time == 1_700_000_000_000_000_000
        assert left.start_time == left.end_time - 500_000_000


def test_a_row_that_is_stopped_is_not_written_as_if_it_had_ended() -> None:
    with Traced.opened(0.0) as traced:
        row = traced.batch().row_began("triage", "extract", "row-0", {})
        row.node_ended(row.node_began("ask"), None)
        assert not traced.spans


def test_the_row_itself_is_written_for_samples_rejects_and_what_was_kept() -> None:
    """Also for those that an earlier attempt, or a check, rejected, so that no graph ran for them now."""
    with Traced.opened(0.0) as traced:
        batch = traced.batch(3)
        batch.keep("slow", 1_000, 9_000, None)
        outcomes = [
            RowOutcome("slow", "ok"),
            RowOutcome("no", "rejected", "too_short", "checks"),
            RowOutcome("x", "ok"),
        ]
        batch.rows_ended(outcomes)
        slow, no = traced.spans
        assert (values(slow)["tandem.row.id"], slow.start_time, slow.end_time) == ("slow", 1_000, 9_000)
        assert values(no) == {
            "tandem.row.id": "no", "tandem.row.outcome": "rejected", "tandem.stage": "checks", "tandem.attempt": 3,
            "error.type": "too_short",
        }  # fmt: skip


async def test_attributes_have_the_names_and_words_of_the_conventions(server: ModelServer) -> None:  # noqa: F811
    """Their published model is the judge; the names of what they do not know begin with tandem."""
    server.script(
        {"rules": [
            {"match": "tools", "action": "tool_calls", "tool_calls": [{"name": "stock", "arguments": {"item": "a"}}]},
            {"match": "down", "action": "error", "status": 503, "times": 1},
        ]}
    )  # fmt: skip
    agent = {"uses": "agent", "model": MODEL, "prompt": "{{ text }}", "output": {"answer": "str"}, "tools": [TOOL]}
    embed = {"uses": "embed", "model": "openai:vectors", "prompt": "{{ text }}", "output": {"v": "list[float]"}}
    with Traced.opened(content=True) as traced:
        await enrich(a_graph_stage(agent), ["use tools"], a_context(observer=traced.batch()))
        await enrich(
            an_extract(params={"temperature": 0.5, "max_tokens": 99}), ["down"], a_context(observer=traced.batch())
        )
        await enrich(a_graph_stage(embed), ["x"], a_context(observer=traced.batch()))
        row = traced.batch().row_began("triage", "extract", "row-9", {})
        row.call_answered(a_call(), None)
        row.ended("ok", None)
        spans = list(traced.spans)
    names = {name for span in spans for name in values(span)}
    assert {name for name in names if not name.startswith("tandem.")} <= KNOWN
    for expected in (
        "gen_ai.request.temperature", "gen_ai.request.max_tokens", "gen_ai.response.finish_reasons", "error.type",
        "gen_ai.usage.input_tokens", "gen_ai.usage.cache_read.input_tokens", "gen_ai.usage.reasoning.output_tokens",
        "gen_ai.usage.cache_creation.input_tokens", "gen_ai.response.model", "gen_ai.response.id", "gen_ai.tool.name",
        "gen_ai.tool.call.arguments", "gen_ai.tool.call.result", "gen_ai.input.messages", "gen_ai.output.messages",
        "server.address", "tandem.cost_usd", "tandem.tier",
    ):  # fmt: skip
        assert expected in names, expected
    said = {
        name: {values(span)[name] for span in spans if name in values(span)} for name in names if "operation" in name
    }
    assert said == {"gen_ai.operation.name": {"chat", "embeddings", "execute_tool"}}
    assert said["gen_ai.operation.name"] <= words_of("GenAiOperationNameValues")
    providers = {values(span)["gen_ai.provider.name"] for span in spans if "gen_ai.provider.name" in values(span)}
    assert providers <= words_of("GenAiProviderNameValues")
    kinds = {span.name: span.kind.name for span in spans}
    assert kinds["chat test-model"] == kinds["embeddings vectors"] == "CLIENT"
    assert kinds["execute_tool stock"] == "INTERNAL"


def test_every_provider_that_the_conventions_name_has_their_word() -> None:
    from pipeline.telemetry.traces.gen_ai import _PROVIDERS

    assert set(_PROVIDERS.values()) <= words_of("GenAiProviderNameValues")


async def test_a_span_holds_texts_only_where_they_are_allowed(server: ModelServer) -> None:  # noqa: F811
    for content, (action, text) in itertools.product((False, True), (("bad_json", "a secret"), ("text", "none"))):
        server.script({"rules": [{"action": action, "text": "{}"}]})
        with Traced.opened(content=content) as traced:
            batch = traced.batch()
            await enrich(an_extract(system="be secret"), [text], a_context(Segments(), observer=batch))
            batch.rows_ended([RowOutcome("row-0", "ok")])
            written = "".join(span.to_json() for span in traced.spans)
        assert ("secret" in written) is content
        assert ("gen_ai.input.messages" in written) is content


@pytest.mark.parametrize("uses", ["tests.pipeline.telemetry.traces.graphs:graph"])
async def test_nodes_of_subgraphs_and_tools_of_a_users_graph_are_seen(uses: str) -> None:
    stage = a_graph_stage({"uses": uses, "output": {"reply": "str"}})
    with Traced.opened() as traced:
        assert kinds(await enrich(stage, ["a"], a_context(observer=traced.batch()))) == ["ok"]
        assert [traced.path(span)[-2:] for span in traced.named("execute_tool")] == [["node use", "execute_tool stock"]]
        assert {span.name for span in traced.named("node")} == {"node use", "node inner.leaf"}
