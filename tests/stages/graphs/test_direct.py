"""A graph of one node is run without LangGraph's engine, and nobody can tell the difference."""

from __future__ import annotations

import cProfile
import inspect
import pkgutil
import pstats
from collections.abc import Iterator
from contextvars import ContextVar
from dataclasses import replace
from importlib import import_module
from typing import Any

import polars as pl
import pytest
from langchain_core.callbacks import AsyncCallbackHandler, BaseCallbackHandler
from langchain_core.tracers.context import register_configure_hook

from stages import graphs
from stages.contract import GraphStage
from stages.execution.attempt import StageOutcome
from stages.journal.records import CallRecord, Record, RowRecord
from tests.harness.model_server import ModelServer
from tests.stages.support import Segments, a_context, a_graph_stage, enrich

SHARED = {"model": "openai:test-model", "prompt": "{{ text }}"}
LABELS = {"category": {"type": "enum", "values": ["good", "bad"]}, "sure": "float"}
STAGES: dict[str, dict[str, Any]] = {
    "extract": {**SHARED, "uses": "extract", "output": {"word": "str", "level": {"type": "int", "ge": 1, "le": 5}}},
    "classify": {
        **SHARED, "uses": "classify", "output": LABELS, "with": {"confidence": "sure", "below": 1, "fallback": "bad"},
    },
    "embed": {**SHARED, "uses": "embed", "model": "openai:text-embedding-3-small", "output": {"v": "list[float]"}},
}  # fmt: skip
ACTIONS: list[list[dict[str, Any]]] = [
    [],
    [{"action": "bad_json", "times": 1}],
    [{"action": "wrong_schema", "times": 2}],
    [{"action": "bad_json"}],
    [{"action": "refusal"}],
    [{"action": "error", "code": "content_filter"}],
    [{"action": "length"}],
]


def stage_of(uses: str, **changed: Any) -> GraphStage:
    return a_graph_stage({**STAGES[uses], **changed})


def facts(record: Record) -> Any:
    """What a record says, without times and chances."""
    if isinstance(record, RowRecord):
        return replace(record, at=0.0)
    return replace(record, at=0.0, nonce="", latency_ms=0, request_id="") if isinstance(record, CallRecord) else record


def seen(outcome: StageOutcome, segments: Segments) -> list[Any]:
    rows = [None if record is None else facts(record) for record in outcome.records]
    return [rows, sorted(str(facts(record)) for record in segments.records), str(outcome.stopped)]


@pytest.mark.parametrize("rules", ACTIONS, ids=str)
@pytest.mark.parametrize("uses", STAGES)
async def test_both_ways_ask_the_same_and_leave_the_same_records(
    server: ModelServer, uses: str, rules: list[dict[str, Any]]
) -> None:
    found = []
    for direct in (True, False):
        server.reset()
        server.script({"rules": rules})
        stage = stage_of(uses)
        assert stage.direct is not None
        segments = Segments()
        outcome = await enrich(stage if direct else replace(stage, direct=None), ["one", ""], a_context(segments))
        found.append((seen(outcome, segments), [call.message for call in server.calls()]))
    assert found[0] == found[1]


def test_only_graphs_of_one_node_are_run_directly_and_all_of_them_are_compared_here() -> None:
    for uses in STAGES:
        assert len(stage_of(uses).graph.nodes) == 2, "its start, and one node"
    for uses in ("extract", "classify"):
        doubtful = stage_of(uses, output=LABELS, **{"with": {"confidence": "sure", "ask_below": 0.5}})
        assert doubtful.direct is None, "it may ask a person"
    names = [module.name for module in pkgutil.iter_modules(graphs.__path__) if not module.ispkg]
    offer = [name for name in names if "direct=" in inspect.getsource(import_module(f"{graphs.__name__}.{name}"))]
    assert sorted(offer) == sorted(STAGES)


@pytest.mark.parametrize("uses", STAGES)
async def test_a_graph_that_nobody_runs_is_not_built(server: ModelServer, uses: str) -> None:
    stage = stage_of(uses)
    await enrich(stage, ["one"])
    assert "graph" not in vars(stage)
    await enrich(once := replace(stage, direct=None), ["two"])
    assert "graph" in vars(once)


@pytest.fixture
def listener() -> Iterator[list[str]]:
    """Callbacks that LangChain adds by itself, as LangSmith's are where tracing is switched on."""
    heard: list[str] = []

    class Listener(AsyncCallbackHandler):
        async def on_chain_start(self, serialized: Any, inputs: Any, **kwargs: Any) -> None:
            heard.append(str(kwargs.get("name")))

    handler: ContextVar[BaseCallbackHandler | None] = ContextVar("listener", default=None)
    register_configure_hook(handler, inheritable=True)
    token = handler.set(Listener())
    yield heard
    handler.reset(token)


async def test_callbacks_that_hear_of_nodes_go_on_hearing_of_them(server: ModelServer, listener: list[str]) -> None:
    await enrich(stage_of("extract"), ["one"])
    assert "ask" in listener


async def test_steps_that_are_watched_are_steps_of_the_graph(server: ModelServer) -> None:
    context = a_context()
    steps: list[str] = []
    context.on_step = lambda row, node, update: steps.append(node)
    await enrich(stage_of("extract"), ["one"], context)
    assert steps == ["ask"]


async def test_a_row_calls_no_more_than_it_did(server: ModelServer) -> None:
    """Functions in Python and in C for a row of one call, which no busy machine changes."""
    many = 400
    stage = a_graph_stage({**STAGES["extract"], "model": "offline:lexical"})
    frame = pl.DataFrame({"text": [f"text number {number}" for number in range(many)]})
    await enrich(stage, frame[:10])
    profile = cProfile.Profile()
    profile.enable()
    await enrich(stage, frame, a_context(run="run-2"))
    profile.disable()
    calls = pstats.Stats(profile).total_calls / many  # type: ignore[attr-defined]
    assert calls < 1_100
