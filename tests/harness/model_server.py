"""A scriptable, OpenAI-compatible model server in a process of its own, and its client for tests.

`with ModelServer.start(latency_ms=200) as server:` starts it, `server.script({"rules": [{"match": "poison", "action":
"error", "status": 400}]})` breaks it, and `server.stats().max_ok_per_content == 1` says that nothing was paid twice.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import os
import random
import signal
import socket
import struct
import sys
import time
from collections.abc import Iterator, Mapping
from typing import Any

import orjson
import psutil
from aiohttp import web

from tests.harness.jobs import PROVIDERS, Jobs
from tests.harness.jobs.server import Refused
from tests.harness.ledger import Call, Ledger, Stats
from tests.harness.openai_wire import Asked, Reply, error_reply, reply_to
from tests.harness.processes import Child, Control
from tests.harness.prompt_cache import PromptCache
from tests.harness.protocols import Protocol, protocol_of
from tests.harness.script import Gate, Rule, Rules, Script, share

_BODY_LIMIT = 300 * 2**20


class ModelServer:
    """The tests' side: synchronous calls to the server's control endpoints."""

    def __init__(self, child: Child, port: int) -> None:
        self.child = child
        self.port = port
        self.base_url = f"http://127.0.0.1:{port}/v1"
        self._control = Control(f"http://127.0.0.1:{port}/_control")

    @classmethod
    @contextlib.contextmanager
    def start(cls, *, latency_ms: float = 0, port: int = 0) -> Iterator[ModelServer]:
        command = [sys.executable, "-m", "tests.harness.model_server", f"--port={port}", f"--latency-ms={latency_ms}"]
        child = Child(command)
        try:
            yield cls(child, child.ready_line()["port"])
        finally:
            child.stop()

    def env(self) -> dict[str, str]:
        return {"OPENAI_BASE_URL": self.base_url, "OPENAI_API_KEY": "sk-test-harness"}

    def other_providers(self) -> dict[str, str]:
        """Return the environment in which this server is the address of further providers."""
        root = self.base_url.removesuffix("/v1")
        return {
            "ANTHROPIC_BASE_URL": root, "ANTHROPIC_API_KEY": "sk-ant-test",
            "GOOGLE_GEMINI_BASE_URL": root, "GOOGLE_API_KEY": "AIza-test",
            "GOOGLE_VERTEX_BASE_URL": root,  # in express mode, by the same key
            "AWS_ENDPOINT_URL_BEDROCK_RUNTIME": root, "AWS_REGION": "us-east-1",
            "AWS_ACCESS_KEY_ID": "AKIDTEST", "AWS_SECRET_ACCESS_KEY": "secret",
        }  # fmt: skip

    def cpu_s(self) -> float:
        """Return the CPU time of the server's process so far."""
        times = psutil.Process(self.child.process.pid).cpu_times()
        return times.user + times.system

    def script(self, script: Mapping[str, Any]) -> None:
        """Replace the script from now on; the counters of rules and limits begin anew. See `script.Script`."""
        self._control.post("/script", script)

    def reset(self) -> None:
        """Forget all records and go back to the latency of the start, with neither rules nor limits."""
        self._control.post("/reset", {})

    def stats(self) -> Stats:
        data = self._control.get("/stats")
        by_status = {int(status): count for status, count in data["by_status"].items()}
        return Stats(**{**data, "by_status": by_status})

    def use_s3(self, endpoint: str, bucket: str, env: Mapping[str, str]) -> None:
        """Have files of Bedrock's jobs in a bucket of this S3 server, with the credentials of `env`; an empty address
        is none."""
        self._control.post("/s3", {"endpoint": endpoint, "bucket": bucket, "env": dict(env)})

    def jobs(self) -> dict[str, Any]:
        """Return the batch jobs (id, state, requests, metadata), and how often custom ids were submitted: `submitted`,
        `custom_ids`, `most_submitted`."""
        found: dict[str, Any] = self._control.get("/jobs")
        return found

    def calls(self) -> list[Call]:
        return [Call(**record) for record in self._control.get("/calls")]


class _Server:
    def __init__(self, latency_ms: float) -> None:
        self._default = Script(latency_ms=latency_ms)
        self._ledger = Ledger()
        self._s3 = "", ""
        self._jobs = Jobs()
        self._use(self._default)

    def _use(self, script: Script) -> None:
        self._script = script
        self._rules = Rules(script.rules)
        self._gate = Gate(script.limits, time.monotonic())
        self._jobs.script, self._jobs.rules, self._jobs.ledger = script.jobs, self._rules, self._ledger
        self._jobs.cut = 0
        self._cache = PromptCache() if script.caches else None
        self._slots = contextlib.nullcontext() if script.slots is None else asyncio.Semaphore(script.slots)

    async def handle(self, request: web.BaseRequest) -> web.StreamResponse:
        if (protocol := protocol_of(request.path)) is not None:
            return await self._call(request, protocol)
        if not request.path.startswith("/_control/") and (answer := await self._job(request)) is not None:
            return answer
        match request.path:
            case "/v1/models":
                return _json({"object": "list", "data": [{"id": "test-model", "object": "model"}]})
            case path if path.startswith("/_control/"):
                return self._controlled(path.removeprefix("/_control/"), await request.read())
        return _json({"error": {"message": f"no such path: {request.path}"}}, 404)

    async def _job(self, request: web.BaseRequest) -> web.StreamResponse | None:
        """The answer to a request about batch jobs; None if it is about something else."""
        self._jobs.base_url = f"http://{request.host}"
        for provider in PROVIDERS:
            try:
                self._jobs.check_key(request)
                answer = await provider(self._jobs).answer(request)
            except Refused as exc:
                return _json(provider.error(exc), exc.status)
            except ConnectionResetError:
                _reset(request)
                raise
            if answer is not None:
                return answer
        return None

    def _controlled(self, name: str, body: bytes) -> web.Response:
        try:
            match name:
                case "script":
                    self._use(Script.parse(orjson.loads(body)))
                case "reset":
                    self._ledger = Ledger()
                    self._jobs = Jobs(s3=self._s3[0], bucket=self._s3[1])
                    self._use(self._default)
                case "s3":
                    self._use_s3(orjson.loads(body))
                case "stats":
                    return _json(self._ledger.stats())
                case "jobs":
                    return _json(self._jobs.stats())
                case "calls":
                    return _json(self._ledger.calls)
        except (TypeError, ValueError) as exc:
            return _json({"error": str(exc)}, 400)
        return _json({})

    def _use_s3(self, about: dict[str, Any]) -> None:
        os.environ.update(about["env"])
        self._s3 = self._jobs.s3, self._jobs.bucket = about["endpoint"], about["bucket"]

    async def _call(self, request: web.BaseRequest, protocol: Protocol) -> web.StreamResponse:
        body, embedding = await request.read(), request.path.endswith("/embeddings")
        try:
            asked = Asked.parse(body, embedding=embedding, protocol=protocol, path=request.path)
        except (ValueError, KeyError, TypeError, AttributeError, IndexError) as exc:
            why = str(exc) if type(exc) is ValueError else f"not a request: {exc!r}"
            return _json(protocol.error(400, why, None), 400)
        ledger = self._ledger  # a reset while this call is in flight must not receive its end
        call, repetition = ledger.open(asked.digest, asked.model, asked.message)
        call.cap = asked.data.get("max_completion_tokens", asked.data.get("max_tokens"))
        cache = self._cache
        if cache is not None:
            prefix, size, known = cache.lookup(body)
            size = min(size, asked.prompt_tokens)
            asked.cached, asked.cache_written = (size, 0) if known else (0, size)
        try:
            response = await self._answer(request, asked, call, repetition)
            if cache is not None and response.status == 200:
                cache.write(prefix)
            return response
        except (asyncio.CancelledError, ConnectionError):
            call.disconnected = call.fault != "reset"
            raise
        finally:
            ledger.close(call)

    async def _answer(self, request: web.BaseRequest, asked: Asked, call: Call, repetition: int) -> web.StreamResponse:
        gate = self._gate
        seconds = gate.refuse(call.in_flight, asked.prompt_tokens, time.monotonic())
        if seconds is not None:
            limited = error_reply(429, "rate_limit_exceeded", {"Retry-After": str(seconds)}, protocol=asked.protocol)
            return await self._send(request, call, limited)
        rule = self._rules.choose(
            asked.message, asked.digest, repetition, asked.ends_with_user, asked.turns, asked.data.keys()
        )
        latency_s = self._latency_s(rule, asked.digest)
        if latency_s > 0:
            async with self._slots:
                await asyncio.sleep(latency_s * self._slowdown())
        if rule is not None and rule.action in ("hang", "reset"):
            call.fault = rule.action
            if rule.action == "reset":
                _reset(request)
            await asyncio.Event().wait()  # until the connection is lost
        reply = reply_to(asked, rule)
        gate.spend(reply.completion_tokens)
        return await self._send(request, call, reply)

    def _latency_s(self, rule: Rule | None, digest: str) -> float:
        script = self._script
        ms = script.latency_ms if rule is None or rule.latency_ms is None else rule.latency_ms
        if script.spread:
            ms *= random.Random(digest).lognormvariate(-(script.spread**2) / 2, script.spread)
        return (ms + (script.jitter_ms * share(f"jitter:{digest}") if script.jitter_ms else 0)) / 1000

    def _slowdown(self) -> float:
        crowd = self._script.crowd
        return 2.0 if crowd is not None and self._ledger.stats().in_flight > crowd else 1.0

    async def _send(self, request: web.BaseRequest, call: Call, reply: Reply) -> web.StreamResponse:
        call.status, call.fault = reply.status, reply.fault
        call.usage = {"prompt_tokens": reply.prompt_tokens, "completion_tokens": reply.completion_tokens}
        headers = {"x-request-id": f"req-{call.n}-{call.digest[:12]}", **reply.headers}
        headers["Content-Type"] = reply.content_type
        if len(reply.pieces) == 1:
            response: web.StreamResponse = web.Response(body=reply.pieces[0], status=reply.status, headers=headers)
            await response.prepare(request)
        else:
            response = web.StreamResponse(status=reply.status, headers=headers)
            if reply.content_type == "application/json":
                response.content_length = sum(map(len, reply.pieces))
            await response.prepare(request)
            for piece in reply.pieces:
                await response.write(piece)
        await response.write_eof()
        call.answered = True
        return response


def _json(data: object, status: int = 200) -> web.Response:
    body = orjson.dumps(data, option=orjson.OPT_NON_STR_KEYS)
    return web.Response(body=body, status=status, content_type="application/json")


def _reset(request: web.BaseRequest) -> None:
    """Close with a TCP RST: a linger of zero seconds."""
    transport = request.transport
    if transport is not None:
        transport.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        transport.abort()


async def _serve(port: int, latency_ms: float) -> None:
    loop = asyncio.get_running_loop()
    ended = asyncio.Event()
    loop.add_signal_handler(signal.SIGTERM, ended.set)

    def make(message: Any, payload: Any, protocol: Any, writer: Any, task: Any) -> web.BaseRequest:
        return web.BaseRequest(message, payload, protocol, writer, task, loop, client_max_size=_BODY_LIMIT)

    server = web.Server(_Server(latency_ms).handle, request_factory=make, handler_cancellation=True, access_log=None)
    runner = web.ServerRunner(server, shutdown_timeout=0.1)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", port, backlog=1024).start()
    print(json.dumps({"port": runner.addresses[0][1]}), flush=True)
    await ended.wait()
    await runner.cleanup()


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--port", type=int, default=0)
    parser.add_argument("--latency-ms", type=float, default=0)
    options = parser.parse_args()
    asyncio.run(_serve(options.port, options.latency_ms))


if __name__ == "__main__":
    main()
