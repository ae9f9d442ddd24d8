"""A child's side of limits that the processes of a command share: it reports its use, and receives its part."""

import asyncio
import contextlib

from pipeline.processes.channel import Channel, Message
from stages.limits.limiter import Limiters

_EVERY_S = 0.05


class Shares:
    """Shares of one child's limiters. A limiter that has received no part yet lets no call through."""

    def __init__(self, limiters: Limiters, channel: Channel) -> None:
        self._limiters = limiters
        self._channel = channel
        self._grants: dict[str, int] = {}  # the number of the last grant, by limit
        self._reported: dict[str, tuple[int, int, bool, int]] = {}
        self._changed = asyncio.Event()
        limiters.divide(self._changed.set)

    async def run(self) -> None:
        """Report changes until cancelled."""
        while True:
            uses = {key: (*place.use_now(), self._grants.get(key, 0)) for key, place in self._limiters.places()}
            news = {key: use for key, use in uses.items() if use != self._reported.get(key)}
            if news:
                self._channel.send("at_once", news)
                self._reported.update(news)
            self._changed.clear()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(_EVERY_S if uses else None):
                    await self._changed.wait()

    async def take(self, message: Message) -> None:
        """Apply our parts, by key. The next report confirms them."""
        places = dict(self._limiters.places())
        for key, (part, number) in message.data.items():
            if key in places:
                places[key].limit_to(part)
                self._grants[key] = number
        self._changed.set()
