"""An HTTP proxy in a process of its own that breaks, on demand, what passes between a client and a server.

The Host header is passed on as it came, since S3 signatures cover it. Each request has an upstream connection of its
own, so that no fault of one request leaks into the next.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import re
import sys
from collections import Counter
from collections.abc import AsyncIterator, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from aiohttp import web

from tests.harness.http_wire import HEAD_LIMIT, Head, read_head, request_body, response_body
from tests.harness.processes import Child, Control
from tests.harness.script import share


@dataclass(frozen=True, slots=True, kw_only=True)
class Pick:
    """Which requests a fault hits: of those with this method and path, the nth (from 1), the given share, or all.

    Requests are counted from the moment the fault is set, so a seed gives the same faults for the same order.
    """

    method: str | None = None
    path: str | None = None  # regular expression, searched in path and query
    nth: int | tuple[int, ...] | None = None
    rate: float | None = None
    seed: int = 0
    status: int = 503  # of `error` only


@dataclass(frozen=True, slots=True, kw_only=True)
class Faults:
    """All that the proxy can do to the traffic; the default is nothing."""

    refuse: bool = False  # nobody listens, and open connections are closed
    delay_s: float = 0.0  # before each request is passed on
    throttle_bytes_per_s: int | None = None  # of each body, in both directions
    error: Pick | None = None  # answered here, never passed on
    drop_reply: Pick | None = None  # passed on, its reply read whole, then the client's connection is closed
    cut_body: Pick | None = None  # half of the body is passed on, then both connections are closed

    @classmethod
    def parse(cls, data: Mapping[str, Any]) -> Faults:
        picks = {key: Pick(**value) for key, value in data.items() if isinstance(value, dict)}
        return cls(**{**data, **picks})


@dataclass(slots=True)
class ProxyStats:
    """What passed and what was broken since the last `clear`."""

    requests: dict[str, int] = field(default_factory=dict)  # by method, and `LIST` for S3's
    body_bytes: int = 0  # of requests
    errors: int = 0
    dropped: int = 0
    cut: int = 0


class FaultProxy:
    """The tests' side: `with FaultProxy.start(server.port) as proxy:`, then `proxy.set(…)`."""

    def __init__(self, child: Child, port: int, control: int) -> None:
        self.child = child
        self.port = port
        self.url = f"http://127.0.0.1:{port}"
        self._control = Control(f"http://127.0.0.1:{control}")

    @classmethod
    @contextlib.contextmanager
    def start(cls, upstream_port: int) -> Iterator[FaultProxy]:
        child = Child([sys.executable, "-m", "tests.harness.fault_proxy", f"--upstream={upstream_port}"])
        try:
            ready = child.ready_line()
            yield cls(child, ready["port"], ready["control"])
        finally:
            child.stop()

    def set(self, **faults: Any) -> None:
        """Replace all faults by these, named as in `Faults`; a `Pick` is given as a dict of its fields."""
        self._control.post("/set", faults)

    def clear(self) -> None:
        """Pass everything on, and count from zero."""
        self._control.post("/clear", {})

    def stats(self) -> ProxyStats:
        return ProxyStats(**self._control.get("/stats"))


class _Chooser:
    """Counts the requests that a pick looks at, and says which of them it hits."""

    def __init__(self, pick: Pick | None) -> None:
        self.pick = pick
        self._count = 0

    def hits(self, head: Head) -> bool:
        pick = self.pick
        if pick is None or (pick.method and pick.method != head.method):
            return False
        if pick.path and not re.search(pick.path, head.target):
            return False
        self._count += 1
        if pick.nth is not None:
            return self._count == pick.nth if isinstance(pick.nth, int) else self._count in pick.nth
        return pick.rate is None or share(f"{pick.seed}:{self._count}") < pick.rate


class _Proxy:
    def __init__(self, upstream_port: int) -> None:
        self._upstream_port = upstream_port
        self._listener: asyncio.Server | None = None
        self._clients: set[asyncio.StreamWriter] = set()
        self.port = 0
        self.stats = ProxyStats()
        self._methods: Counter[str] = Counter()
        self._use(Faults())

    def _use(self, faults: Faults) -> None:
        self._faults = faults
        self._error, self._drop, self._cut = map(_Chooser, (faults.error, faults.drop_reply, faults.cut_body))

    async def listen(self) -> None:
        self._listener = await asyncio.start_server(self._serve, "127.0.0.1", self.port, limit=HEAD_LIMIT)
        self.port = self._listener.sockets[0].getsockname()[1]

    async def set(self, data: Mapping[str, Any]) -> None:
        self._use(Faults.parse(data))
        if self._faults.refuse and self._listener is not None:
            self._listener.close()
            self._listener = None
            for client in self._clients:
                client.transport.abort()
        if not self._faults.refuse and self._listener is None:
            await self.listen()

    async def control(self, request: web.Request) -> web.Response:
        name = request.match_info["name"]
        try:
            if name in ("set", "clear"):
                await self.set(await request.json())
        except (TypeError, ValueError) as exc:
            return web.json_response({"error": str(exc)}, status=400)
        if name == "clear":
            self.stats = ProxyStats()
            self._methods.clear()
        stats = self.stats
        counts = {
            "errors": stats.errors, "dropped": stats.dropped, "cut": stats.cut, "body_bytes": stats.body_bytes
        }  # fmt: skip
        return web.json_response({"requests": dict(self._methods), **counts})

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._clients.add(writer)
        try:
            while (head := await read_head(reader)) is not None:
                self._methods["LIST" if "list-type=2" in head.target else head.method] += 1
                self.stats.body_bytes += head.length or 0
                if not await self._exchange(head, reader, writer) or head.closes:
                    break
        except (ConnectionError, TimeoutError):
            pass  # one of the two went away: the other is closed below, as a wire would
        finally:
            self._clients.discard(writer)
            await _close(writer)

    async def _exchange(self, head: Head, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        """Carry one request and its reply; False when the client's connection must be closed."""
        fails, drops, cuts = (chooser.hits(head) for chooser in (self._error, self._drop, self._cut))
        await asyncio.sleep(self._faults.delay_s)
        if head.headers.get("expect", "").lower() == "100-continue":
            writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        body = request_body(reader, head, self._piece())
        if fails:
            return await self._fail(head, body, writer)
        upstream_reader, upstream = await asyncio.open_connection("127.0.0.1", self._upstream_port, limit=HEAD_LIMIT)
        try:
            upstream.write(head.without("expect"))
            if not await self._send_body(head, body, upstream, cuts):
                return False
            return await self._reply(head, upstream_reader, writer, drops)
        finally:
            await _close(upstream)

    async def _fail(self, head: Head, body: AsyncIterator[bytes], writer: asyncio.StreamWriter) -> bool:
        async for _ in body:
            pass
        self.stats.errors += 1
        status = self._error.pick.status if self._error.pick else 503
        code = "SlowDown" if status == 503 else "InternalError"
        text = "" if head.method == "HEAD" else f"<Error><Code>{code}</Code><Message>injected</Message></Error>"
        start = f"HTTP/1.1 {status} Injected\r\nContent-Type: application/xml\r\nContent-Length: {len(text)}\r\n\r\n"
        writer.write((start + text).encode())
        await writer.drain()
        return True

    async def _send_body(
        self, head: Head, body: AsyncIterator[bytes], upstream: asyncio.StreamWriter, cuts: bool
    ) -> bool:
        """Pass the body on; False when it was cut. A body of unknown length is cut after its first piece."""
        half = (head.length or 0) // 2
        sent = 0
        async for piece in body:
            if cuts and sent + len(piece) > half:
                self.stats.cut += 1
                upstream.write(piece[: max(0, half - sent)])
                await upstream.drain()
                return False
            upstream.write(piece)
            sent += len(piece)
            await upstream.drain()
            await self._throttle(piece)
        return True

    async def _reply(
        self, asked: Head, upstream: asyncio.StreamReader, writer: asyncio.StreamWriter, drops: bool
    ) -> bool:
        head = await read_head(upstream)
        while head is not None and 100 <= head.status < 200:
            head = await read_head(upstream)
        if head is None:
            return False
        if not drops:
            writer.write(head.raw)
        async for piece in response_body(upstream, head, asked.method, self._piece()):
            if not drops:
                writer.write(piece)
                await writer.drain()
                await self._throttle(piece)
        await writer.drain()
        self.stats.dropped += drops
        endless = head.length is None and not head.chunked and head.status not in (204, 304) and asked.method != "HEAD"
        return not (drops or endless or head.closes)

    def _piece(self) -> int:
        """Bytes read at a time: a tenth of a second's worth when throttled."""
        rate = self._faults.throttle_bytes_per_s
        return 2**16 if rate is None else max(1, rate // 10)

    async def _throttle(self, piece: bytes) -> None:
        if self._faults.throttle_bytes_per_s:
            await asyncio.sleep(len(piece) / self._faults.throttle_bytes_per_s)


async def _close(writer: asyncio.StreamWriter) -> None:
    writer.close()
    with contextlib.suppress(ConnectionError, TimeoutError):
        await writer.wait_closed()


async def _run(upstream_port: int) -> None:
    proxy = _Proxy(upstream_port)
    await proxy.listen()
    app = web.Application()
    app.router.add_route("*", "/{name}", proxy.control)
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    print(json.dumps({"port": proxy.port, "control": runner.addresses[0][1]}), flush=True)
    await asyncio.Event().wait()  # SIGTERM ends the process at once: it has nothing to save


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--upstream", type=int, required=True)
    asyncio.run(_run(parser.parse_args().upstream))


if __name__ == "__main__":
    main()
