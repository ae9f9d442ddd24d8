"""One child process on the supervisor's side: its start, its channel, and its end."""

import asyncio
import contextlib
import logging
import os
import signal
import socket
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Self

from pipeline.processes import cgroup
from pipeline.processes.channel import Channel, Handler, Message
from pipeline.processes.child.in_flight import InFlight
from pipeline.processes.deaths import Death
from pipeline.processes.fork_server.handle import ForkServer
from pipeline.processes.output import OutputLines
from pipeline.telemetry import logs
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
    output: "list[OutputLines]"
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
        pipes = [os.pipe() for _ in _streams()]
        writes = [write for _, write in pipes]
        table = InFlight.new()
        try:
            pid, status = await server.start([writes[0], writes[-1], theirs.fileno(), table.descriptor])
        except BaseException:
            ours.close()
            for read, _ in pipes:
                os.close(read)
            table.close()
            raise
        finally:
            theirs.close()
            for write in writes:
                os.close(write)
        answered = dict(handlers)
        channel = await Channel.over(ours, answered)
        output = [OutputLines(pipe[0], _to(out, name, stream)) for pipe, stream in zip(pipes, _streams(), strict=True)]
        child = cls(pid, status, channel, table, output)

        async def on_ready(_: Message) -> None:
            child.ready = True

        async def on_leaving(_: Message) -> None:
            child.leaving = True

        answered.update(ready=on_ready, leaving=on_leaving)
        child.death = asyncio.create_task(child._ended())
        log_mark = logs.records.mark if logs.records is not None else None
        channel.send("begin", {**begin, "log_level": logging.getLogger().level, "log_mark": log_mark})
        return child

    async def _ended(self) -> Death:
        """Wait for the end of the process, and describe it."""
        serving = asyncio.create_task(self.channel.serve())
        try:
            status = await self.status
            with contextlib.suppress(TimeoutError):  # its last messages; a grandchild may hold the other end
                async with asyncio.timeout(0.2):
                    await asyncio.shield(serving)
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
            for output in self.output:
                output.close()
            self.table.close()

    async def stop(self) -> None:
        """Let the process drain; after its grace it is killed."""
        self.channel.send("stop")
        try:
            async with asyncio.timeout(_STOP_S):
                await asyncio.shield(self.death)
        except TimeoutError:
            self.kill()

    def kill(self) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.kill(self.pid, signal.SIGKILL)


def _streams() -> tuple[str, ...]:
    """The pipes of a child. A person gets both streams in their order, by one pipe; a record says which it was."""
    return ("both",) if logs.records is None else ("stdout", "stderr")


def _to(out: WriteLine, name: str, stream: str) -> WriteLine:
    records = logs.records
    if records is None:
        return lambda line: out(f"[{name}] {line}")
    return partial(records.child_line, name, stream)
