"""The session of a process with one server: begun at its first use, begun anew when it broke, closed with the process.

A task of its own holds the connection, whose parts must be closed by the task that opened them; calls come from others.
"""

import asyncio
import re
import time
from collections.abc import Mapping
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qsl, urlsplit

from schemas.errors import FatalModelError, TransientModelError
from schemas.spec.tools import McpServer
from stages.mcp_servers.listing import CallResult, ConnectionLost, ListedTool
from stages.models import credentials
from stages.models.failures.errors import redacted

if TYPE_CHECKING:
    from stages.mcp_servers.client import Connection

_MOST_STARTS = 3  # for one call
_PAUSE_S = 0.5  # before a further start, doubled each time
_LEAST_SECRET = 6  # characters; what is shorter would be masked within words
_FAILED_FOR_S = 5.0  # calls that wait for a server which cannot be started are not made to try again


class ServerSession:
    """`name`: the server's in the spec; `folder`: in which a command is started."""

    def __init__(self, name: str, server: McpServer, folder: Path) -> None:
        self._name = name
        self._server = server
        self._folder = folder
        self._starting = asyncio.Lock()
        self._connection: Connection | None = None
        self._keepers: set[asyncio.Task[None]] = set()  # of connections, those that are being closed too
        self._stop = asyncio.Event()
        self._closed = False
        self._failure: tuple[float, FatalModelError] | None = None

    async def tools(self) -> tuple[ListedTool, ...]:
        """Return the tools that models may call. Raises FatalModelError if the server cannot be started, or lacks one
        that the spec names."""
        listed, allowed = (await self._connected()).tools, self._server.tools
        names = [tool.name for tool in listed]
        if absent := [name for name in allowed if name not in names]:
            raise FatalModelError(
                f"MCP server {self._name!r} has no tool {absent[0]!r}, which mcp.{self._name}.tools names.",
                hint=f"It has: {', '.join(names) or 'none'}.",
            )
        return tuple(tool for tool in listed if not allowed or tool.name in allowed)

    async def call(self, tool: str, arguments: Mapping[str, Any]) -> CallResult:
        """Call a tool; again, if the server ended meanwhile, so that it may have run more than once. Raises
        FatalModelError if the server cannot be started again."""
        for _ in range(_MOST_STARTS):
            connection = await self._connected()
            try:
                return await connection.call(tool, arguments)
            except ConnectionLost:
                await self._drop(connection)
        return CallResult(f"the server ended {_MOST_STARTS} times while it ran", failed=True)

    async def close(self) -> None:
        """Close the connection, also one that is being opened."""
        self._closed = True
        self._connection = None
        await self._end_keepers()

    async def _connected(self) -> "Connection":
        async with self._starting:
            if self._connection is not None:
                return self._connection
            if self._failure is not None and time.monotonic() - self._failure[0] < _FAILED_FOR_S:
                raise self._failure[1]
            try:
                return await self._started()
            except FatalModelError as failure:
                self._failure = time.monotonic(), failure
                raise

    async def _started(self) -> "Connection":
        for number in range(_MOST_STARTS):
            if number:
                await asyncio.sleep(_PAUSE_S * 2 ** (number - 1))
            if self._closed:
                break
            opened: asyncio.Future[Connection] = asyncio.get_running_loop().create_future()
            self._stop = asyncio.Event()
            keeper = asyncio.create_task(self._keep(opened, self._stop))
            self._keepers.add(keeper)
            keeper.add_done_callback(self._keepers.discard)
            try:
                connection = await opened
            except FatalModelError as exc:
                failure = exc
                if isinstance(exc.__cause__, TimeoutError | FileNotFoundError):
                    break  # which it would be again
            except BaseException:  # the row was stopped: nobody else waits for this connection
                await self._end_keepers()
                raise
            else:
                self._connection = connection
                return connection
        if self._closed:
            raise TransientModelError(f"MCP server {self._name!r} is closed, as its process ends")
        raise failure

    async def _drop(self, connection: "Connection") -> None:
        """Close a connection, unless another call has done so."""
        async with self._starting:
            if self._connection is connection:
                self._connection = None
                self._stop.set()
                await self._wait_for_keepers()

    async def _end_keepers(self) -> None:
        """End connections, also those that are being opened."""
        for keeper in self._keepers:
            if not keeper.cancelling():  # a second time, it would not wait for its process to end
                keeper.cancel()
        await self._wait_for_keepers()

    async def _wait_for_keepers(self) -> None:
        if self._keepers:
            await asyncio.wait(self._keepers)  # who waits may be stopped: they still end their processes

    async def _keep(self, opened: "asyncio.Future[Connection]", stop: asyncio.Event) -> None:
        """Hold a connection until `stop`, or until it breaks, which its calls meet."""
        # By a thread: the client's imports take a second, for which no other row must stand still.
        client = await asyncio.to_thread(import_module, "stages.mcp_servers.client")
        stderr = client.Stderr()
        waiting = asyncio.create_task(stop.wait())
        try:
            async with client.connected(self._server, self._folder, stderr) as connection:
                if not opened.done():
                    opened.set_result(connection)
                await asyncio.wait([waiting])
        except BaseException as exc:  # also of its own tasks' scopes
            if not opened.done():
                opened.set_exception(self._unreachable(_first_of(exc), self._masked(stderr.last_line)))
            if isinstance(exc, asyncio.CancelledError | KeyboardInterrupt | SystemExit):
                raise
        finally:
            waiting.cancel()

    def _unreachable(self, exc: BaseException, last_line: str) -> FatalModelError:
        found = self._failure_of(exc, last_line)
        found.__cause__ = exc
        return found

    def _masked(self, text: str) -> str:
        """Return a text without what the server was told as a secret: its output, and errors with its address, may
        hold that."""
        server, address = self._server, urlsplit(self._server.url or "")
        told = [*server.env.values(), *" ".join(server.headers.values()).split(), address.query, address.password or ""]
        told += [value for _, value in parse_qsl(address.query)] + credentials.values_in(server.command)
        for secret in sorted(told, key=len, reverse=True):  # one may hold another
            text = text.replace(secret, "…") if len(secret) >= _LEAST_SECRET else text
        return redacted(re.sub(r"//[^/@\s]*@", "//", text))

    def _failure_of(self, exc: BaseException, last_line: str) -> FatalModelError:
        where, server = f"MCP server {self._name!r}", self._server
        if server.url is not None:
            address = urlsplit(server.url)
            what = f"{where} at {address.scheme}://{address.netloc.rpartition('@')[2]}"
            hint = "Is it up? Check its url and headers."
        else:
            what, hint = where, f"Run its command by hand: mcp.{self._name}.command."
        if isinstance(exc, TimeoutError):
            seconds = f"{server.start_timeout.total_seconds():g} s"
            return FatalModelError(
                f"{what} did not list its tools within {seconds}{': ' + last_line if last_line else ''}.",
                hint=f"Raise mcp.{self._name}.start_timeout, or {hint[0].lower()}{hint[1:]}",
            )
        if isinstance(exc, FileNotFoundError) and server.command:
            return FatalModelError(f"{where}: there is no program {server.command[0]!r}.", hint="Check PATH.")
        why = last_line or self._masked(str(exc)) or type(exc).__name__
        return FatalModelError(f"{what} cannot be {'reached' if server.url else 'started'}: {why[:500]}", hint=hint)


def _first_of(exc: BaseException) -> BaseException:
    """Return the first exception of nested groups."""
    while isinstance(exc, BaseExceptionGroup):
        exc = exc.exceptions[0]
    return exc
