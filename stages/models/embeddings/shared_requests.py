"""Texts of several rows in one request, where a provider embeds many at once.

Calls stay single for everything above: each has its own turn in the limiter, its own record in the journal, its own
part of the tokens. While two requests are under way, texts wait and go together in the next one: so a request has half
of what is in flight.
"""

import asyncio
import contextvars
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Generic, TypeVar
from weakref import WeakKeyDictionary

from schemas.errors import RowError

_GATHER_S = 0.004  # that a text waits for others, where no request is under way
_AT_ONCE = 2  # requests
MOST_TEXTS = 256
MOST_BYTES = 400_000  # of texts: below 300,000 tokens, the least that a provider takes in one request
_REFUSED = 2  # requests with several texts, each of which was accepted alone: the server takes one at a time
T = TypeVar("T")
Send = Callable[[list[str]], Awaitable[Sequence[T]]]


@dataclass(eq=False)
class SharedRequests(Generic[T]):
    """Gathers texts for `send`, which takes `most_texts` of `most_bytes` together and returns one result a text, in
    their order. A request that is refused for what is in it is sent again text by text, so that only the rows at fault
    are rejected."""

    send: Send[T]
    most_texts: int = MOST_TEXTS
    most_bytes: int = MOST_BYTES
    _loops: "WeakKeyDictionary[asyncio.AbstractEventLoop, _Waiting[T]]" = field(default_factory=WeakKeyDictionary)
    _refused: int = 0

    async def result(self, text: str) -> T:
        """Return the result for a text. Raises what `send` raises."""
        if self._refused >= _REFUSED:
            (alone,) = await self.send([text])
            return alone
        loop = asyncio.get_running_loop()
        waiting = self._loops.setdefault(loop, _Waiting())
        future: asyncio.Future[T] = loop.create_future()
        waiting.texts.append((text, future))
        if len(waiting.texts) == 1 and not waiting.requests:  # in a context of its own: it belongs to no row
            loop.call_later(_GATHER_S, self._begin, loop, context=contextvars.Context())
        elif len(waiting.requests) < _AT_ONCE and waiting.requests:
            loop.call_soon(self._begin, loop, context=contextvars.Context())
        return await future

    def _begin(self, loop: asyncio.AbstractEventLoop) -> None:
        """Send what waits, in at most so many requests at once."""
        waiting = self._loops[loop]
        while waiting.texts and len(waiting.requests) < _AT_ONCE:
            task = loop.create_task(self._request(waiting.next_part(self.most_texts, self.most_bytes)))
            waiting.requests.add(task)
            task.add_done_callback(partial(self._ended, loop))

    def _ended(self, loop: asyncio.AbstractEventLoop, task: "asyncio.Task[None]") -> None:
        self._loops[loop].requests.discard(task)
        self._begin(loop)

    async def _request(self, part: list[tuple[str, "asyncio.Future[T]"]]) -> None:
        wanted = [(text, future) for text, future in part if not future.done()]
        if not wanted:
            return
        try:
            results = await self.send([text for text, _ in wanted])
        except RowError as exc:
            if len(wanted) == 1:
                _fail(wanted, exc)
                return
            await asyncio.gather(*(self._request([one]) for one in wanted))
            if all(not future.cancelled() and future.exception() is None for _, future in wanted):
                self._refused += 1
        except BaseException as exc:
            _fail(wanted, exc)
            if not isinstance(exc, Exception):
                raise
        else:
            for (_, future), result in zip(wanted, results, strict=True):
                if not future.done():
                    future.set_result(result)


def _fail(waiting: Sequence[tuple[str, "asyncio.Future[T]"]], exc: BaseException) -> None:
    for _, future in waiting:
        if not future.done():
            future.set_exception(exc)


@dataclass(eq=False)
class _Waiting(Generic[T]):
    """The texts that wait in one event loop, and the requests that are under way."""

    texts: deque[tuple[str, "asyncio.Future[T]"]] = field(default_factory=deque)
    requests: set["asyncio.Task[None]"] = field(default_factory=set)

    def next_part(self, most_texts: int, most_bytes: int) -> list[tuple[str, "asyncio.Future[T]"]]:
        """Take the texts of the next request, within the limits."""
        part: list[tuple[str, asyncio.Future[T]]] = []
        size = 0
        while self.texts and len(part) < most_texts:
            size += len(self.texts[0][0].encode())
            if part and size > most_bytes:
                break
            part.append(self.texts.popleft())
        return part


def divided(total: int, weights: Sequence[int]) -> list[int]:
    """Divide a number by weights, so that the parts add up to it."""
    whole = sum(weights) or 1
    parts = [total * weight // whole for weight in weights]
    rest = sorted(range(len(weights)), key=lambda index: -(total * weights[index] % whole))
    for index in rest[: total - sum(parts)]:
        parts[index] += 1
    return parts
