"""The supervisor's side of isolation: a process for suspected rows, as long as their batch needs one."""

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field

from pipeline.processes.channel import ChannelClosed, Message
from pipeline.processes.children import Child


@dataclass
class IsolatedProcesses:
    """The isolated processes of one worker process; they end with it."""

    start: Callable[[], Awaitable[Child]]
    _children: dict[str, Child] = field(default_factory=dict)

    async def isolate(self, message: Message) -> Message:
        """Send rows to the session's process, a new one if the last has died. Returns its result or its death."""
        session = message.data["session"]
        child = self._children.get(session)
        if child is None:
            child = self._children[session] = await self.start()
        try:
            return await child.channel.request("rows", message.data, message.body)
        except ChannelClosed:
            death = await asyncio.shield(child.death)
            self._children.pop(session, None)
            if not death.own:
                return Message({})
            return Message({"death": death.cause, "in_flight": death.keys})
        except asyncio.CancelledError:  # its worker has gone
            self._forget(session)
            raise

    async def isolated(self, message: Message) -> None:
        """End the process of a session that is over."""
        self._forget(message.data["session"])

    def end(self) -> None:
        """End all processes, as the worker process has ended."""
        for session in tuple(self._children):
            self._forget(session)

    def drain(self) -> None:
        for child in self._children.values():
            child.channel.send("drain")

    def _forget(self, session: str) -> None:
        child = self._children.pop(session, None)
        if child is not None:
            child.kill()
