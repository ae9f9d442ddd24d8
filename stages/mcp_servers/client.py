"""One connection with a server, by the official client. Imported where a server is used: that takes a second."""

import asyncio
import contextlib
import json
import logging
import os
from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import anyio
from mcp.client.client import Client
from mcp.client.stdio import StdioServerParameters, stdio_client
from mcp.client.streamable_http import streamable_http_client
from mcp.shared._httpx_utils import create_mcp_http_client
from mcp.shared.exceptions import MCPError
from mcp_types import CONNECTION_CLOSED, CallToolResult
from pydantic import ValidationError

from schemas.spec.tools import McpServer
from stages.mcp_servers.listing import CallResult, ConnectionLost, ListedTool

logging.getLogger("mcp").setLevel(logging.CRITICAL)  # tracebacks of what a server wrote; we say it in a sentence
_PAGES = 100  # of a listing
_TAIL = 4_096  # bytes of what a server has written to its standard error
_DRAIN_S = 1.0


@dataclass(frozen=True)
class Connection:
    """An open connection and the tools that the server lists."""

    client: Client
    tools: tuple[ListedTool, ...]

    async def call(self, tool: str, arguments: Mapping[str, Any]) -> CallResult:
        """Call a tool. Raises ConnectionLost if there may be no answer any more."""
        try:
            return _result(await self.client.call_tool(tool, dict(arguments)))
        except MCPError as exc:
            if exc.code == CONNECTION_CLOSED:
                raise ConnectionLost(str(exc.message)) from exc
            return CallResult(exc.message, failed=True)
        except ValidationError:
            return CallResult("the server's answer is no result of a tool", failed=True)
        except RuntimeError as exc:
            if self._is_open():  # the result is not as its tool declares
                return CallResult(str(exc).partition("\n")[0], failed=True)
            raise ConnectionLost(type(exc).__name__) from exc
        except (anyio.ClosedResourceError, anyio.BrokenResourceError, anyio.EndOfStream, OSError) as exc:
            raise ConnectionLost(type(exc).__name__) from exc

    def _is_open(self) -> bool:
        """True unless the connection was closed, where the client has no session."""
        try:
            return self.client.session is not None
        except RuntimeError:
            return False


class Stderr:
    """The end of what a server writes to its standard error."""

    def __init__(self) -> None:
        self._tail = b""
        self._ended = asyncio.Event()

    @property
    def last_line(self) -> str:
        lines = self._tail.decode("utf-8", "replace").split("\n")
        return next((line.strip() for line in reversed(lines) if line.strip()), "")

    @asynccontextmanager
    async def pipe(self) -> AsyncIterator[Any]:
        """Yield the file for a process to write to, which is closed here behind the block."""
        read, write = os.pipe()
        reader, writer = os.fdopen(read, "rb"), os.fdopen(write, "w")
        try:
            transport, _ = await asyncio.get_running_loop().connect_read_pipe(lambda: _Reader(self), reader)
        except BaseException:
            reader.close()
            writer.close()
            raise
        try:
            yield writer
        except BaseException:
            writer.close()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(_DRAIN_S):
                    await self._ended.wait()
            raise
        finally:
            writer.close()
            transport.close()

    def take(self, data: bytes) -> None:
        self._tail = (self._tail + data)[-_TAIL:]

    def end(self) -> None:
        self._ended.set()


class _Reader(asyncio.Protocol):
    def __init__(self, stderr: Stderr) -> None:
        self._stderr = stderr

    def data_received(self, data: bytes) -> None:
        self._stderr.take(data)

    def connection_lost(self, exc: Exception | None) -> None:
        self._stderr.end()


@asynccontextmanager
async def connected(server: McpServer, folder: Path, stderr: Stderr) -> AsyncIterator[Connection]:
    """Connect with a server and list its tools. Raises what the client raises, in groups; TimeoutError."""
    async with AsyncExitStack() as stack:
        async with asyncio.timeout(server.start_timeout.total_seconds()):
            if server.url is None:
                writer = await stack.enter_async_context(stderr.pipe())
                transport: Any = stdio_client(_parameters(server, folder), errlog=writer)
            else:
                http = await stack.enter_async_context(create_mcp_http_client(headers=dict(server.headers)))
                transport = streamable_http_client(server.url, http_client=http)
            client = await stack.enter_async_context(Client(transport))
            tools = await _listed(client)
        yield Connection(client, tools)


def _parameters(server: McpServer, folder: Path) -> StdioServerParameters:
    command, *args = server.command
    return StdioServerParameters(
        command=command, args=args, env=dict(server.env), cwd=folder if folder.is_dir() else None
    )


async def _listed(client: Client) -> tuple[ListedTool, ...]:
    tools: list[ListedTool] = []
    cursor: str | None = None
    for _ in range(_PAGES):
        page = await client.list_tools(cursor=cursor)
        tools += [ListedTool(tool.name, tool.description or "", json.dumps(tool.input_schema, sort_keys=True))
                  for tool in page.tools]  # fmt: skip
        cursor = page.next_cursor
        if cursor is None:
            break
    return tuple(tools)


def _result(result: CallToolResult) -> CallResult:
    """Return the text of a result: of other content what it is."""
    texts = [_text(block) for block in result.content]
    if not texts and result.structured_content is not None:
        texts = [json.dumps(result.structured_content, ensure_ascii=False)]
    return CallResult("\n".join(texts), failed=result.is_error)


def _text(block: Any) -> str:
    match block.type:
        case "text":
            return str(block.text)
        case "resource":
            return str(getattr(block.resource, "text", None) or f"[{block.resource.uri}]")
        case "resource_link":
            return f"[{block.name}: {block.uri}]"
    return f"[{block.type}, {getattr(block, 'mime_type', 'unknown')}]"
