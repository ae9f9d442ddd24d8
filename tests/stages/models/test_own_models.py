"""Models that a graph builds for itself: what they answered is kept and replayed, by LangChain's own hook."""

from collections.abc import Iterator

import pytest
from langchain_core.globals import get_llm_cache, set_llm_cache

from schemas.errors import CallNeeded
from stages.contract import GraphStage
from stages.execution.batch import run_graph_stage
from stages.journal.records import CallRecord
from stages.models.langchain.own_models import JournalCache, journal_own_models
from tests.harness.model_server import ModelServer
from tests.stages.graphs.test_custom import Write, a_stage, rows, write
from tests.stages.support import Segments, a_context, answers, enrich

__all__ = ["write"]  # a fixture
GRAPH = """
    import httpx
    from langchain_openai import ChatOpenAI

    class Said(BaseModel):
        draft: str{fields}

    async def ask(state):  # with clients of its own, as those that ChatOpenAI makes stay open for ever
        with httpx.Client() as client:
            async with httpx.AsyncClient() as aclient:
                model = ChatOpenAI(model="test-model", max_retries=0, timeout={timeout},
                                   http_client=client, http_async_client=aclient)
                said = await model.with_structured_output(Said, method="{method}").ainvoke("{prompt}" + state["text"])
        return {{"draft": said.draft}}

    def ask_in_a_thread(state):
        with httpx.Client() as client:
            model = ChatOpenAI(model="test-model", max_retries=0, http_client=client,
                               http_async_client=httpx.AsyncClient())
            return {{"draft": model.invoke(state["text"]).content}}

    builder = StateGraph(State)
    builder.add_node("ask", {node})
    builder.add_edge(START, "ask")
    graph = builder.compile()
"""


@pytest.fixture(autouse=True)
def _hook() -> Iterator[None]:
    journal_own_models()
    assert isinstance(get_llm_cache(), JournalCache)
    yield
    set_llm_cache(None)


def graph(
    write: Write,
    *,
    node: str = "ask",
    method: str = "json_schema",
    timeout: int = 20,
    fields: str = "",
    prompt: str = "",
) -> GraphStage:
    said = GRAPH.format(node=node, method=method, timeout=timeout, fields=fields, prompt=prompt)
    return a_stage(f"{write(said)}:graph")


@pytest.mark.parametrize(
    ("node", "method"), [("ask", "json_schema"), ("ask", "function_calling"), ("ask_in_a_thread", "")]
)
async def test_an_answer_is_paid_for_once_and_replayed(
    write: Write, server: ModelServer, node: str, method: str
) -> None:
    segments = Segments()
    stage = graph(write, node=node, method=method)
    first = await enrich(stage, rows("a", "b"), a_context(segments))
    calls = [record for record in segments.records if isinstance(record, CallRecord)]
    assert server.stats().requests == len(calls) == 2
    assert {call.model for call in calls} == {"openai:test-model"}
    assert all(call.usage["input"] > 0 and not call.usage.get("estimated") for call in calls)
    context = a_context()
    for call in calls:  # the rows' own records are lost: a process died before it wrote them
        context.journal.known.add(call)
    again = await enrich(stage, rows("a", "b"), context)
    assert answers(again) == answers(first)
    assert server.stats().requests == 2
    assert context.tally.calls_reused == 0, "what this run's rows asked themselves is no reuse"


@pytest.mark.parametrize(("node", "method"), [("ask", "json_schema"), ("ask_in_a_thread", "")])
async def test_a_run_without_calls_holds_them_back(write: Write, server: ModelServer, node: str, method: str) -> None:
    stage = graph(write, node=node, method=method)
    context = a_context()
    context.no_calls = True
    outcome = await run_graph_stage(stage, rows("a", "b"), ["0", "1"], context)
    assert isinstance(outcome.stopped, CallNeeded)
    assert server.stats().requests == 0


async def test_how_a_call_is_made_changes_nothing_and_what_is_asked_for_does(write: Write, server: ModelServer) -> None:
    segments = Segments()
    await enrich(graph(write), rows("a"), a_context(segments))
    assert server.stats().requests == 1
    await enrich(graph(write, timeout=7), rows("a"), a_context(segments))
    assert server.stats().requests == 1, "another timeout"
    await enrich(graph(write, fields="\n        more: int"), rows("a"), a_context(segments))
    assert server.stats().requests == 2, "another class of the same name"
    await enrich(graph(write, prompt="Say: "), rows("a"), a_context(segments))
    assert server.stats().requests == 3, "another prompt"
