"""Keeps the worker processes of a command: started, restarted when they die, drained and ended together.

    command ─ workflows here (code of ours alone)
            ├ children ─ activities there (user code included)
            └ isolates ─ rows that were in flight when a child died by its own doing

A child that dies takes nothing with it but the calls it had sent: its activities are failed at once, so that Temporal
hands them to another without waiting for heartbeats.
"""

import asyncio
import contextlib
import itertools
import logging
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from pipeline.client.connection import Connection
from pipeline.processes import cgroup, fork_server
from pipeline.processes.channel import Channel, Handler, Message
from pipeline.processes.child_watch import oversee
from pipeline.processes.children import Child, Say
from pipeline.processes.deaths import Death, fail_activities
from pipeline.processes.isolation_pool import Isolates
from pipeline.processes.limit_division import Division
from pipeline.processes.owner import Owner, identity_of
from pipeline.processes.row_claims import ClaimedRows
from pipeline.processes.take_over import release_from_the_dead
from pipeline.worker import orchestrating
from schemas.errors import TandemError

log = logging.getLogger("tandem.processes")
ROWS_PER_PROCESS = 2_000  # a further process is worth its start from so many rows on
_LONGEST_PAUSE_S = 10.0
_SOUND_S = 10.0  # a child that lived so long was well
_MAX_STILLBORN = 5
_SHARED_OUT = 0.8  # of the container's memory; the rest is for the command, the server and the page cache
_TRUSTED_DEATHS = 3  # deaths of children by their own doing, after which every row is run apart


class WorkersBroken(TandemError):
    """Worker processes end before they can work."""


@dataclass(frozen=True)
class Processes:
    """How many there are to be; `say` is told each line that they write, and how they end. `limit`: bytes that each may
    hold before it is replaced; by default its share of what the container may."""

    count: int
    say: Say
    limit: int | None = None

    @property
    def max_memory(self) -> int:
        return self.limit or int(_SHARED_OUT * cgroup.memory_bytes() / self.count)


def processes_for(rows: int, wanted: int | None) -> int:
    """How many processes work on so many rows: as many as are wanted, else the cores that the container may use, and
    one for a small job."""
    return wanted or max(1, min(cgroup.cores(), rows // ROWS_PER_PROCESS))


@dataclass
class Workers:
    """The children of a command, at work on one task queue. `suspects` are the rows that were in flight when one of
    them died by its own doing."""

    found: Connection
    queue: str
    processes: Processes
    owner: Owner = field(default_factory=Owner.new)
    children: dict[int, tuple[Child, Isolates]] = field(default_factory=dict)
    suspects: list[list[str]] = field(default_factory=list)
    own_deaths: int = 0
    division: Division = field(default_factory=Division)
    _channels: dict[int, Channel] = field(default_factory=dict)
    claimed: ClaimedRows = field(init=False)
    _numbers: "itertools.count[int]" = field(default_factory=itertools.count)
    draining: bool = False
    stopping: asyncio.Event = field(default_factory=asyncio.Event)
    broken: WorkersBroken | None = None

    def __post_init__(self) -> None:
        self.claimed = ClaimedRows(self._channels)

    @property
    def say(self) -> Say:
        return self.processes.say

    def drain(self) -> None:
        """Have batches handed back: rows in flight finish, the journal is flushed."""
        self.draining = True
        for child, isolates in self.children.values():
            child.channel.tell("drain")
            isolates.drain()

    async def keep(self, number: int, broken: Callable[[WorkersBroken], None]) -> None:
        """One child after the other, until all is over."""
        stillborn = deaths = 0
        while not self.stopping.is_set():
            began = asyncio.get_running_loop().time()
            try:
                death = await self._one(number)
            except OSError as exc:
                log.warning("no worker could be started: %s", exc)
                death = Death(None, ready=False)
            if self.stopping.is_set():
                return
            stillborn = 0 if death.ready else stillborn + 1
            deaths = 0 if asyncio.get_running_loop().time() - began > _SOUND_S else deaths + 1
            if stillborn >= _MAX_STILLBORN:
                broken(
                    WorkersBroken(
                        f"Worker processes end as soon as they are started: the last one {death.how}.",
                        hint="What they wrote is above; -v shows their logs.",
                    )
                )
                return
            if death.how:
                self.say(f"worker {number} {death.how}; another takes its place")
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self.stopping.wait(), _pause(deaths))

    async def _one(self, number: int) -> Death:
        isolates = Isolates(lambda: self._start(f"worker {number}, rows apart", "rows", None))
        child = await self._start(f"worker {number}", "worker", isolates)
        self.children[number] = child, isolates
        watching = asyncio.create_task(oversee(self.found.client, child, partial(self._say_of, number)))
        try:
            death = await asyncio.shield(child.death)
        finally:
            watching.cancel()
            del self.children[number]
            isolates.end()
        if death.own and death.rows:
            self._suspect(death)
        await fail_activities(self.found.client, death)
        return death

    def _say_of(self, number: int, what: str) -> None:
        self.say(f"worker {number} {what}")

    async def _start(self, name: str, role: str, isolates: Isolates | None) -> Child:
        """Raises OSError."""
        embedded = self.found.embedded
        begin = {
            "role": role,
            "address": embedded.info.address if embedded is not None else None,
            "queue": self.queue,
            "owner": self.owner.name,
            "max_memory": self.processes.max_memory,
            "alone": self.processes.count == 1,
        }
        member = next(self._numbers)

        async def at_once(message: Message) -> None:
            self._tell_parts(self.division.report(member, message.data))

        async def claim(message: Message) -> Message:
            return self.claimed.claim(member, message)

        async def result(message: Message) -> Message:
            return await self.claimed.result(member, message)

        handlers: dict[str, Handler] = {"at_once": at_once, "claim": claim, "result": result}
        if isolates is not None:
            handlers.update(isolate=isolates.isolate, isolated=isolates.isolated)
        child = await Child.started(fork_server.current(), name, self.say, handlers, begin)
        self._channels[member] = child.channel
        child.death.add_done_callback(lambda _: self._left(member))
        child.channel.tell("suspect", self._suspects())
        if self.draining:
            child.channel.tell("drain")
        return child

    def _left(self, member: int) -> None:
        del self._channels[member]
        self._tell_parts(self.division.left(member))

    def _tell_parts(self, parts: dict[int, dict[str, int]]) -> None:
        for member, said in parts.items():
            if member in self._channels:
                self._channels[member].tell("share", said)

    def _suspect(self, death: Death) -> None:
        """Before its activities are tried again."""
        self.own_deaths += 1
        self.suspects += death.keys
        for child, _ in self.children.values():
            child.channel.tell("suspect", self._suspects())

    def _suspects(self) -> dict[str, Any]:
        return {"keys": self.suspects, "everything": self.own_deaths >= _TRUSTED_DEATHS}


def _pause(deaths: int) -> float:
    """At once the first times, then ever later."""
    return 0.0 if deaths <= _TRUSTED_DEATHS else min(0.1 * 2 ** (deaths - _TRUSTED_DEATHS), _LONGEST_PAUSE_S)


@asynccontextmanager
async def workers(found: Connection, queue: str, processes: Processes) -> AsyncIterator[Workers]:
    """Work on a task queue with processes until the block ends, then drain. Raises WorkersBroken within the block where
    none can work."""
    running = Workers(found, queue, processes)
    block = asyncio.current_task()
    assert block is not None

    def broken(why: WorkersBroken) -> None:
        running.broken = why
        block.cancel()

    async with orchestrating(found.client, queue, identity_of(running.owner.name)):
        releasing = asyncio.create_task(release_from_the_dead(found.client, queue))
        keepers = [asyncio.create_task(running.keep(number, broken)) for number in range(1, processes.count + 1)]
        try:
            yield running
        except BaseException:  # whatever the block makes of being cancelled
            if running.broken is None:
                raise
            block.uncancel()
            raise running.broken from None
        finally:
            running.stopping.set()
            running.drain()
            await asyncio.gather(*(child.stop() for child, _ in running.children.values()))
            releasing.cancel()
            await asyncio.gather(*keepers, releasing, return_exceptions=True)
    running.owner.leave()
