"""LangChain's callbacks hear of built-in stages: nodes, calls of models and tools; nothing is made for them if nobody
listens."""

from __future__ import annotations

import os
import subprocess
import sys
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from contextvars import ContextVar
from typing import Any
from uuid import UUID

import langsmith.utils
import pytest
from aiohttp import web
from langchain_core.callbacks import AsyncCallbackHandler, AsyncCallbackManager, BaseCallbackHandler
from langchain_core.messages import AIMessage, BaseMessage
from langchain_core.outputs import ChatGeneration, LLMResult
from langchain_core.runnables import RunnableLambda
from langchain_core.tracers.context import register_configure_hook
from langsmith import run_trees

from stages.models import callbacks
from tests.harness.model_server import ModelServer
from tests.stages.support import Segments, a_context, a_graph_stage, an_extract, enrich, kinds

SECRET = "sk-a-secret-of-the-spec"


class Listener(AsyncCallbackHandler):
    def __init__(self) -> None:
        self.names: dict[UUID, str] = {}
        self.parents: dict[str, str | None] = {}
        self.messages: list[list[str]] = []
        self.given: list[dict[str, Any]] = []
        self.answers: list[AIMessage] = []
        self.ends = Counter[str]()

    def _began(self, name: str, run_id: UUID, parent_run_id: UUID | None) -> None:
        self.names[run_id] = name
        self.parents[name] = self.names.get(parent_run_id) if parent_run_id is not None else None

    async def on_chain_start(self, serialized: Any, inputs: Any, *, run_id: UUID, **given: Any) -> None:
        self._began(given["name"], run_id, given.get("parent_run_id"))

    async def on_tool_start(self, serialized: Any, input_str: str, *, run_id: UUID, **given: Any) -> None:
        self._began(serialized["name"], run_id, given.get("parent_run_id"))

    async def on_chat_model_start(
        self, serialized: dict[str, Any], messages: list[list[BaseMessage]], *, run_id: UUID, **given: Any
    ) -> None:
        self._began(given["name"], run_id, given.get("parent_run_id"))
        self.messages.append([f"{message.type}: {message.content}" for message in messages[0]])
        self.given.append({"serialized": serialized, **given})

    async def on_llm_end(self, response: LLMResult, **given: Any) -> None:
        self.ends["end"] += 1
        generation = response.generations[0][0]
        assert isinstance(generation, ChatGeneration)
        assert isinstance(generation.message, AIMessage)
        self.answers.append(generation.message)

    async def on_llm_error(self, error: BaseException, **given: Any) -> None:
        self.ends[type(error).__name__] += 1


_handler: ContextVar[BaseCallbackHandler | None] = ContextVar("listener", default=None)
register_configure_hook(_handler, inheritable=True)


@pytest.fixture
def listener() -> Iterator[Listener]:
    """One that LangChain adds by itself, as it does LangSmith's."""
    found = Listener()
    token = _handler.set(found)
    yield found
    _handler.reset(token)


async def test_a_listener_hears_of_the_stage_its_node_and_its_call(server: ModelServer, listener: Listener) -> None:
    server.reset()
    stage = an_extract(system="You sort.", params={"temperature": 0, "headers": {"X-Key": SECRET}})
    store = Segments()
    await enrich(stage, ["one"], a_context(store))
    assert listener.parents == {"stage0": None, "ask": "stage0", "openai:test-model": "ask"}
    assert listener.messages == [["system: You sort.", "human: one"]]
    (message,) = listener.answers
    (call,) = server.calls()
    assert message.usage_metadata is not None
    assert message.usage_metadata["input_tokens"] == call.usage["prompt_tokens"]
    assert message.response_metadata["model_name"] == "test-model"
    (given,) = listener.given
    assert given["metadata"]["ls_provider"] == "openai"
    assert given["metadata"]["ls_model_name"] == "test-model"
    assert given["metadata"]["tandem_row"] == "row-0"
    assert given["invocation_params"]["temperature"] == 0
    assert given["invocation_params"]["response_format"]["json_schema"]["name"] == "tests_stage0"
    assert SECRET not in str(given)


async def test_a_listener_of_the_run_around_it_hears_of_it_too(server: ModelServer) -> None:
    server.reset()
    listener = Listener()

    async def work(_: Any) -> list[str | None]:
        return kinds(await enrich(an_extract(), ["one", "two"]))

    assert await RunnableLambda(work).ainvoke(None, {"callbacks": [listener], "run_name": "around"}) == ["ok", "ok"]
    assert listener.ends == {"end": 2}
    assert listener.parents == {"around": None, "stage0": "around", "ask": "stage0", "openai:test-model": "ask"}


async def test_a_listener_hears_of_repairs_failures_and_of_the_second_model(
    server: ModelServer, listener: Listener
) -> None:
    server.script({"rules": [{"action": "bad_json", "times": 1}]})
    await enrich(an_extract(), ["one"])
    assert listener.ends == {"end": 2}
    assert len(listener.messages[1]) == 3
    server.script({"rules": [{"code": "invalid_api_key"}]})
    await enrich(an_extract(), ["one"])
    assert listener.ends == {"end": 2, "FatalModelError": 1}
    server.script({"rules": [{"action": "refusal", "times": 1}]})
    stage = an_extract(model={"try": ["openai:test-model", "openai:other-model"]})
    assert kinds(await enrich(stage, ["one"])) == ["ok"]
    assert listener.ends["end"] == 3
    assert listener.answers[-1].response_metadata["model_name"] == "other-model"


async def test_a_listener_hears_of_the_tools_of_an_agent(server: ModelServer, listener: Listener) -> None:
    calls = [{"name": "stock", "arguments": {"item": "lamp"}}]
    server.script(
        {"rules": [{"action": "tool_calls", "tool_calls": calls}, {"action": "text", "text": '{"answer": "fine"}'}]}
    )
    stage = a_graph_stage(
        {"uses": "agent", "model": "openai:test-model", "prompt": "{{ text }}", "output": {"answer": "str"},
         "tools": ["tests.stages.toolbox:stock"]}
    )  # fmt: skip
    assert kinds(await enrich(stage, ["a"])) == ["ok"]
    assert listener.parents["stock"] == "tools"
    assert listener.parents["openai:test-model"] == "think"
    assert listener.ends == {"end": 2}


async def test_nothing_is_made_for_callbacks_if_nobody_listens(
    server: ModelServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    server.reset()
    made = Counter[str]()

    def counted(name: str, function: Any) -> Any:
        def call(*args: Any, **given: Any) -> Any:
            made[name] += 1
            return function(*args, **given)

        return call

    for name in ("generate", "_model_of", "_names_for_langsmith"):
        monkeypatch.setattr(callbacks, name, counted(name, getattr(callbacks, name)))
    for name in ("configure", "on_chat_model_start", "on_chain_start"):
        monkeypatch.setattr(AsyncCallbackManager, name, counted(name, getattr(AsyncCallbackManager, name)))
    assert kinds(await enrich(an_extract(), [f"row {number}" for number in range(20)])) == ["ok"] * 20
    assert made == {"configure": 1}, "once a batch, to see that nobody does"


@pytest.fixture
async def langsmith_server(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[list[bytes]]:
    """An address for LangSmith's own client, to which this process traces. Yields the bodies that it sent."""
    bodies: list[bytes] = []

    async def take(request: web.BaseRequest) -> web.Response:
        body = await request.read()
        if request.method == "POST":
            bodies.append(body)
        return web.json_response({})

    runner = web.ServerRunner(web.Server(take))
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    monkeypatch.setenv("LANGSMITH_TRACING", "true")
    monkeypatch.setenv("LANGSMITH_ENDPOINT", f"http://127.0.0.1:{runner.addresses[0][1]}")
    monkeypatch.setenv("LANGSMITH_API_KEY", "lsv2_test")
    monkeypatch.setenv("LANGSMITH_DISABLE_RUN_COMPRESSION", "true")
    monkeypatch.setattr(run_trees, "_CLIENT", None)
    langsmith.utils.get_env_var.cache_clear()  # type: ignore[attr-defined]
    yield bodies
    if run_trees._CLIENT is not None:
        run_trees._CLIENT.cleanup()
    monkeypatch.undo()
    langsmith.utils.get_env_var.cache_clear()  # type: ignore[attr-defined]
    await runner.cleanup()


async def test_langsmith_gets_the_runs_before_the_process_ends(
    server: ModelServer, langsmith_server: list[bytes]
) -> None:
    server.reset()
    assert kinds(await enrich(an_extract(), ["a letter of mine"])) == ["ok"]
    await callbacks.flush_tracers()
    sent = b"".join(langsmith_server)
    for part in (b'"run_type":"llm"', b"openai:test-model", b"a letter of mine", b'"ls_provider":"openai"', b"stage0"):
        assert part in sent


@pytest.mark.parametrize(
    ("how", "heard"),
    [
        ("pass", False),
        ("os.environ['LANGSMITH_TRACING'] = 'false'", False),
        ("os.environ['LANGSMITH_TRACING'] = 'true'", True),
        ("os.environ.update(LANGCHAIN_TRACING_V2='false', LANGSMITH_TRACING='true')", False),  # the first decides
        ("from langchain_core.globals import set_debug; set_debug(True)", True),
        ("from langchain_core.runnables import RunnableLambda", True),
        ("import langsmith; langsmith.Client", True),
    ],
)
def test_somebody_is_looked_for_only_where_somebody_can_hear(how: str, heard: bool) -> None:
    """In a process of its own, as the tests' has all of LangChain."""
    code = f"import os, stages.models.callbacks as callbacks\n{how}\nprint(callbacks.may_be_heard())"
    variables = {name: value for name, value in os.environ.items() if name not in callbacks.TRACING}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=variables)
    assert done.stdout.strip() == str(heard)
