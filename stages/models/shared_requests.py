"""Texts of several rows in one request, where a provider embeds many at once.

Calls stay single for everything above: each has its own turn in the limiter, its own record in the journal, its own
part of the tokens. Those that are under way at the same moment go in one request.
"""

import asyncio
import contextvars
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from typing import Generic, TypeVar
from weakref import WeakKeyDictionary

from schemas.errors import RowError

_GATHER_S = 0.004  # that a text waits for others
MOST_TEXTS = 256
MOST_BYTES = 400_000  # of texts: below 300,000 tokens, the least that a provider takes in one request
_REFUSED = 2  # requests with several texts, each of which was accepted alone: the server takes one at a time
T = TypeVar("T")
Send = Callable[[list[str]], Awaitable[Sequence[T]]]


@dataclass(eq=False)
class SharedRequests(Generic[T]):
    """Gathers texts for `send`, which returns one result a text, in their order. A request that is refused for what is
    in it is sent again text by text, so that only the rows at fault are rejected."""

    send: Send[T]
    _waiting: WeakKeyDictionary[asyncio.AbstractEventLoop, list[tuple[str, "asyncio.Future[T]"]]] = field(
        default_factory=WeakKeyDictionary
    )
    _tasks: set["asyncio.Task[None]"] = field(default_factory=set)
    _refused: int = 0

    async def result(self, text: str) -> T:
        """Return the result for a text. Raises what `send` raises."""
        if self._refused >= _REFUSED:
            (alone,) = await self.send([text])
            return alone
        loop = asyncio.get_running_loop()
        waiting = self._waiting.setdefault(loop, [])
        if not waiting:  # in a context of its own: the request belongs to no row
            loop.call_later(_GATHER_S, self._begin, loop, context=contextvars.Context())
        future: asyncio.Future[T] = loop.create_future()
        waiting.append((text, future))
        return await future

    def _begin(self, loop: asyncio.AbstractEventLoop) -> None:
        for part in _parts(self._waiting.pop(loop, [])):
            task = loop.create_task(self._request(part))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

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


def _parts(waiting: list[tuple[str, "asyncio.Future[T]"]]) -> list[list[tuple[str, "asyncio.Future[T]"]]]:
    """Cut texts into requests within the limits."""
    parts: list[list[tuple[str, asyncio.Future[T]]]] = []
    size = 0
    for one in waiting:
        length = len(one[0].encode())
        if not parts or len(parts[-1]) == MOST_TEXTS or size + length > MOST_BYTES:
            parts.append([])
            size = 0
        parts[-1].append(one)
        size += length
    return parts


def divided(total: int, weights: Sequence[int]) -> list[int]:
    """Divide a number by weights, so that the parts add up to it."""
    whole = sum(weights) or 1
    parts = [total * weight // whole for weight in weights]
    rest = sorted(range(len(weights)), key=lambda index: -(total * weights[index] % whole))
    for index in rest[: total - sum(parts)]:
        parts[index] += 1
    return parts
