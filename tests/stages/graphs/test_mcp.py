"""MCP servers as tools of an agent: real servers, by their standard streams and by HTTP, that die and come back."""

from __future__ import annotations

import asyncio
import os
import socket
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web
from langchain_core.messages import BaseMessage, ToolMessage
from langchain_core.utils.function_calling import convert_to_openai_tool

from schemas.errors import FatalModelError, TransientModelError
from schemas.spec.tools import McpServer
from stages.contract import GraphStage
from stages.graphs.toolkit.toolbox import ServerTool
from stages.journal.records import CallRecord
from stages.mcp_servers.listing import ListedTool
from stages.mcp_servers.session import ServerSession
from stages.mcp_servers.sessions import close_servers
from tests.harness.model_server import ModelServer
from tests.harness.processes import Child
from tests.harness.servers import free_ports
from tests.stages.support import MODEL, Segments, a_context, a_graph_stage, answers, enrich, kinds, until

pytestmark = pytest.mark.slow
ANSWER = {"action": "text", "text": '{"answer": "fine"}'}


@pytest.fixture(autouse=True)
async def _closed() -> AsyncIterator[None]:
    yield
    await close_servers()


@pytest.fixture
def log(tmp_path: Path) -> Path:
    return tmp_path / "log"


def lines(log: Path) -> list[str]:
    """What the server noted, without its process ids."""
    return ["start" if line.startswith("start") else line for line in log.read_text().splitlines()]


def by_stdio(log: Path, **more: Any) -> dict[str, Any]:
    return {"command": [sys.executable, "-m", "tests.harness.mcp_shop", str(log)], **more}


def an_agent(server: dict[str, Any], options: dict[str, Any] | None = None, **changed: Any) -> GraphStage:
    return a_graph_stage(
        {"uses": "agent", "model": MODEL, "prompt": "{{ text }}", "output": {"answer": "str"}, "tools": ["mcp:shop"],
         "with": options or {}, **changed}, mcp={"shop": server},
    )  # fmt: skip


def calling(name: str, arguments: Any, **rule: Any) -> dict[str, Any]:
    return {"action": "tool_calls", "tool_calls": [{"name": name, "arguments": arguments}], **rule}


def tool_results(store: Segments) -> list[str | None]:
    """What tools have answered, by the journal."""
    calls = [record for record in store.records if isinstance(record, CallRecord)]
    return [call.raw for call in calls if call.model.startswith("tool:")]


def listens(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


async def told(stage: GraphStage) -> ToolMessage:
    """The result that the model got."""
    prepared = stage.prepare({"text": "a"})
    assert isinstance(prepared, dict)
    messages: list[BaseMessage] = (await stage.graph.ainvoke(prepared))["messages"]
    assert isinstance(messages[-1], ToolMessage)
    return messages[-1]


async def test_one_server_serves_all_rows_and_what_it_said_is_known_afterwards(server: ModelServer, log: Path) -> None:
    calls = [{"name": "stock", "arguments": {"item": "lamp"}}, {"name": "shop_price", "arguments": {"item": "nothing"}},
             {"name": "secret", "arguments": {}}]  # fmt: skip
    server.script({"rules": [{"action": "tool_calls", "tool_calls": calls, "times": 2}, {"code": "invalid_api_key"}]})
    stage = an_agent(by_stdio(log, env={"SHOP_TOKEN": "t"}))
    store = Segments()
    stopped = await enrich(stage, ["a", "b"], a_context(store))
    assert isinstance(stopped.stopped, FatalModelError)
    server.script({"rules": [ANSWER]})
    outcome = await enrich(stage, ["a", "b"], a_context(store))
    assert answers(outcome) == [{"answer": "fine"}] * 2
    begun = lines(log)
    assert begun.count("start") == 1
    assert begun.count("stock lamp") == 2
    again = await enrich(stage, ["a", "b"], a_context(store, run="run-2"))
    assert answers(again) == answers(outcome)
    assert lines(log) == begun
    results = tool_results(store)
    assert sorted(map(str, results)) == sorted([
        '{"text":"4","failed":false}', '{"text":"shop_price: Error executing tool shop.price","failed":true}',
        f'{{"text":"t None {Path.cwd().name}","failed":false}}',
    ] * 2)  # fmt: skip


async def test_a_server_that_ends_is_started_again_and_asked_again(server: ModelServer, log: Path) -> None:
    server.script({"rules": [calling("crash", {"times": 1}), ANSWER]})
    stage = an_agent(by_stdio(log))
    assert "survived" in str((await told(stage)).content)
    assert lines(log) == ["start", "crash", "start", "crash"]


@pytest.mark.commands
async def test_a_call_that_always_ends_the_server_is_told_to_the_model_and_no_row_stops(
    server: ModelServer, log: Path
) -> None:
    server.script({"rules": [calling("crash", {"times": 99}), ANSWER]})
    stage = an_agent(by_stdio(log))
    message = await told(stage)
    assert message.content == "crash: the server ended 3 times while it ran"
    assert message.status == "error"
    server.script({"rules": [calling("stock", {"item": "lamp"}), ANSWER]})
    assert kinds(await enrich(stage, ["a"])) == ["ok"]
    assert lines(log) == [*["start", "crash"] * 3, "start", "stock lamp"]


async def test_a_result_that_is_not_as_declared_is_told_and_asked_for_once(server: ModelServer, log: Path) -> None:
    server.script({"rules": [calling("untrue", {}), ANSWER]})
    message = await told(an_agent(by_stdio(log)))
    assert message.status == "error"
    assert "Invalid structured content returned by tool untrue: 'b' is a required property" in str(message.content)
    assert lines(log) == ["start", "untrue"]


async def test_a_call_that_takes_too_long_is_left_and_the_session_goes_on(server: ModelServer, log: Path) -> None:
    two = [{"name": "wait", "arguments": {"seconds": 60}}, {"name": "stock", "arguments": {"item": "lamp"}}]
    server.script({"rules": [{"action": "tool_calls", "tool_calls": two, "times": 1}, ANSWER]})
    store = Segments()
    outcome = await enrich(an_agent(by_stdio(log), {"tool_timeout": "500ms"}), ["a"], a_context(store))
    assert kinds(outcome) == ["ok"]
    results = tool_results(store)
    assert sorted(map(str, results)) == [
        '{"text":"4","failed":false}', '{"text":"wait: no result within 0.5 s","failed":true}'
    ]  # fmt: skip
    assert lines(log).count("start") == 1


async def test_a_server_by_http_may_be_gone_for_a_moment(server: ModelServer, log: Path) -> None:
    (port,) = free_ports(1)
    command = [sys.executable, "-m", "tests.harness.mcp_shop", str(log), str(port)]
    server.script({"rules": [calling("stock", {"item": "lamp"}), ANSWER]})
    stage = an_agent({"url": f"http://127.0.0.1:{port}/mcp", "headers": {"X-Shop": "a"}})
    for number in (1, 2):
        shop = Child(command)
        await until(lambda: listens(port))
        try:
            assert kinds(await enrich(stage, [f"row {number}"])) == ["ok"]
        finally:
            shop.kill()
    assert lines(log) == ["start", "stock lamp", "start", "stock lamp"]
    gone = await enrich(stage, ["row 3"])
    assert gone.stopped is not None
    assert gone.stopped.message.startswith(
        f"stage stage0: MCP server 'shop' at http://127.0.0.1:{port} cannot be reached: "
    )


@pytest.mark.commands
async def test_a_model_may_call_the_tools_that_the_spec_names_and_no_other(server: ModelServer, log: Path) -> None:
    server.script({"rules": [calling("shop_price", {"item": "lamp"}), ANSWER]})
    message = await told(an_agent(by_stdio(log, tools=["stock"])))
    assert message.content == "There is no tool 'shop_price'; there are: stock."
    outcome = await enrich(an_agent(by_stdio(log, tools=["steal"])), ["a"])
    assert outcome.stopped is not None
    assert outcome.stopped.message == (
        "stage stage0: MCP server 'shop' has no tool 'steal', which mcp.shop.tools names."
    )
    assert outcome.stopped.hint == "It has: stock, shop.price, wait, crash, secret, odd, bare, untrue."


@pytest.mark.parametrize(
    ("name", "arguments", "result"),
    [
        ("odd", {"config": "a", "run_manager": "b", "callbacks": "c"}, "a b c"),
        ("bare", {}, "none"),
        ("bare", {"config": "a"}, "a"),
    ],
)
async def test_arguments_of_any_name_and_none_reach_the_server(
    server: ModelServer, log: Path, name: str, arguments: dict[str, str], result: str
) -> None:
    server.script({"rules": [calling(name, arguments), ANSWER]})
    message = await told(an_agent(by_stdio(log)))
    assert result in str(message.content)
    assert message.status == "success"


def test_a_tool_that_declares_no_arguments_is_declared_as_providers_need_it(log: Path) -> None:
    session = ServerSession("shop", McpServer.model_validate(by_stdio(log)), log.parent)
    tool = ServerTool.of(session, ListedTool("bare", "", "{}"))
    parameters = convert_to_openai_tool(tool)["function"]["parameters"]
    assert parameters == {"type": "object", "properties": {}}


BROKEN = (
    "import sys; print('warming up', file=sys.stderr); print('no key: set SHOP_TOKEN', file=sys.stderr); sys.exit(2)"
)


@pytest.mark.parametrize(
    ("declared", "sentence"),
    [
        ({"command": [sys.executable, "-c", BROKEN]}, "cannot be started: no key: set SHOP_TOKEN"),
        ({"command": ["no-such-program", "x"]}, ": there is no program 'no-such-program'."),
        ({"command": [sys.executable, "-c", "import time; time.sleep(60)"], "start_timeout": "1s"},
         "did not list its tools within 1 s."),
        ({"url": "http://u:secret@127.0.0.1:9/mcp?key=x"}, "at http://127.0.0.1:9 cannot be reached: "),
    ],
)  # fmt: skip
async def test_a_server_that_cannot_start_stops_the_run_with_a_sentence(
    server: ModelServer, declared: dict[str, Any], sentence: str
) -> None:
    server.reset()
    outcome = await enrich(an_agent(declared), ["a", "b", "c"])
    assert isinstance(outcome.stopped, FatalModelError)
    assert outcome.stopped.message.startswith("stage stage0: MCP server 'shop'")
    assert sentence in outcome.stopped.message
    assert "secret" not in outcome.stopped.message
    assert outcome.stopped.hint
    assert server.stats().requests == 0


TELLS = "import os, sys; print('refused:', os.environ['SHOP_TOKEN'], *sys.argv[1:], file=sys.stderr)"


async def test_what_a_server_says_of_its_secrets_is_told_nowhere(
    server: ModelServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SHOP_KEY", "s3cret-of-a-variable")
    words = ["--key=s3cret-of-a-variable", "postgres://me:pass-word@shop/db"]
    declared = {"command": [sys.executable, "-c", TELLS, *words], "env": {"SHOP_TOKEN": "s3cret-of-env"}}
    outcome = await enrich(an_agent(declared), ["a"])
    assert outcome.stopped is not None
    assert outcome.stopped.message.endswith("cannot be started: refused: … --key=… postgres://shop/db")


async def test_what_a_server_at_an_address_says_of_its_secrets_is_told_nowhere(server: ModelServer) -> None:
    async def refuse(request: web.BaseRequest) -> web.Response:
        return web.Response(status=401)

    runner = web.ServerRunner(web.Server(refuse))
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    url = f"http://127.0.0.1:{runner.addresses[0][1]}/mcp?key=s3cret-of-the-url"
    outcome = await enrich(an_agent({"url": url, "headers": {"Authorization": "Bearer s3cret-of-a-header"}}), ["a"])
    await runner.cleanup()
    assert outcome.stopped is not None
    assert "s3cret" not in str(outcome.stopped)


STUCK = """
import os, signal, sys, time
signal.signal(signal.SIGTERM, signal.SIG_IGN)
with open(sys.argv[1], "a") as log:
    print("start", os.getpid(), file=log)
time.sleep(300)
"""


def read(log: Path) -> str:
    return log.read_text()


def is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


@pytest.mark.parametrize("how", ["the row", "the row, twice", "the process"])
async def test_a_start_that_is_cancelled_leaves_no_process_behind(log: Path, how: str) -> None:
    command = [sys.executable, "-c", STUCK, str(log)]
    session = ServerSession("shop", McpServer.model_validate({"command": command, "start_timeout": "60s"}), log.parent)
    starting = asyncio.create_task(session.tools())
    await until(lambda: log.exists() and lines(log) == ["start"])
    pid = int(read(log).split()[1])
    async with asyncio.timeout(30) as limit:
        if how == "the process":
            await session.close()
            with pytest.raises(TransientModelError, match="is closed"):
                await starting
        else:
            starting.cancel()
            if how == "the row, twice":
                await asyncio.sleep(0.1)
                starting.cancel()
            with pytest.raises(asyncio.CancelledError):
                await starting
            assert not limit.expired()
            await session.close()
    assert not is_alive(pid)
    assert lines(log) == ["start"]


def test_which_server_it_is_belongs_to_the_fingerprint_and_its_secrets_do_not(log: Path) -> None:
    plain = an_agent(by_stdio(log)).fingerprint
    assert an_agent(by_stdio(log, env={"SHOP_TOKEN": "t"})).fingerprint == plain
    assert an_agent(by_stdio(log, tools=["stock"])).fingerprint != plain
    assert an_agent(by_stdio(log.with_name("other"))).fingerprint != plain
