"""Model calls, journalled below the graph.

`journalled(model)` gives a chat model, ours or LangChain's, a class of its own that overrides the one method under
every way of calling it (`invoke`, `ainvoke`, structured output, bound tools, streaming falls back to it): each call is
looked up in the journal first, waits for the limiter, is retried if the failure is transient, and its raw response is
saved before anything parses it. Where this differs from LangChain's `cache=` hook: here the digest is of the request as
it would be sent, with schemas expanded, and without timeouts and keys.
"""

import asyncio
import random
import threading
import time
import uuid
from collections.abc import Awaitable, Callable, Coroutine
from concurrent.futures import Future
from contextlib import nullcontext
from dataclasses import replace
from functools import cache, partial
from typing import Any

import orjson
from langchain_core.messages import AIMessage, BaseMessage
from langchain_core.outputs import ChatGeneration, ChatResult

from schemas.errors import (
    BudgetReached,
    CallNeeded,
    FatalModelError,
    NoAnswer,
    RowError,
    TandemError,
    TransientModelError,
)
from stages.journal.records import CallKey, CallRecord, now
from stages.limits.budget import UNLIMITED_BUDGET, Amount, Reservation
from stages.limits.limiter import Blocked
from stages.limits.prices import saved_by_cache, tier_price
from stages.limits.rate_headers import allowed_by
from stages.models import heard
from stages.models.answers.answerer import answerer_of
from stages.models.answers.usage import usage_of
from stages.models.asked import Settings, TakesSettings, settings_of
from stages.models.backend import Backend, Send
from stages.models.chat_model import AnyChatModel, ChatModel
from stages.models.failures.errors import Waiting, classify, may_be_billed
from stages.models.failures.no_answers import MAX_ATTEMPTS, check_answered
from stages.models.finish import CUT_OFF, finish_of
from stages.models.known_calls import append, find_answer
from stages.models.parked_calls import known_or_parked
from stages.models.request import ModelRequest, canonical_request
from stages.models.row.parking import thread_of_call
from stages.models.row.scope import RowScope, RowStopped, current
from stages.text.plain_json import to_json

# Answered, and so billed, but the answer cannot be stored.
_BILLED = frozenset(("oversized_answer",))
MAX_WAIT_S = 60.0
BACKOFF_S = 0.5  # doubled with each attempt, to 40 times that


class Journalled(TakesSettings):
    """Mixed in before a chat model's own class by `journalled`."""

    _tandem: Backend  # in the instance's own dictionary: pydantic knows nothing of it

    async def _agenerate(
        self,
        messages: list[BaseMessage],
        stop: Any = None,
        run_manager: Any = None,
        settings: Settings | None = None,
        **kwargs: Any,
    ) -> ChatResult:
        """`settings`: of these arguments, where the caller has them already."""
        scope, backend = current.get(), self._tandem
        send = partial(self.send, messages, stop, run_manager, kwargs)
        if scope is None:
            return await send(None)
        if asyncio.get_running_loop() is not scope.loop:  # asyncio.run() inside a synchronous node
            call = self._agenerate(messages, stop, None, settings, **kwargs)
            return await asyncio.wrap_future(on_loop_of(scope, call))
        try:
            request = canonical_request(
                backend, messages, settings or settings_of(stop, kwargs, None, backend.provider)
            )
            key = scope.next_key(request.digest)
            if scope.parking is not None and backend.pool:
                body = partial(self.body_of_job, messages, stop, kwargs)
                await known_or_parked(scope, backend, request, key, body)
            return as_result(await look_up_or_call(scope, backend, request, key, send))
        except TandemError as exc:
            scope.record_failure(exc)
            raise

    async def send(
        self, messages: list[BaseMessage], stop: Any, run_manager: Any, kwargs: dict[str, Any], cap: int | None
    ) -> ChatResult:
        """Send a request, its answer capped unless `cap` is None."""
        ask = super()._agenerate if cap is None or self._tandem.capped is None else self._tandem.capped(cap)._agenerate  # type: ignore[misc]
        flex = self._tandem.flex
        if flex is None or not flex.may_have_room():
            return check_answered(await ask(messages, stop, run_manager, **kwargs), kwargs)
        scope = current.get()
        with scope.clock.waiting() if scope is not None else nullcontext():
            try:
                result = await ask(messages, stop, run_manager, **{**kwargs, "service_tier": "flex"})
            except TransientModelError as exc:
                if exc.no_room:
                    flex.record_full()
                raise
        flex.record_answer()
        return check_answered(result, kwargs)

    def body_of_job(
        self, messages: list[BaseMessage], stop: Any, kwargs: dict[str, Any], cap: int | None
    ) -> dict[str, Any]:
        """Return the request in the provider's own form, its answer capped unless `cap` is None."""
        capped = None if cap is None else self._tandem.capped
        model: Any = self if capped is None or cap is None else capped(cap)
        body: dict[str, Any] = model.body_of(messages, stop, **kwargs)
        return body

    def _generate(
        self, messages: list[BaseMessage], stop: Any = None, run_manager: Any = None, **kwargs: Any
    ) -> ChatResult:
        """Run the call of a synchronous node, which has a thread of LangGraph's, on the batch's loop."""
        scope = current.get()
        if scope is None:
            result: ChatResult = super()._generate(messages, stop, run_manager, **kwargs)  # type: ignore[misc]
            return result
        return in_loop_of(scope, self._agenerate(messages, stop, None, **kwargs))


def in_loop_of(scope: RowScope, call: Coroutine[Any, Any, ChatResult]) -> ChatResult:
    """Wait for a call of a synchronous node. Raises RuntimeError within the batch's loop, which would be blocked."""
    try:
        running: asyncio.AbstractEventLoop | None = asyncio.get_running_loop()
    except RuntimeError:
        running = None
    if running is scope.loop:
        call.close()
        raise RuntimeError("model.invoke() inside an async node would block the worker; use: await model.ainvoke()")
    return on_loop_of(scope, call).result()


def on_loop_of(scope: RowScope, call: Coroutine[Any, Any, ChatResult]) -> "Future[ChatResult]":
    """Run a call from another thread on the batch's loop; it ends with the row at the latest."""
    token = thread_of_call.set(threading.get_ident())
    try:
        future = asyncio.run_coroutine_threadsafe(call, scope.loop)
    finally:
        thread_of_call.reset(token)
    scope.from_threads.add(future)
    future.add_done_callback(scope.from_threads.discard)
    return future


@cache
def _journalled_class(cls: type) -> type:
    return type(f"Journalled{cls.__name__}", (Journalled, cls), {"__module__": cls.__module__})


def journalled(model: AnyChatModel, backend: Backend) -> AnyChatModel:
    """Return the same model, its calls journalled. `isinstance` and every method of its class stay as they were."""
    # Not twice: `stages.models.langchain.own_models` journals what goes through LangChain's cache.
    settings = {} if isinstance(model, ChatModel) else {"disable_streaming": True, "cache": False}
    copy = model.model_copy(update=settings)
    copy.__class__ = _journalled_class(type(model))
    object.__setattr__(copy, "_tandem", backend)
    object.__setattr__(copy, "spec_name", backend.name)
    return copy


async def look_up_or_call(
    scope: RowScope,
    backend: Backend,
    request: ModelRequest,
    key: CallKey,
    send: Send,
    *,
    capped: CallKey | None = None,
    patience_s: float = MAX_WAIT_S,
) -> CallRecord:
    """Return the answer from the journal, from an equal call in flight, or from the provider. `key`: of this call;
    `capped`: by which equal calls in flight are found, by default the request's own. After `patience_s` without an
    answer, raises Waiting."""
    if scope.closed:
        raise RowStopped("the row of this call is over")
    if scope.parking is None:
        return await _look_up_or_call(scope, backend, request, key, send, capped, patience_s)
    with scope.parking.working():
        return await _look_up_or_call(scope, backend, request, key, send, capped, patience_s)


async def _look_up_or_call(
    scope: RowScope,
    backend: Backend,
    request: ModelRequest,
    key: CallKey,
    send: Send,
    capped: CallKey | None,
    patience_s: float,
) -> CallRecord:
    capped = capped or (scope.own_digest(request.capped or request.digest), key[1])
    while True:
        known = await find_answer(scope, backend, request, key)
        if known is not None:
            scope.use(key, known.key)
            scope.count_reuse(known)
            return known
        if backend.no_calls:
            raise CallNeeded(f"{backend.name}: an answer is not in the journal, and --no-calls makes no call.")
        shared = scope.in_flight.get(capped)
        if shared is None:
            record = await _call_as_leader(scope, backend, capped, key, request, send, patience_s)
            scope.use(key, record.key)
            return record
        try:
            with scope.clock.waiting():
                record = await asyncio.shield(shared)
        except RowStopped:
            continue  # the call that we waited for was cancelled
        if record.key not in scope.journal.known.calls:  # it is in another journal, on which ours must not depend
            await append(scope, record, request.text)
        scope.use(key, record.key)
        scope.count_reuse(record)
        return record


async def _call_as_leader(
    scope: RowScope,
    backend: Backend,
    shared: CallKey,
    key: CallKey,
    request: ModelRequest,
    send: Send,
    patience_s: float,
) -> CallRecord:
    """Call the provider while requests that are equal, the cap too (`shared`), wait for the result. Its failures are
    theirs too."""
    future: asyncio.Future[CallRecord] = scope.loop.create_future()
    future.add_done_callback(_mark_retrieved)
    scope.in_flight[shared] = future
    try:
        record = await _call_with_retries(scope, backend, key, request, send, patience_s)
        own = scope.own_digest(request.capped or request.digest)
        if own != key[0] and _was_cut_off(record):
            record = replace(record, request=own)
        await append(scope, record, request.text)
        future.set_result(record)
        return record
    except BaseException as exc:
        future.set_exception(exc if isinstance(exc, TandemError) else RowStopped("the call was interrupted"))
        raise
    finally:
        del scope.in_flight[shared]


def _was_cut_off(record: CallRecord) -> bool:
    return finish_of(message_of(as_result(record))) in CUT_OFF


def _mark_retrieved(future: "asyncio.Future[CallRecord]") -> None:
    """Mark its exception as retrieved: nothing may be waiting for it."""
    if not future.cancelled():
        future.exception()


async def _call_with_retries(
    scope: RowScope, backend: Backend, key: CallKey, request: ModelRequest, send: Send, patience_s: float
) -> CallRecord:
    """Call the provider, retrying transient failures for so long. Raises Waiting, RowError, FatalModelError.

    A rate limit does not count as an attempt: the limiter holds all calls until the time, and this call waits its turn.
    """
    first: float | None = None
    attempt = 0
    while True:
        async with backend.first_calls.turn(request.prefix, scope.clock.waiting) if request.prefix else nullcontext():
            result, sent = await _attempt(scope, backend, key, request, send, patience_s)
        if isinstance(result, CallRecord):
            return result
        first = first or sent
        if isinstance(result, NoAnswer) and (why := _never_answered(backend, request, result)) is not None:
            raise why
        limited = result.congestion == "rate"
        attempt += not limited
        wait = 0.0 if limited else min(40 * BACKOFF_S, BACKOFF_S * 2 ** (attempt - 1)) * random.uniform(0.7, 1.3)
        pause = max(wait, result.retry_after or 0.0)
        if attempt == MAX_ATTEMPTS or time.monotonic() - first + pause > patience_s:
            raise Waiting(result.message, max(pause, 1.0))
        await asyncio.sleep(wait)


def _kind_of(failure: TransientModelError) -> str:
    """Return the class of a failed call, for people."""
    if isinstance(failure, NoAnswer):
        return failure.kind
    return {"rate": "rate_limited", "overload": "overloaded"}.get(failure.congestion, "unreachable")


async def _attempt(
    scope: RowScope, backend: Backend, key: CallKey, request: ModelRequest, send: Send, patience_s: float
) -> tuple[CallRecord | TransientModelError, float]:
    """Send a request when it is its turn. Returns the answer, or a failure that may pass, and when it was sent. Raises
    Waiting, RowError, FatalModelError."""
    if (why := scope.halted()) is not None:
        raise why
    with scope.clock.waiting():
        reservation, cap = await _reserve(scope, backend, request)
    try:
        async with backend.limiter.call(request.size, patience_s=patience_s, waiting=scope.clock.waiting) as turn:
            sent = time.monotonic()
            call = unknown_call(scope, backend, key)
            result = await _send_once(scope, backend, call, partial(send, cap), reservation)
            if not isinstance(result, ChatResult):
                turn.record_failure(result.message, result.congestion, result.retry_after or 0.0)
                scope.tally.failed_calls[_kind_of(result)] += 1
                return result, sent
            longest = request.cap or backend.cap or cap
            record = call_answered(scope, backend, call, request, result, time.monotonic() - sent, longest)
            turn.record_answer(record.usage["input"], record.usage["output"], allowed_by(result))
            reservation.settle(record.cost_usd, record.usage["input"] + record.usage["output"])
            if request.prefix:
                backend.first_calls.answered(request.prefix)
            if cap is not None and cap < backend.default_cap and finish_of(message_of(result)) in CUT_OFF:
                _note_unknown(scope, call, "cut off by what was left of the budget")
                raise BudgetReached("an answer did not fit", needed=_upper_bound(backend, request, backend.default_cap))
            heard.call_answered(scope, record, request.text)
            return record, sent
    except Blocked as blocked:
        raise Waiting(f"{backend.name}: {blocked.why}", blocked.seconds) from None
    finally:
        reservation.close()


def _never_answered(backend: Backend, request: ModelRequest, failure: NoAnswer) -> RowError | None:
    others = backend.seen.answers > 0
    return backend.no_answers.rejects(failure, request.digest, others=others, outage=backend.limiter.out)


async def _reserve(scope: RowScope, backend: Backend, request: ModelRequest) -> tuple[Reservation, int | None]:
    """Reserve the most that the call may cost, and return the cap to send along. Raises BudgetReached, and
    FatalModelError if the cost has no bound."""
    budget, cap_set = scope.budget, request.cap or backend.cap
    if budget is None or not budget.limited:
        return UNLIMITED_BUDGET, None
    if cap_set is not None:
        return await budget.reserve(_upper_bound(backend, request, cap_set)), None
    if backend.capped is None:
        raise FatalModelError(
            f"{backend.name}: a budget needs a maximum length of answers.", hint="Set params: {max_tokens: …}."
        )
    tight = backend.seen.tight_cap(backend.default_cap)
    if tight is None or not budget.tight:
        try:
            return await budget.reserve(_upper_bound(backend, request, backend.default_cap)), backend.default_cap
        except BudgetReached:
            known = scope.journal.known.calls.values()
            lengths = (call.usage["output"] for call in known if call.model == backend.name)
            tight = backend.seen.tight_cap(backend.default_cap, lengths)
            if tight is None:
                raise
            budget.tight = True
    return await budget.reserve(_upper_bound(backend, request, tight)), tight


def _upper_bound(backend: Backend, request: ModelRequest, cap: int) -> Amount:
    return backend.most_of(request.size, cap, marked=request.marked, images=request.images, searches=request.searches)


async def _send_once(
    scope: RowScope,
    backend: Backend,
    call: CallRecord,
    send: Callable[[], Awaitable[ChatResult]],
    reservation: Reservation,
) -> ChatResult | TransientModelError:
    """Send one request; a transient failure is a result. `call` is noted if it may have been billed all the same."""
    scope.journal.sending(call)
    reservation.sending()
    try:
        async with asyncio.timeout(backend.timeout_s + 1):
            return await send()
    except asyncio.CancelledError:
        _note_unknown(scope, call, "cancelled")
        raise
    except Exception as exc:
        failure = classify(exc, model=backend.name, setting=backend.setting)
        if may_be_billed(exc) or (isinstance(failure, RowError) and failure.kind in _BILLED):
            _note_unknown(scope, call, failure.code if failure else type(exc).__name__)
        else:
            scope.journal.unbilled(call.nonce)
            heard.call_failed(scope, call, failure.code if failure else type(exc).__name__, unknown=False)
            reservation.unbilled()
        if failure is None:
            raise
        if isinstance(failure, TransientModelError):
            return failure
        raise failure from (exc.__cause__ if failure is exc else exc)


def _note_unknown(scope: RowScope, call: CallRecord, why: str) -> None:
    scope.tally.unknown += 1
    heard.call_failed(scope, call, why, unknown=True)
    scope.journal.note(replace(call, error={"kind": "unknown", "message": why}, at=now()))


def unknown_call(scope: RowScope, backend: Backend, key: CallKey) -> CallRecord:
    """Return the record of a request whose outcome is not known yet."""
    return CallRecord(
        request=key[0],
        ordinal=key[1],
        id=scope.id,
        model=backend.name,
        raw=None,
        error={"kind": "unknown", "message": "the process ended"},
        usage={},
        cost_usd=None,
        request_id=None,
        latency_ms=0,
        run=scope.run,
        batch=scope.batch,
        at=now(),
        nonce=uuid.uuid4().hex,
    )


def call_answered(
    scope: RowScope, backend: Backend, call: CallRecord, request: ModelRequest, result: ChatResult, seconds: float,
    cap: int | None = None,
) -> CallRecord:  # fmt: skip
    """Return the record of an answered call; its answer has `cap` tokens at most."""
    message = message_of(result)
    usage = usage_of(message, request, cap)
    backend.seen.note(request.size, usage)
    by = answerer_of(message.response_metadata, backend.endpoint)
    price = tier_price(backend.price, "flex") if by.get("tier") == "flex" else backend.price
    cost = price(usage)
    if (saved := saved_by_cache(price, usage)) is not None:
        usage["cache_saved"] = saved
    scope.tally.calls += 1
    scope.tally.cost_usd += cost or 0.0
    metadata = message.response_metadata
    return replace(
        call,
        raw=raw_of(message),
        error=None,
        usage=usage,
        cost_usd=cost,
        request_id=metadata.get("request_id") or metadata.get("id"),
        latency_ms=round(seconds * 1000),
        at=now(),
        by={**by, **({"stage": scope.stage} if scope.stage else {})},
    )


def message_of(result: ChatResult) -> AIMessage:
    message = result.generations[0].message
    assert isinstance(message, AIMessage)
    return message


def raw_of(message: AIMessage) -> str:
    """Return a message as the JSON text that records keep, from which `as_result` makes it again."""
    raw = {
        "content": message.content,
        "additional_kwargs": message.additional_kwargs,
        "response_metadata": message.response_metadata,
        "tool_calls": message.tool_calls,
        "invalid_tool_calls": message.invalid_tool_calls,
        "usage_metadata": message.usage_metadata,
    }
    return to_json(raw).decode()


def as_result(record: CallRecord) -> ChatResult:
    assert record.raw is not None
    return ChatResult(generations=[ChatGeneration(message=AIMessage(**orjson.loads(record.raw)))])
