"""Model calls, journalled below the graph.

`journalled(model)` gives any LangChain chat model a class of its own that overrides the one method under every way of
calling it (`invoke`, `ainvoke`, structured output, bound tools, streaming falls back to it): each call is looked up in
the journal first, takes its place in the limiter, is retried when the failure is transient, and its raw response is
saved before anything parses it. Where this differs from LangChain's `cache=` hook: the request is digested here from
what would really be sent, schemas expanded, timeouts and keys left out.
"""

import asyncio
import random
import time
import uuid
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import orjson
from langchain_core.language_models import BaseChatModel
from langchain_core.messages import AIMessage, BaseMessage
from langchain_core.outputs import ChatGeneration, ChatResult
from pydantic import BaseModel, PrivateAttr

from schemas.errors import TandemError, TransientModelError
from stages.failures import classify
from stages.journal import CallRecord, now
from stages.limiter import Limiter
from stages.scope import RowScope, current, request_digest
from stages.transport import wire

MAX_ATTEMPTS = 5
MAX_WAIT_S = 60.0
# What changes how a call is made, not what is answered: left out of the request digest.
_NOT_ASKED = frozenset(("timeout", "request_timeout", "max_retries", "ls_structured_output_format", "run_manager"))


class Waiting(TandemError):
    """The provider asks for, or an outage needs, a longer wait than a worker should hold a slot for."""

    retryable = True

    def __init__(self, message: str, seconds: float) -> None:
        super().__init__(message)
        self.seconds = seconds


@dataclass(frozen=True)
class Backend:
    """What stands behind a model: its name as users write it, the identity that its answers depend on, who bounds it,
    and what a call costs."""

    name: str
    identity: bytes
    setting: str
    limiter: Limiter
    price: Callable[[dict[str, int]], float | None]
    timeout_s: float


class Journalled:
    """Mixed in before a chat model's own class by `journalled`."""

    _tandem: Backend = PrivateAttr()

    async def _agenerate(
        self, messages: list[BaseMessage], stop: Any = None, run_manager: Any = None, **kwargs: Any
    ) -> ChatResult:
        ask = super()._agenerate  # type: ignore[misc]

        async def send() -> ChatResult:
            result: ChatResult = await ask(messages, stop, run_manager, **kwargs)
            return result

        scope = current.get()
        if scope is None:
            return await send()
        try:
            request = _request(self._tandem, messages, stop, kwargs)
            return _as_result(await _answered(scope, self._tandem, request, send))
        except TandemError as exc:
            scope.stop = scope.stop or exc
            raise

    def _generate(
        self, messages: list[BaseMessage], stop: Any = None, run_manager: Any = None, **kwargs: Any
    ) -> ChatResult:
        """A synchronous node runs in a thread of LangGraph's; the call itself stays on the batch's loop."""
        scope = current.get()
        if scope is None:
            result: ChatResult = super()._generate(messages, stop, run_manager, **kwargs)  # type: ignore[misc]
            return result
        try:
            running: asyncio.AbstractEventLoop | None = asyncio.get_running_loop()
        except RuntimeError:
            running = None
        if running is scope.loop:
            raise RuntimeError("model.invoke() inside an async node would block the worker; use: await model.ainvoke()")
        call = self._agenerate(messages, stop, None, **kwargs)
        return asyncio.run_coroutine_threadsafe(call, scope.loop).result()


_classes: dict[type, type] = {}


def journalled(model: BaseChatModel, backend: Backend) -> BaseChatModel:
    """The same model, its calls journalled. `isinstance` and every method of its class stay as they were."""
    cls = type(model)
    if cls not in _classes:
        _classes[cls] = type(f"Journalled{cls.__name__}", (Journalled, cls), {"__module__": cls.__module__})
    copy = model.model_copy(update={"disable_streaming": True})
    copy.__class__ = _classes[cls]
    object.__setattr__(copy, "__pydantic_private__", {**(copy.__pydantic_private__ or {}), "_tandem": backend})
    return copy


async def _answered(scope: RowScope, backend: Backend, request: str, send: Callable[[], Any]) -> CallRecord:
    """The answer from the journal, from an equal call in flight, or from the provider."""
    key = scope.next_key(request)
    known = scope.journal.known.calls.get(key)
    if known is not None:
        scope.tally.calls_reused += 1
        return known
    shared = scope.in_flight.get(key)
    if shared is not None:
        try:
            record = await asyncio.shield(shared)
        except TandemError:
            pass  # the other row's failure is its own; this one asks for itself
        else:
            scope.tally.calls_reused += 1
            scope.journal.known.add(record)
            return record
    future: asyncio.Future[CallRecord] = scope.loop.create_future()
    future.add_done_callback(_retrieved)
    scope.in_flight[key] = future
    try:
        record = await _paid(scope, backend, key, send)
        await scope.journal.append(record)
        future.set_result(record)
        return record
    except BaseException as exc:
        future.set_exception(exc if isinstance(exc, TandemError) else Waiting("interrupted", 0))
        raise
    finally:
        if scope.in_flight.get(key) is future:
            del scope.in_flight[key]


def _retrieved(future: "asyncio.Future[CallRecord]") -> None:
    """Nobody may be waiting for it; its exception counts as seen."""
    if not future.cancelled():
        future.exception()


async def _paid(scope: RowScope, backend: Backend, key: tuple[str, int], send: Callable[[], Any]) -> CallRecord:
    """Ask the provider, waiting out transient failures for a minute. Raises Waiting, RowError, FatalModelError."""
    started = time.monotonic()
    for attempt in range(1, MAX_ATTEMPTS + 1):
        async with backend.limiter.call():
            sent = time.monotonic()
            try:
                async with asyncio.timeout(backend.timeout_s + 1):
                    result: ChatResult = await send()
                return _record(scope, backend, key, result, time.monotonic() - sent)
            except Exception as exc:
                failure = classify(exc, model=backend.name, setting=backend.setting)
                if not isinstance(failure, TransientModelError):
                    if failure is None:
                        raise
                    raise failure from (None if failure is exc else exc)
                if isinstance(exc.__cause__, TimeoutError) or isinstance(exc, TimeoutError):
                    scope.tally.unknown += 1
        wait = max(failure.retry_after or 0.0, min(20.0, 0.5 * 2 ** (attempt - 1)) * random.uniform(0.7, 1.3))
        if failure.retry_after:
            backend.limiter.block(min(failure.retry_after, MAX_WAIT_S))
        if attempt == MAX_ATTEMPTS or time.monotonic() - started + wait > MAX_WAIT_S:
            raise Waiting(failure.message, max(wait, 1.0)) from None
        await asyncio.sleep(wait)
    raise AssertionError("unreachable")


def _record(scope: RowScope, backend: Backend, key: tuple[str, int], result: ChatResult, seconds: float) -> CallRecord:
    message = result.generations[0].message
    assert isinstance(message, AIMessage)
    usage = _usage(message)
    scope.tally.calls += 1
    raw = {
        "content": message.content,
        "additional_kwargs": message.additional_kwargs,
        "response_metadata": message.response_metadata,
        "tool_calls": message.tool_calls,
        "invalid_tool_calls": message.invalid_tool_calls,
        "usage_metadata": message.usage_metadata,
    }
    return CallRecord(
        request=key[0],
        ordinal=key[1],
        id=scope.id,
        model=backend.name,
        raw=orjson.dumps(raw, default=str).decode(),
        error=None,
        usage=usage,
        cost_usd=backend.price(usage),
        request_id=message.response_metadata.get("request_id"),
        latency_ms=round(seconds * 1000),
        run=scope.run,
        batch=scope.batch,
        at=now(),
        nonce=uuid.uuid4().hex,
    )


def _usage(message: AIMessage) -> dict[str, int]:
    """Input, output, cached input and reasoning tokens; estimated at four bytes a token where nothing is said."""
    told = message.usage_metadata
    if told is None:
        return {"input": 0, "output": len(str(message.content).encode()) // 4, "estimated": 1}
    usage = {"input": told["input_tokens"], "output": told["output_tokens"]}
    cached = (told.get("input_token_details") or {}).get("cache_read")
    reasoning = (told.get("output_token_details") or {}).get("reasoning")
    if cached:
        usage["cached_input"] = cached
    if reasoning:
        usage["reasoning"] = reasoning
    return usage


def _as_result(record: CallRecord) -> ChatResult:
    assert record.raw is not None
    return ChatResult(generations=[ChatGeneration(message=AIMessage(**orjson.loads(record.raw)))])


# The canonical request ---------------------------------------------------------------------------------------------


def _request(backend: Backend, messages: list[BaseMessage], stop: Any, kwargs: dict[str, Any]) -> str:
    asked = {name: value for name, value in kwargs.items() if name not in _NOT_ASKED}
    return request_digest(
        backend.identity,
        orjson.dumps([wire(message) for message in messages], default=_canonical, option=orjson.OPT_SORT_KEYS),
        orjson.dumps([stop, asked], default=_canonical, option=orjson.OPT_SORT_KEYS),
    )


def _canonical(value: Any) -> Any:
    """Schemas expanded: a class is what it asks for, not its name."""
    if isinstance(value, type) and issubclass(value, BaseModel):
        return value.model_json_schema()
    if isinstance(value, BaseModel):
        return value.model_dump(mode="json")
    return repr(value)
