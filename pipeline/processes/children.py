"""One child process on the supervisor's side: its start, its channel, and its end."""

import asyncio
import contextlib
import logging
import os
import signal
import socket
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Self

from pipeline.processes import cgroup
from pipeline.processes.channel import Channel, Handler, Message
from pipeline.processes.child.in_flight import InFlight
from pipeline.processes.deaths import Death
from pipeline.processes.fork_server import ForkServer
from pipeline.processes.output import OutputLines
from pipeline.workflows.policies import GRACE

WriteLine = Callable[[str], None]
_STOP_S = GRACE.total_seconds() + 5


@dataclass
class Child:
    """One process, from its start to its end."""

    pid: int
    status: "asyncio.Future[int]"
    channel: Channel
    table: InFlight
    output: OutputLines
    ready: bool = False
    leaving: bool = False
    stuck: bool = False  # killed by us, as its interpreter stood still
    out_of_memory_before: int = field(default_factory=cgroup.oom_kills)
    death: "asyncio.Task[Death]" = field(init=False)

    @classmethod
    async def started(
        cls, server: ForkServer, name: str, out: WriteLine, handlers: Mapping[str, Handler], begin: Mapping[str, Any]
    ) -> Self:
        """Start a child. Raises OSError if none can be started."""
        ours, theirs = socket.socketpair()
        read, write = os.pipe()
        table = InFlight.new()
        try:
            pid, status = await server.start([write, theirs.fileno(), table.descriptor])
        except BaseException:
            ours.close()
            os.close(read)
            table.close()
            raise
        finally:
            theirs.close()
            os.close(write)
        answered = dict(handlers)
        channel = await Channel.over(ours, answered)
        child = cls(pid, status, channel, table, OutputLines(read, lambda line: out(f"[{name}] {line}")))

        async def on_ready(_: Message) -> None:
            child.ready = True

        async def on_leaving(_: Message) -> None:
            child.leaving = True

        answered.update(ready=on_ready, leaving=on_leaving)
        child.death = asyncio.create_task(child._ended())
        channel.send("begin", {**begin, "log_level": logging.getLogger().level})
        return child

    async def _ended(self) -> Death:
        """Wait for the end of the process, and describe it."""
        serving = asyncio.create_task(self.channel.serve())
        try:
            status = await self.status
            with contextlib.suppress(TimeoutError):  # its last messages; a grandchild may hold the other end
                await asyncio.wait_for(asyncio.shield(serving), 0.2)
            return Death(
                status,
                self.ready,
                self.leaving,
                cgroup.oom_kills() > self.out_of_memory_before,
                [activity for _, activity in self.table.activities.read()],
                [row for _, row in self.table.rows.read()],
                self.stuck,
            )
        finally:
            self.channel.close()
            serving.cancel()
            self.output.close()
            self.table.close()

    async def stop(self) -> None:
        """Let the process drain; after its grace it is killed."""
        self.channel.send("stop")
        try:
            await asyncio.wait_for(asyncio.shield(self.death), _STOP_S)
        except TimeoutError:
            self.kill()

    def kill(self) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.kill(self.pid, signal.SIGKILL)
