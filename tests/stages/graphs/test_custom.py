"""Any LangGraph graph of a user's runs unchanged, from a file of their own."""

import asyncio
import importlib
import sys
from collections.abc import Callable, Iterator
from itertools import count
from pathlib import Path
from textwrap import dedent
from typing import Any

import polars as pl
import pyarrow as pa
import pytest

from schemas.errors import SpecError
from stages.contract import GraphStage
from stages.stage_digests import code_digests
from stages.user_code import add_user_folder
from tests.harness.model_server import ModelServer
from tests.stages.support import MODEL, Segments, a_context, a_graph_stage, a_spec, answers, enrich, kinds, until

_numbers = count()
Write = Callable[[str], str]
HEAD = """
    import asyncio, dataclasses, operator
    from typing import Annotated, Any, TypedDict
    from langgraph.graph import END, START, StateGraph
    from langgraph.runtime import Runtime
    from pydantic import BaseModel

    class State(TypedDict, total=False):
        text: str
        draft: str
        tries: int
        score: float
"""


@pytest.fixture
def write(tmp_path: Path) -> Iterator[Write]:
    """Writes a module of the user's and returns its name."""
    before, modules = list(sys.path), set(sys.modules)
    add_user_folder(tmp_path)

    def written(source: str) -> str:
        name = f"graphs_of_a_user_{next(_numbers)}"
        (tmp_path / f"{name}.py").write_text(dedent(HEAD) + dedent(source))
        importlib.invalidate_caches()
        return name

    yield written
    sys.path[:] = before
    for name in set(sys.modules) - modules:
        if name.startswith("graphs_of_a_user_"):
            del sys.modules[name]


def a_stage(uses: str, **given: Any) -> GraphStage:
    limits = given.pop("limits", {})
    columns = given.pop("columns", pa.schema([pa.field("text", pa.string()), pa.field("n", pa.int64())]))
    return a_graph_stage({"uses": uses, "output": {"draft": "str"}, **given}, columns, **limits)


def rows(*texts: str | None) -> pl.DataFrame:
    return pl.DataFrame({"text": texts, "n": range(len(texts))}, schema={"text": pl.String, "n": pl.Int64})


ECHO = """
    async def echo(state):
        return {"draft": (state["text"] or "").upper()}

    builder = StateGraph(State)
    builder.add_node("echo", echo)
    builder.add_edge(START, "echo")
    graph = builder.compile()

    def make():
        return builder

    def make_compiled(model=None, tone="plain"):
        return builder.compile()


    def needs(database):
        return graph

    nothing = 7
"""


@pytest.mark.parametrize("attribute", ["graph", "builder", "make", "make_compiled"])
async def test_a_compiled_graph_a_builder_and_a_factory_all_run(write: Write, attribute: str) -> None:
    outcome = await enrich(a_stage(f"{write(ECHO)}:{attribute}"), rows("a", "b"))
    assert answers(outcome) == [{"draft": "A"}, {"draft": "B"}]


@pytest.mark.parametrize(
    ("attribute", "sentence"),
    [
        ("nothing", "is a int, not a LangGraph graph"),
        ("needs", r"raised TypeError.*missing.*A factory may take: config, models, tools"),
        ("absent", "has no 'absent'"),
    ],
)
def test_what_is_no_graph_is_one_sentence(write: Write, attribute: str, sentence: str) -> None:
    with pytest.raises(SpecError, match=f"stage stage0: .*{sentence}"):
        a_stage(f"{write(ECHO)}:{attribute}")


async def test_a_graph_with_a_branch_and_a_loop_runs_with_its_calls_journalled(
    write: Write, server: ModelServer
) -> None:
    source = """
        def make(model):
            async def draft(state):
                answer = await model.ainvoke(f"{state['text']} try {state.get('tries', 0)}")
                return {"draft": answer.content, "tries": state.get("tries", 0) + 1}

            def short(state):
                return {"draft": model.invoke("say nothing").content}

            builder = StateGraph(State)
            builder.add_node("draft", draft)
            builder.add_node("short", short)
            builder.add_conditional_edges(START, lambda s: "draft" if s["text"] else "short", ["draft", "short"])
            builder.add_conditional_edges("draft", lambda s: END if s["tries"] == 3 else "draft", ["draft", END])
            return builder.compile()
    """
    stage = a_stage(f"{write(source)}:make", model="openai:test-model", output={"draft": "str", "tries": "int?"})
    store = Segments()
    outcome = await enrich(stage, rows("loop", ""), a_context(store))
    assert kinds(outcome) == ["ok", "ok"]
    assert [answer and answer["tries"] for answer in answers(outcome)] == [3, None]
    assert server.stats().requests == 4
    calls_only = Segments([data for data in store.data if b'"k":"call"' in data])
    again = a_context(calls_only, run="run-2")
    stage_two = a_stage(stage.spec.uses, model="openai:test-model", version=2, output=stage.spec.output)
    assert answers(await enrich(stage_two, rows("loop", ""), again)) == answers(outcome)
    assert server.stats().requests == 4


async def test_columns_are_mapped_to_state_keys_and_back(write: Write) -> None:
    name = write(ECHO)
    columns = pa.schema([pa.field("Body of it", pa.string())])
    stage = a_stage(
        f"{name}:graph",
        columns=columns,
        inputs={"text": "Body of it"},
        outputs={"loud": "draft"},
        output={"loud": "str"},
    )
    assert stage.reads == ("Body of it",)
    assert answers(await enrich(stage, pl.DataFrame({"Body of it": ["a"]}))) == [{"loud": "A"}]


@pytest.mark.parametrize(
    ("given", "sentence"),
    [
        ({"output": {"absent": "str"}}, r"output has no 'absent', which output.absent declares.*It has: .*draft"),
        ({"outputs": {"draft": "absent"}}, "output has no 'absent'"),
        ({"outputs": {"other": "draft"}}, "outputs.other is not declared under output"),
        ({"inputs": {"text": "absent"}}, "inputs.text names 'absent', which is no column"),
        ({"inputs": {"absent": "text"}}, "inputs.absent is no key of the graph's input"),
        ({"columns": pa.schema([pa.field("other", pa.string())])}, "no column has the name of a key"),
        ({"output": {}}, "output is missing"),
        ({"tools": ["no_such_tools:x"]}, "tools: cannot import 'no_such_tools'"),
    ],
)
def test_a_mapping_that_cannot_work_is_refused_at_build(write: Write, given: dict[str, Any], sentence: str) -> None:
    with pytest.raises(SpecError, match=f"stage stage0: .*{sentence}"):
        a_stage(f"{write(ECHO)}:graph", **given)


CONTEXT = """
    @dataclasses.dataclass
    class Context:
        models: dict
        tools: list
        tone: str = "plain"

    class Typed(BaseModel):
        tone: str

    def told(state, runtime: Runtime[Context]):
        c = runtime.context
        return {"draft": f"{c.tone} {sorted(c.models)} {[t.__name__ for t in c.tools]}"}

    def tone(state, runtime: Runtime[Typed]):
        return {"draft": runtime.context.tone}

    def search(q: str) -> str:
        return q

    def with_context(schema, node):
        builder = StateGraph(State, context_schema=schema)
        builder.add_node("n", node)
        builder.add_edge(START, "n")
        return builder.compile()

    graph = with_context(Context, told)
    typed = with_context(Typed, tone)
"""


async def test_models_tools_and_settings_reach_the_runtime_context(write: Write) -> None:
    name = write(CONTEXT)
    stage = a_stage(
        f"{name}:graph", model={"main": "offline:lexical", "cheap": "offline:lexical"}, tools=[f"{name}:search"],
        context={"tone": "formal", "unknown": 1},
    )  # fmt: skip
    assert answers(await enrich(stage, rows("a"))) == [{"draft": "formal ['cheap', 'main'] ['search']"}]
    typed = a_stage(f"{name}:typed", context={"tone": "warm"})
    assert answers(await enrich(typed, rows("a"))) == [{"draft": "warm"}]


def test_a_context_that_lacks_a_value_is_refused_at_build(write: Write) -> None:
    with pytest.raises(SpecError, match=r"context Typed cannot be filled.*add missing values under context"):
        a_stage(f"{write(CONTEXT)}:typed")


FAULTY = """
    class Wrong(Exception):
        pass

    async def act(state):
        match state["text"]:
            case "raise":
                raise Wrong("said why")
            case "cancel":
                raise asyncio.CancelledError()
            case "exit":
                raise GeneratorExit("odd")
            case "nothing":
                return {}
            case "wrong type":
                return {"draft": {"not": "text"}}
            case "interrupt":
                from langgraph.types import interrupt
                interrupt("who are you?")
            case "forever":
                return {"tries": 1}
        return {"draft": "fine"}

    def sync(state):
        if state["text"] == "raise":
            raise Wrong("said why")
        return {"draft": "fine"}

    def with_node(node):
        builder = StateGraph(State)
        builder.add_node("act", node)
        builder.add_edge(START, "act")
        builder.add_conditional_edges("act", lambda s: "act" if s["text"] == "forever" else END, ["act", END])
        return builder

    graph = with_node(act).compile()
    threaded = with_node(sync).compile()
    stops = with_node(act).compile(interrupt_before=["act"])
"""


@pytest.mark.parametrize(
    ("text", "kind", "message"),
    [
        ("raise", "Wrong", "said why"),
        ("cancel", "NodeCancelledError", "CancelledError"),
        ("nothing", "missing_output", "'draft'"),
        ("wrong type", "invalid_output", "draft"),
        ("interrupt", "pending", "waiting for an answer"),
        ("forever", "GraphRecursionError", "limit"),
    ],
)
async def test_what_goes_wrong_in_a_node_rejects_only_its_row(write: Write, text: str, kind: str, message: str) -> None:
    outcome = await enrich(a_stage(f"{write(FAULTY)}:graph"), rows("a", text, "b"))
    assert kinds(outcome) == ["ok", kind, "ok"]
    record = outcome.records[1]
    assert record is not None
    assert record.error is not None
    assert message in record.error["message"]


async def test_the_same_while_somebody_watches_each_step(write: Write) -> None:
    steps: list[tuple[str, str]] = []
    context = a_context(on_step=lambda row, node, update: steps.append((row, node)))
    outcome = await enrich(a_stage(f"{write(FAULTY)}:graph"), rows("a", "raise", "nothing", "interrupt"), context)
    assert kinds(outcome) == ["ok", "Wrong", "missing_output", "pending"]
    assert ("act" in [node for _, node in steps]) is True


async def test_a_synchronous_node_is_no_different(write: Write) -> None:
    assert kinds(await enrich(a_stage(f"{write(FAULTY)}:threaded"), rows("a", "raise"))) == ["ok", "Wrong"]


def test_a_graph_compiled_to_stop_is_refused(write: Write) -> None:
    with pytest.raises(SpecError, match="compiled to stop at 'act'"):
        a_stage(f"{write(FAULTY)}:stops")


@pytest.mark.parametrize("where", ["node", "subgraph"])
def test_a_retry_of_a_node_is_refused_with_the_reason(write: Write, where: str) -> None:
    module = write(
        """
        from langgraph.types import RetryPolicy

        inner = StateGraph(State)
        inner.add_node("think", lambda state: {"draft": "x"}, retry_policy=RetryPolicy())
        inner.add_edge(START, "think")
        node = inner
        subgraph = StateGraph(State)
        subgraph.add_node("sub", inner.compile())
        subgraph.add_edge(START, "sub")
        """
    )
    with pytest.raises(SpecError, match=r"the node 'think' has a RetryPolicy.*pay for each attempt.*Leave it out"):
        a_stage(f"{module}:{where}", output={"draft": "str"})


async def test_subgraphs_parallel_nodes_send_and_command_work(write: Write, server: ModelServer) -> None:
    module = write(
        """
        from langgraph.types import Command, Send

        @dataclasses.dataclass
        class Context:
            model: Any

        class Wide(TypedDict, total=False):
            text: str
            part: int
            seen: Annotated[list[str], operator.add]
            draft: str

        async def look(state: Wide, runtime: Runtime[Context]) -> Wide:
            said = await runtime.context.model.ainvoke(f"part {state['part']} of {state['text']}")
            return {"seen": [f"{state['part']}"]}

        class Seen(TypedDict):
            seen: list[str]

        inner = StateGraph(Wide, context_schema=Context, output_schema=Seen)
        inner.add_node("look", look)
        inner.add_edge(START, "look")

        def fan(state: Wide):
            return [Send("sub", {"text": state["text"], "part": at}) for at in range(5)]

        async def left(state: Wide) -> Wide:
            return {"seen": ["left"]}

        async def right(state: Wide) -> Wide:
            return {"seen": ["right"]}

        async def choose(state: Wide):
            return Command(goto="end", update={"draft": " ".join(sorted(state["seen"]))})

        graph = StateGraph(Wide, context_schema=Context)
        graph.add_node("sub", inner.compile())
        graph.add_node("left", left)
        graph.add_node("right", right)
        graph.add_node("choose", choose, destinations=("end",))
        graph.add_node("end", lambda state: {})
        graph.add_conditional_edges(START, fan, ["sub"])
        graph.add_edge("sub", "left")
        graph.add_edge("sub", "right")
        graph.add_edge(["left", "right"], "choose")
        """
    )
    segments = Segments()
    stage = a_stage(f"{module}:graph", output={"draft": "str"}, model=MODEL)
    outcome = await enrich(stage, ["a", "b"], a_context(segments))
    assert answers(outcome) == [{"draft": "0 1 2 3 4 left right"}] * 2
    assert server.stats().requests == 10
    again = a_stage(f"{module}:graph", output={"draft": "str"}, model=MODEL, version=2)
    assert kinds(await enrich(again, ["a", "b"], a_context(segments, run="run-2"))) == ["ok", "ok"]
    assert server.stats().requests == 10


async def test_a_checkpointer_is_dropped(write: Write) -> None:
    source = (
        ECHO
        + """
    from langgraph.checkpoint.memory import InMemorySaver
    saver = InMemorySaver()
    remembering = builder.compile(checkpointer=saver)
    """
    )
    name = write(source)
    stage = a_stage(f"{name}:remembering")
    assert answers(await enrich(stage, rows("a"))) == [{"draft": "A"}]
    assert stage.graph.checkpointer is None
    module = sys.modules[name]
    assert not module.saver.storage
    assert module.remembering.checkpointer is module.saver  # the user's own stays as it was


async def test_objects_in_the_state_become_plain_values(write: Write) -> None:
    source = """
        class Part(BaseModel):
            name: str

        @dataclasses.dataclass
        class Found:
            parts: list
            note: str | None = None

        class Wide(TypedDict, total=False):
            text: str
            found: Any
            parts: list

        def n(state):
            return {"found": Found([Part(name="x")]), "parts": (Part(name="y"), {"name": "z"})}

        builder = StateGraph(Wide)
        builder.add_node("n", n)
        builder.add_edge(START, "n")
    """
    part = {"fields": {"name": "str"}}
    stage = a_stage(
        f"{write(source)}:builder",
        output={"found": {"fields": {"parts": {"type": "list", "items": part}, "note": "str?"}},
                "parts": {"type": "list", "items": part}},
    )  # fmt: skip
    assert answers(await enrich(stage, rows("a"))) == [
        {"found": {"parts": [{"name": "x"}], "note": None}, "parts": [{"name": "y"}, {"name": "z"}]}
    ]


def test_a_changed_helper_changes_digest_and_fingerprint(write: Write, tmp_path: Path) -> None:
    helper = write("VALUE = 1")
    name = write(f"\n    def lazily():\n        import {helper}\n" + ECHO)
    spec = a_spec({"uses": f"{name}:graph", "output": {"draft": "str"}})
    before, stage = code_digests(spec), a_stage(f"{name}:graph")
    assert list(before) == ["stage0"]
    (tmp_path / f"{helper}.py").write_text("VALUE = 2")
    assert code_digests(spec) != before
    assert a_stage(f"{name}:graph").fingerprint != stage.fingerprint
    assert a_stage(f"{name}:graph").provenance.code_digest != stage.provenance.code_digest


async def test_a_fatal_error_that_the_graph_swallows_stops_the_batch_all_the_same(
    write: Write, server: ModelServer
) -> None:
    source = """
        def make(model):
            async def ask(state):
                try:
                    return {"draft": (await model.ainvoke(state["text"])).content}
                except Exception:
                    return {"draft": "fallback"}

            builder = StateGraph(State)
            builder.add_node("ask", ask)
            builder.add_edge(START, "ask")
            return builder
    """
    server.script({"rules": [{"match": "no key", "action": "error", "status": 401},
                             {"match": "poison", "action": "error", "status": 400}]})  # fmt: skip
    stage = a_stage(f"{write(source)}:make", model="openai:test-model", limits={"rows_in_flight": 1})
    outcome = await enrich(stage, rows("fine", "poison", "no key"))
    assert kinds(outcome) == ["ok", "ok", None]
    assert answers(outcome)[1] == {"draft": "fallback"}  # a RowError is the graph's to handle
    assert outcome.stopped is not None
    assert outcome.stopped.code == "FatalModelError"


async def test_a_cancelled_batch_takes_the_calls_of_its_threads_with_it(write: Write, server: ModelServer) -> None:
    source = """
        def make(model):
            def ask(state):
                for _ in range(5):
                    draft = model.invoke(state["text"]).content
                return {"draft": draft}

            builder = StateGraph(State)
            builder.add_node("ask", ask)
            builder.add_edge(START, "ask")
            return builder
    """
    server.script({"latency_ms": 100})
    stage = a_stage(f"{write(source)}:make", model="openai:test-model")
    before = asyncio.all_tasks()
    running = asyncio.create_task(enrich(stage, rows("a", "b")))
    await until(lambda: server.stats().answered_ok >= 2)
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running
    await until(lambda: asyncio.all_tasks() == before)
    asked = server.stats().requests
    await asyncio.sleep(0.25)
    assert server.stats().requests == asked < 10  # no thread goes on asking


# As LangGraph people write them -------------------------------------------------------------------------------------

FACTORIES = """
    from langchain_core.messages import AIMessage, HumanMessage
    from langchain_core.runnables import RunnableConfig
    from langgraph.graph import MessagesState

    def built(prefix):
        async def echo(state):
            return {"draft": prefix + state["text"]}
        builder = StateGraph(State)
        builder.add_node("echo", echo)
        builder.add_edge(START, "echo")
        return builder.compile()

    def graph(config):
        return built(config["configurable"]["prefix"])

    def typed(settings: RunnableConfig):
        return built(settings["configurable"]["prefix"])

    async def later():
        await asyncio.sleep(0)
        return built("> ")

    async def later_with_config(config: RunnableConfig):
        return built(config["configurable"]["prefix"])
"""


@pytest.mark.parametrize("factory", ["graph", "typed", "later", "later_with_config"])
async def test_factories_in_the_forms_of_the_platform_run(write: Write, factory: str) -> None:
    stage = a_stage(f"{write(FACTORIES)}:{factory}", context={"prefix": "> "})
    assert answers(await enrich(stage, rows("a"))) == [{"draft": "> a"}]


def test_an_async_factory_that_fails_is_one_sentence(write: Write) -> None:
    name = write("async def graph():\n    raise ValueError('no such thing')\n")
    with pytest.raises(SpecError, match="raised ValueError: no such thing"):
        a_stage(f"{name}:graph")


MESSAGES = """
    from langchain_core.messages import AIMessage, HumanMessage, ToolMessage
    from langgraph.graph import MessagesState

    class Talk(MessagesState):
        last: Any

    async def talk(state):
        said = state["messages"][-1].content
        return {"messages": [AIMessage([{"type": "text", "text": said.upper()}]), HumanMessage("thanks")],
                "last": AIMessage("7")}

    builder = StateGraph(Talk)
    builder.add_node("talk", talk)
    builder.add_edge(START, "talk")
    graph = builder.compile()
"""


async def test_messages_give_the_text_of_the_last_that_the_model_wrote(write: Write) -> None:
    stage = a_stage(
        f"{write(MESSAGES)}:graph", inputs={"messages": "text"}, outputs={"draft": "messages", "level": "last"},
        output={"draft": "str", "level": "int"},
    )  # fmt: skip
    assert answers(await enrich(stage, rows("a"))) == [{"draft": "A", "level": 7}]


AGENT = """
    from langchain.agents import create_agent

    def size(text: str) -> int:
        "The length of a text."
        return len(text)

    def graph(model):
        return create_agent(model, [size], system_prompt="Be brief.")
"""


async def test_an_agent_of_langchain_works_as_it_comes(write: Write, server: ModelServer) -> None:
    call = {"name": "size", "arguments": {"text": "abc"}}
    server.script({"rules": [
        {"match": "abc", "action": "tool_calls", "tool_calls": [call]}, {"action": "text", "text": "It is 3."},
    ]})  # fmt: skip
    stage = a_stage(f"{write(AGENT)}:graph", model=MODEL, inputs={"messages": "text"}, outputs={"draft": "messages"})
    assert answers(await enrich(stage, rows("abc"))) == [{"draft": "It is 3."}]
    assert server.stats().requests == 2


WITHOUT_SCHEMA = """
    async def echo(state, runtime: Runtime):
        context = runtime.context
        said = await context["model"].ainvoke(state["text"])
        return {"draft": f"{context['tone']} {sorted(context)} {bool(said.content)}"}

    builder = StateGraph(State)
    builder.add_node("echo", echo)
    builder.add_edge(START, "echo")
    graph = builder.compile()
"""


async def test_a_graph_without_a_context_schema_finds_a_dictionary(write: Write, server: ModelServer) -> None:
    stage = a_stage(f"{write(WITHOUT_SCHEMA)}:graph", model=MODEL, context={"tone": "kind"})
    [answer] = answers(await enrich(stage, rows("a")))
    assert answer == {"draft": "kind ['model', 'models', 'tone', 'tools'] True"}


BLOCKING = """
    def built(node, **given):
        builder = StateGraph(State, **given)
        builder.add_node("ask", node)
        builder.add_edge(START, "ask")
        return builder.compile()

    def by_context():
        async def ask(state, runtime: Runtime):
            return {"draft": runtime.context["model"].invoke(state["text"]).content}
        return built(ask)

    def by_name():
        async def ask(state, runtime: Runtime):
            llm = runtime.context["models"]["main"].with_structured_output(State)
            if state["text"]:
                return {"draft": str(llm.invoke(state["text"]))}
        return built(ask)

    def by_closure(model):
        async def ask(state):
            return {"draft": model.bind(stop=["x"]).invoke(state["text"]).content}
        return built(ask)

    def fine(model):
        class Other:
            def invoke(self, text):
                return text
        async def ask(state, runtime: Runtime):
            Other().invoke("x")
            said = await asyncio.to_thread(lambda: model.invoke(state["text"]))
            return {"draft": (await model.ainvoke(state["text"])).content}
        return built(ask)
"""


@pytest.mark.parametrize("factory", ["by_context", "by_name", "by_closure"])
def test_a_call_that_would_block_is_refused_once_and_before_any_row(write: Write, factory: str) -> None:
    with pytest.raises(SpecError, match=r"the async node 'ask' calls .*invoke \(line \d+\)"):
        a_stage(f"{write(BLOCKING)}:{factory}", model=MODEL)


async def test_calls_that_block_nobody_are_not(write: Write, server: ModelServer) -> None:
    stage = a_stage(f"{write(BLOCKING)}:fine", model=MODEL)
    assert kinds(await enrich(stage, rows("a"))) == ["ok"]
