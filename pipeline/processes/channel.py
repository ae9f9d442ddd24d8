"""Requests between the supervisor and a child, both ways, over one local socket.

A frame is a JSON head and a body of bytes that is passed on unread, so that the supervisor never unpickles bytes that
user code may have changed.
"""

import asyncio
import itertools
import logging
import socket
import struct
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Self

import orjson

log = logging.getLogger("tandem.processes")
_SIZES = struct.Struct(">II")


class ChannelClosed(Exception):
    """The other process has ended."""


@dataclass(frozen=True)
class Message:
    """A request or an answer: `data` is JSON-like, `body` opaque."""

    data: Any = None
    body: bytes = b""


Handler = Callable[[Message], Awaitable[Message | None]]


@dataclass
class Channel:
    """One end. `serve` reads until the other process has ended; each request is handled in a task of its own."""

    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter
    handlers: Mapping[str, Handler]
    _numbers: "itertools.count[int]" = field(default_factory=itertools.count)
    _pending: dict[int, "asyncio.Future[Message]"] = field(default_factory=dict)
    _tasks: set["asyncio.Task[None]"] = field(default_factory=set)
    closed: bool = False

    @classmethod
    async def over(cls, end: socket.socket, handlers: Mapping[str, Handler]) -> Self:
        reader, writer = await asyncio.open_unix_connection(sock=end)
        return cls(reader, writer, handlers)

    def send(self, name: str, data: Any = None, body: bytes = b"") -> None:
        """Send without waiting for an answer. If the other process has ended, the message is lost."""
        if not self.closed:
            self._write({"name": name, "data": data}, body)

    async def request(self, name: str, data: Any = None, body: bytes = b"") -> Message:
        """Send a request and return its answer. Raises ChannelClosed if the other process ends first."""
        if self.closed:
            raise ChannelClosed
        number = next(self._numbers)
        future: asyncio.Future[Message] = asyncio.get_running_loop().create_future()
        self._pending[number] = future
        self._write({"name": name, "number": number, "data": data}, body)
        try:
            return await future
        finally:
            self._pending.pop(number, None)

    async def serve(self) -> None:
        """Read until the other process has ended."""
        try:
            while True:
                sizes = _SIZES.unpack(await self.reader.readexactly(_SIZES.size))
                head, body = [await self.reader.readexactly(size) for size in sizes]
                self._receive(orjson.loads(head), body)
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            self.close()

    def close(self) -> None:
        self.closed = True
        self.writer.close()
        for future in self._pending.values():
            if not future.done():
                future.set_exception(ChannelClosed())
        for task in tuple(self._tasks):
            task.cancel()

    def _receive(self, head: Mapping[str, Any], body: bytes) -> None:
        message = Message(head.get("data"), body)
        if "answer" in head:
            future = self._pending.get(head["answer"])
            if future is not None and not future.done():
                future.set_result(message)
            return
        task = asyncio.create_task(self._handle(head["name"], head.get("number"), message))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _handle(self, name: str, number: int | None, message: Message) -> None:
        try:
            answer = await self.handlers[name](message) or Message()
        except ChannelClosed:
            return
        except Exception:
            log.exception("the request %r of another process failed", name)
            answer = Message({"failed": name})
        if number is not None and not self.closed:
            self._write({"answer": number, "data": answer.data}, answer.body)

    def _write(self, head: Mapping[str, Any], body: bytes) -> None:
        text = orjson.dumps(head)
        self.writer.write(_SIZES.pack(len(text), len(body)) + text + body)
