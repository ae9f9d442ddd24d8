"""Supervisor of a command's worker processes: started, restarted when they die, drained and ended together.

    command ─ workflows here (code of ours alone)
            ├ children ─ activities there (user code included)
            └ isolates ─ rows that were in flight when a child died by its own fault

A child that dies loses only its calls in flight: its activities are failed at once, so that Temporal gives them to
another without waiting for heartbeats.
"""

import asyncio
import contextlib
import itertools
import logging
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from pipeline.client.connection import Connection
from pipeline.orchestration import leasing, orchestrating
from pipeline.processes import cgroup
from pipeline.processes.channel import Channel, Handler, Message
from pipeline.processes.child_figures import ChildFigures, count_death
from pipeline.processes.child_watch import watch_child
from pipeline.processes.children import Child, WriteLine
from pipeline.processes.deaths import Death, fail_activities
from pipeline.processes.expendable.isolation_pool import IsolatedProcesses
from pipeline.processes.fork_server import handle as fork_server
from pipeline.processes.owner import Owner, identity_of
from pipeline.processes.shared.limit_division import Division, Grants
from pipeline.processes.shared.rate_division import CommandLimits
from pipeline.processes.shared.row_claims import ClaimedRows
from pipeline.processes.take_over import release_from_the_dead
from pipeline.telemetry.lineage import switch as lineage
from pipeline.telemetry.metrics import command as telemetry
from pipeline.telemetry.traces import switch as traces
from schemas.errors import TandemError

log = logging.getLogger("tandem.processes")
ROWS_PER_PROCESS = 2_000  # a further process is worth its start from so many rows on
_LONGEST_PAUSE_S = 10.0
_SOUND_S = 10.0  # a child that lived so long was sound
_MAX_STILLBORN = 5
_SHARED_OUT = 0.8  # of the container's memory; the rest is for the command, the server and the page cache
_TRUSTED_DEATHS = 3  # deaths of children by their own fault, after which every row is isolated


class WorkersBroken(TandemError):
    """Worker processes end before they can work."""


@dataclass(frozen=True)
class Processes:
    """The number of processes; `write_line` gets each line that they write, and their ends. `limit`: bytes that each
    may hold before it is replaced; by default its share of the container's."""

    count: int
    write_line: WriteLine
    limit: int | None = None

    @property
    def max_memory(self) -> int:
        return self.limit or int(_SHARED_OUT * cgroup.memory_bytes() / self.count)


def processes_for(rows: int, requested: int | None) -> int:
    """Return the number of processes for so many rows: as requested, else the cores that the container may use, and one
    for a small job."""
    return requested or max(1, min(cgroup.cores(), rows // ROWS_PER_PROCESS))


@dataclass
class Workers:
    """The children of a command, which work on one task queue. `suspects` are the rows that were in flight when one of
    them died by its own fault."""

    connection: Connection
    queue: str
    processes: Processes
    owner: Owner = field(default_factory=Owner.new)
    children: dict[int, tuple[Child, IsolatedProcesses]] = field(default_factory=dict)
    suspects: list[list[str]] = field(default_factory=list)
    own_deaths: int = 0
    division: Division = field(default_factory=Division)
    rates: CommandLimits = field(default_factory=CommandLimits)
    _channels: dict[int, Channel] = field(default_factory=dict)
    claimed: ClaimedRows = field(init=False)
    _numbers: "itertools.count[int]" = field(default_factory=itertools.count)
    draining: bool = False
    stopping: asyncio.Event = field(default_factory=asyncio.Event)
    broken: WorkersBroken | None = None

    def __post_init__(self) -> None:
        self.claimed = ClaimedRows(self._channels)

    @property
    def write_line(self) -> WriteLine:
        return self.processes.write_line

    def drain(self) -> None:
        """Have batches returned: rows in flight finish, the journal is flushed."""
        self.draining = True
        for child, isolates in self.children.values():
            child.channel.send("drain")
            isolates.drain()

    async def keep(self, number: int, broken: Callable[[WorkersBroken], None]) -> None:
        """Run one child after the other, until stopped."""
        stillborn = deaths = 0
        while not self.stopping.is_set():
            began = asyncio.get_running_loop().time()
            try:
                death = await self._one(number)
            except OSError as exc:
                log.warning("no worker could be started: %s", exc)
                death = Death(None, ready=False)
                count_death(death)
            if self.stopping.is_set():
                return
            stillborn = 0 if death.ready else stillborn + 1
            deaths = 0 if asyncio.get_running_loop().time() - began > _SOUND_S else deaths + 1
            if stillborn >= _MAX_STILLBORN:
                broken(
                    WorkersBroken(
                        f"Worker processes end as soon as they are started: the last one {death.cause}.",
                        hint="What they wrote is above; -v shows their logs.",
                    )
                )
                return
            if death.cause:
                self.write_line(f"worker {number} {death.cause}; another takes its place")
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(_pause(deaths)):
                    await self.stopping.wait()

    async def _one(self, number: int) -> Death:
        isolates = IsolatedProcesses(lambda: self._start(f"worker {number}, rows apart", "rows", None))
        child = await self._start(f"worker {number}", "worker", isolates)
        self.children[number] = child, isolates
        if self.stopping.is_set():  # since it was asked for, which takes a second where the fork server has rested
            await child.stop()
        watching = asyncio.create_task(watch_child(self.connection.client, child, partial(self._report_on, number)))
        try:
            death = await asyncio.shield(child.death)
        finally:
            watching.cancel()
            del self.children[number]
            isolates.end()
        if death.own and death.rows:
            self._suspect(death)
        await fail_activities(self.connection.client, death)
        return death

    def _report_on(self, number: int, event: str) -> None:
        self.write_line(f"worker {number} {event}")

    async def _start(self, name: str, role: str, isolates: IsolatedProcesses | None) -> Child:
        """Start a child with its handlers. Raises OSError."""
        embedded = self.connection.embedded
        begin = {
            "role": role,
            "address": embedded.info.address if embedded is not None else None,
            "queue": self.queue,
            "owner": self.owner.name,
            "max_memory": self.processes.max_memory if role == "worker" else 0,  # one for a few rows ends with them
            "alone": self.processes.count == 1,
            "metrics": telemetry.current is not None,
        }
        member = next(self._numbers)

        async def at_once(message: Message) -> None:
            self._send_parts(self.division.report(member, message.data))

        async def claim(message: Message) -> Message:
            return self.claimed.claim(member, message)

        async def result(message: Message) -> Message:
            return await self.claimed.result(member, message)

        handlers: dict[str, Handler] = {
            "at_once": at_once,
            "lease": partial(self.rates.lease, member),
            "claim": claim,
            "result": result,
        }
        if isolates is not None:
            handlers.update(isolate=isolates.isolate, isolated=isolates.isolated)
        figures = ChildFigures(telemetry.current, role != "worker") if telemetry.current is not None else None
        if figures is not None:
            handlers["figures"] = figures.take
        server = fork_server.current()
        child = await Child.started(server, name, self.write_line, handlers, begin)
        server.let_rest()
        if figures is not None:
            child.death.add_done_callback(figures.ended)
        self._channels[member] = child.channel
        child.death.add_done_callback(lambda _: self._remove(member))
        child.channel.send("suspect", self._suspects())
        if self.draining:
            child.channel.send("drain")
        return child

    def _remove(self, member: int) -> None:
        del self._channels[member]
        self._send_parts(self.division.remove(member))
        self.rates.remove(member)

    def _send_parts(self, parts: dict[int, Grants]) -> None:
        for member, part in parts.items():
            if member in self._channels:
                self._channels[member].send("share", part)

    def _suspect(self, death: Death) -> None:
        """Send the suspected rows to the children, before the dead one's activities are tried again."""
        self.own_deaths += 1
        self.suspects += death.keys
        for child, _ in self.children.values():
            child.channel.send("suspect", self._suspects())

    def _suspects(self) -> dict[str, Any]:
        return {"keys": self.suspects, "everything": self.own_deaths >= _TRUSTED_DEATHS}


def _pause(deaths: int) -> float:
    """Return the pause before a restart: none the first times, then longer each time."""
    return 0.0 if deaths <= _TRUSTED_DEATHS else min(0.1 * 2 ** (deaths - _TRUSTED_DEATHS), _LONGEST_PAUSE_S)


@asynccontextmanager
async def workers(connection: Connection, queue: str, processes: Processes) -> AsyncIterator[Workers]:
    """Work on a task queue with processes until the block ends, then drain. Raises WorkersBroken within the block if
    none can work."""
    running = Workers(connection, queue, processes)
    for sentence in filter(None, (traces.complaint(), lineage.complaint())):
        running.write_line(sentence)
    block = asyncio.current_task()
    assert block is not None

    def broken(error: WorkersBroken) -> None:
        running.broken = error
        block.cancel()

    # Children first: they are ready last.
    beside = [asyncio.create_task(running.keep(number, broken)) for number in range(1, processes.count + 1)]
    orchestration = AsyncExitStack()
    try:
        await orchestration.enter_async_context(
            orchestrating(connection.client, queue, identity_of(running.owner.name))
        )
        await orchestration.enter_async_context(leasing(connection.client, running.rates))
        beside.append(asyncio.create_task(release_from_the_dead(connection.client, queue)))
        if telemetry.current is not None:
            beside.append(asyncio.create_task(telemetry.current.schedules.watch(connection.client)))
        yield running
    except BaseException:  # of any kind, as the block may convert the cancellation
        if running.broken is None:
            raise
        block.uncancel()
        raise running.broken from None
    finally:
        running.stopping.set()
        running.drain()
        await asyncio.gather(*(child.stop() for child, _ in running.children.values()))
        for task in beside[processes.count :]:
            task.cancel()
        await asyncio.gather(*beside, return_exceptions=True)
        await orchestration.aclose()
    running.owner.release()
