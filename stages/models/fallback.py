"""Several models as one: the first that can answer does. What any of them has answered is looked up before one is
asked, so a new order, or another endpoint, pays for nothing again.

A model is out while its circuit breaker is open. It is waited for until `fallback_after` is over; then the next one is
asked at once, while now and then a call tries whether the first is back. Endpoints of one model are a pool: a call goes
to the one with the fewest calls in flight, and past one that is out without waiting.
"""

import asyncio
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from math import inf
from typing import Any

from langchain_core.messages import BaseMessage
from langchain_core.outputs import ChatResult
from pydantic import PrivateAttr, SkipValidation

from schemas.errors import CallNeeded, FatalModelError, RowError, TandemError
from stages.journal.records import CallKey, CallRecord
from stages.models.asked import OneOfSeveral, settings_of
from stages.models.backend import Backend
from stages.models.calls import (
    MAX_WAIT_S,
    Journalled,
    as_result,
    in_loop_of,
    look_up_or_call,
    message_of,
    on_loop_of,
)
from stages.models.chat_model import AnyChatModel, ChatModel, arguments_with_tools
from stages.models.failures.errors import Waiting
from stages.models.finish import CUT_OFF, WITHHELD, finish_of
from stages.models.known_calls import find_answer
from stages.models.parked_calls import known_or_parked
from stages.models.request import ModelRequest, canonical_request
from stages.models.row.scope import RowScope, current

_PROBE_EVERY_S = 5.0
_PROBE_PATIENCE_S = 10.0
_QUOTA_REST_S = 60.0  # before a model whose quota was used up is asked again
_STEP_S = 0.5
_REFUSED = frozenset(("content_filter", "refusal"))


@dataclass
class _Member:
    """A model in its pool. `out_since`: since when it has been out; `probe_at`: when a call may try it again."""

    model: AnyChatModel
    backend: Backend
    pool: int
    out_since: float = inf
    probe_at: float = -inf
    probing: bool = False

    def is_out(self, now: float) -> bool:
        """True during an outage, and while its quota rests."""
        if self.backend.limiter.out:
            self.out_since = min(self.out_since, now)
        elif now >= self.probe_at:
            self.out_since = inf
        return self.out_since < inf


@dataclass
class _Question:
    """One call, for each member: its request and the arguments of its chat model."""

    scope: RowScope
    messages: list[BaseMessage]
    stop: Any
    requests: Sequence[ModelRequest]
    arguments: Sequence[dict[str, Any]]
    first_key: CallKey
    failed: list[TandemError] = field(default_factory=list)
    poor: list[CallRecord] = field(default_factory=list)  # answers that call for the next model

    def key(self, number: int) -> CallKey:
        """Return the key of a member's call: all count the same, whoever was asked before."""
        return self.scope.own_digest(self.requests[number].digest), self.first_key[1]


class FallbackChatModel(ChatModel, OneOfSeveral):
    """The models of a role, in pools; `after_s` and `on` are `fallback_after` and `fallback_on`."""

    pools: SkipValidation[list[list[AnyChatModel]]]
    after_s: float
    on: frozenset[str]
    _members: list[_Member] = PrivateAttr(default_factory=list)

    def model_post_init(self, context: Any) -> None:
        self._members = [
            _Member(model, model._tandem, number)
            for number, pool in enumerate(self.pools)
            for model in pool
            if isinstance(model, Journalled)
        ]

    @property
    def members(self) -> list[AnyChatModel]:
        return [member.model for member in self._members]

    @property
    def _llm_type(self) -> str:
        return "tandem-fallback"

    def with_tools(self, tools: Sequence[Any], **kwargs: Any) -> dict[str, Any]:
        return {"each": [arguments_with_tools(model, tools, **kwargs) for model in self.members]}

    def _generate(
        self, messages: list[BaseMessage], stop: Any = None, run_manager: Any = None, **kwargs: Any
    ) -> ChatResult:
        scope = current.get()
        if scope is None:
            return asyncio.run(self._agenerate(messages, stop, None, **kwargs))
        return in_loop_of(scope, self._agenerate(messages, stop, None, **kwargs))

    async def _agenerate(
        self,
        messages: list[BaseMessage],
        stop: Any = None,
        run_manager: Any = None,
        each: Sequence[dict[str, Any]] = (),
        **kwargs: Any,
    ) -> ChatResult:
        """`each`: further arguments of each member."""
        arguments = [{**kwargs, **own} for own in each] or [kwargs for _ in self._members]
        scope = current.get()
        if scope is None:
            return await self._members[0].model._agenerate(messages, stop, run_manager, **arguments[0])
        if asyncio.get_running_loop() is not scope.loop:
            call = self._agenerate(messages, stop, None, each, **kwargs)
            return await asyncio.wrap_future(on_loop_of(scope, call))
        try:
            question = self._question(scope, messages, stop, arguments)
            record = await self._answer(question)
        except TandemError as exc:
            scope.record_failure(exc)
            raise
        scope.use(question.first_key, record.key)
        return as_result(record)

    def _question(
        self, scope: RowScope, messages: list[BaseMessage], stop: Any, arguments: list[dict[str, Any]]
    ) -> _Question:
        requests = []
        for member, own in zip(self._members, arguments, strict=True):
            settings = own.pop("settings", None) or settings_of(stop, own, None, member.backend.provider)
            requests.append(canonical_request(member.backend, messages, settings))
        return _Question(scope, messages, stop, requests, arguments, scope.next_key(requests[0].digest))

    async def _answer(self, question: _Question) -> CallRecord:
        """Return the first good answer: known, else asked for. Without one, the first answer that was given."""
        scope = question.scope
        unasked = []
        for number, member in enumerate(self._members):
            known = await find_answer(scope, member.backend, question.requests[number], question.key(number))
            if known is None:
                unasked.append(number)
            elif self._is_poor(known):
                question.poor.append(known)
            else:
                scope.count_reuse(known)
                return known
        if self._members[0].backend.no_calls and unasked:
            raise CallNeeded(f"{self._members[0].backend.name}: no answer is in the journal, and --no-calls asks none.")
        left = set(unasked)
        while left:
            if scope.parking is not None and not await self._park(question, min(left), last=len(left) == 1):
                left.discard(min(left))
                continue
            with scope.clock.waiting():
                number = await self._next(left, scope)
            left.discard(number)
            record = await self._ask(question, number, last=not left)
            if record is not None and not self._is_poor(record):
                return record
            if record is not None:
                question.poor.append(record)
                pool = self._members[number].pool  # another endpoint of this model would answer in the same way
                left = {one for one in left if self._members[one].pool != pool}
        if question.poor:
            scope.count_reuse(question.poor[0])
            return question.poor[0]
        raise question.failed[0]

    async def _park(self, question: _Question, number: int, *, last: bool) -> bool:
        """Wait for a job where the first model that is left is asked by one. Returns False where a job has refused the
        call, and the next model is to be asked."""
        member = self._members[number]
        model, arguments = member.model, question.arguments[number]
        assert isinstance(model, Journalled)
        body = partial(model.body_of_job, question.messages, question.stop, arguments)
        try:
            await known_or_parked(question.scope, member.backend, question.requests[number], question.key(number), body)
        except RowError as exc:
            if last or exc.kind not in _REFUSED or "refusal" not in self.on:
                raise
            question.failed.append(exc)
            return False
        return True

    async def _next(self, left: set[int], scope: RowScope) -> int:
        """Return the member to ask: of the first pool, the one with the fewest calls in flight that is not out. A pool
        that is out is waited for until `after_s` is over."""
        while True:
            if (why := scope.halted()) is not None:
                raise why
            now = time.monotonic()
            for probed in self._due_probes(left, now):
                return probed
            soonest = inf
            for pool in sorted({self._members[number].pool for number in left}):
                numbers = [number for number in sorted(left) if self._members[number].pool == pool]
                up = [number for number in numbers if not self._members[number].is_out(now)]
                if up:
                    return min(up, key=lambda number: self._members[number].backend.limiter.in_flight)
                if "outage" not in self.on:
                    return numbers[0]
                since = max(self._members[number].out_since for number in numbers)
                if now - since < self.after_s:
                    soonest = since + self.after_s - now
                    break
            else:
                return min(left)
            await asyncio.sleep(min(_STEP_S, soonest))

    def _due_probes(self, left: set[int], now: float) -> Iterator[int]:
        """Yield members that are out and may be tried by this call, one at a time for each."""
        for number in sorted(left):
            member = self._members[number]
            if member.is_out(now) and not member.probing and now >= member.probe_at:
                member.probe_at = now + _PROBE_EVERY_S
                yield number

    async def _ask(self, question: _Question, number: int, *, last: bool) -> CallRecord | None:
        """Ask a member. Returns None, its error noted, where the next one is to be asked."""
        member, request = self._members[number], question.requests[number]
        is_probe = member.is_out(time.monotonic())
        send = partial(_send, member.model, question, number)
        flight = question.scope.own_digest(question.requests[0].capped or question.requests[0].digest)
        patience_s = _PROBE_PATIENCE_S if is_probe else MAX_WAIT_S if last else min(self.after_s, MAX_WAIT_S)
        member.probing = member.probing or is_probe
        try:
            return await look_up_or_call(
                question.scope,
                member.backend,
                request,
                question.key(number),
                send,
                capped=(flight, question.first_key[1]),
                patience_s=patience_s,
            )
        except Waiting as exc:
            if last or "outage" not in self.on or not member.is_out(time.monotonic()):
                raise
            question.failed.append(exc)
        except FatalModelError as exc:
            if last or not exc.quota or "quota" not in self.on:
                raise
            member.out_since, member.probe_at = -inf, time.monotonic() + _QUOTA_REST_S
            question.failed.append(exc)
        except RowError as exc:
            if last or exc.kind not in _REFUSED or "refusal" not in self.on:
                raise
            question.failed.append(exc)
        finally:
            if is_probe:
                member.probing = False
        return None

    def _is_poor(self, record: CallRecord) -> bool:
        """True for an answer that was refused or cut off, where that calls for the next model."""
        message = message_of(as_result(record))
        finish = finish_of(message)
        refused = finish in WITHHELD or bool(message.additional_kwargs.get("refusal"))
        return (refused and "refusal" in self.on) or (finish in CUT_OFF and "truncated" in self.on)


async def _send(model: AnyChatModel, question: _Question, number: int, cap: int | None) -> ChatResult:
    assert isinstance(model, Journalled)
    return await model.send(question.messages, question.stop, None, question.arguments[number], cap)
