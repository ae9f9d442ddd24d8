"""A server in this process that keeps what is sent, and answers by the harness's protocols, for us and for an SDK."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import orjson
from aiohttp import web
from langchain_core.messages import AIMessage, BaseMessage

from stages.models.wires.clients import client_of
from stages.models.wires.http import close_session
from tests.harness.openai_wire import Asked, reply_to
from tests.harness.protocols import protocol_of
from tests.harness.script import Rule

Headers = dict[str, str]


@dataclass
class Referee:
    """`sent`: path, headers in lower case and body of each request; `next`: answers that are sent as they are (status,
    body, headers), before any other; `make`: makes the answer to any other body."""

    url: str = ""
    sent: list[tuple[str, Headers, Any]] = field(default_factory=list)
    next: list[tuple[int, Any, Mapping[str, str]]] = field(default_factory=list)
    rule: Rule | None = None
    make: Callable[[Any], Any] | None = None
    raw_paths: list[str] = field(default_factory=list)

    @property
    def body(self) -> Any:
        return self.sent[-1][2]

    async def handle(self, request: web.BaseRequest) -> web.Response:
        raw = await request.read()
        self.raw_paths.append(request.raw_path)
        headers = {name.lower(): value for name, value in request.headers.items()}
        self.sent.append((request.path, headers, orjson.loads(raw) if raw else None))
        if self.next:
            status, body, extra = self.next.pop(0)
            data = body if isinstance(body, bytes) else orjson.dumps(body)
            return web.Response(status=status, body=data, headers={"Content-Type": "application/json", **extra})
        if self.make is not None:
            return web.Response(body=orjson.dumps(self.make(self.body)), content_type="application/json")
        protocol = protocol_of(request.path)
        assert protocol is not None, request.path
        try:
            asked = Asked.parse(raw, embedding=False, protocol=protocol, path=request.path)
        except (ValueError, KeyError) as exc:
            return web.json_response(protocol.error(400, str(exc), None), status=400)
        reply = reply_to(asked, self.rule)
        return web.Response(status=reply.status, body=b"".join(reply.pieces), content_type="application/json")


@asynccontextmanager
async def a_referee() -> AsyncIterator[Referee]:
    referee = Referee()
    runner = web.ServerRunner(web.Server(referee.handle))
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    referee.url = f"http://127.0.0.1:{runner.addresses[0][1]}"
    try:
        yield referee
    finally:
        await close_session()
        await runner.cleanup()


async def ask(
    referee: Referee, name: str, messages: list[BaseMessage], params: Mapping[str, Any] | None = None, **kwargs: Any
) -> AIMessage:
    """Ask by our wire. `tools` and `tool_choice` are bound, as graphs bind them."""
    provider, _, model = name.partition(":")
    base_url = f"{referee.url}/v1" if provider == "openai" else referee.url
    client = client_of(provider, model, {"base_url": base_url, "api_key": "sk-test", **(params or {})}, 30)
    stop = kwargs.pop("stop", None)
    if tools := kwargs.pop("tools", None):
        choice = {"tool_choice": kwargs.pop("tool_choice")} if "tool_choice" in kwargs else {}
        kwargs = client.with_tools(tools, **choice, **kwargs)
    result = await client._agenerate(messages, stop, **kwargs)
    message = result.generations[0].message
    assert isinstance(message, AIMessage)
    return message


def declared(schema: Mapping[str, Any], name: str = "answer") -> dict[str, Any]:
    """The argument by which graphs declare an output."""
    return {"response_format": {"type": "json_schema", "json_schema": {"name": name, "schema": schema, "strict": True}}}
