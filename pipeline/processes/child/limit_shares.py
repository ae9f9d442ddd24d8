"""A child's side of limits that the processes of a command share: it says what it uses, and is told its part."""

import asyncio
import contextlib

from pipeline.processes.channel import Channel, Message
from stages.limits.limiter import Limiters

_EVERY_S = 0.05


class Shares:
    """Of one child's limiters. A place of which no part was told yet lets nobody through."""

    def __init__(self, limiters: Limiters, channel: Channel) -> None:
        self._limiters = limiters
        self._channel = channel
        self._said: dict[str, tuple[int, int, bool]] = {}
        self._wanted = asyncio.Event()
        limiters.divide(self._wanted.set)

    async def run(self) -> None:
        """Until cancelled."""
        while True:
            said = {key: place.use_now() for key, place in self._limiters.places()}
            news = {key: use for key, use in said.items() if use != self._said.get(key)}
            if news:
                self._channel.tell("at_once", news)
                self._said.update(news)
            self._wanted.clear()
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._wanted.wait(), _EVERY_S if said else None)

    async def take(self, message: Message) -> None:
        """Our parts, by key."""
        places = dict(self._limiters.places())
        for key, part in message.data.items():
            if key in places:
                places[key].limit_to(part)
