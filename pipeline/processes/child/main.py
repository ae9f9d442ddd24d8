"""A worker process: it runs the activities of one task queue, user code included, and reports to its supervisor.

It works until it is stopped, gets SIGTERM, or its supervisor is gone.
"""

import asyncio
import contextlib
import logging
import signal
import socket
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from temporalio.client import Client
from temporalio.worker import Interceptor

from pipeline.activities.registered import Activities
from pipeline.client.connection import connect, log_to_python
from pipeline.process_state import COMMAND
from pipeline.processes.cgroup import be_killed_first
from pipeline.processes.channel import Channel, Handler, Message
from pipeline.processes.child.activity_watch import ActivityWatch
from pipeline.processes.child.batch_isolation import ChildSupervision, RowNotes
from pipeline.processes.child.channel_leases import ChannelLeases
from pipeline.processes.child.event_loop import new_loop
from pipeline.processes.child.figure_reports import FigureReports
from pipeline.processes.child.import_user_code import import_user_code
from pipeline.processes.child.in_flight import InFlight
from pipeline.processes.child.isolated_rows import IsolatedRows
from pipeline.processes.child.limit_shares import Shares
from pipeline.processes.child.loop_watch import INTERRUPT, LoopWatch
from pipeline.processes.child.memory_limit import MemoryLimit
from pipeline.processes.child.trials import Trials
from pipeline.processes.owner import identity_of
from pipeline.telemetry import logs
from pipeline.telemetry.log_context import LogContext
from pipeline.telemetry.traces import switch as traces
from pipeline.worker import enriching
from pipeline.workflows.payloads import JSON_MESSAGES
from stages.execution.guards.blocking import interrupt_node
from stages.mcp_servers.sessions import close_servers
from stages.models.callbacks import flush_tracers

log = logging.getLogger("tandem.processes")
_TURN_S = 0.2


def run(end: socket.socket, table: int) -> int:
    """Run a child until it is stopped. Returns the exit status."""
    be_killed_first()
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the supervisor's to handle: it drains us
    signal.signal(INTERRUPT, interrupt_node)
    in_flight = InFlight(table)
    LoopWatch(end.fileno(), in_flight).start()
    asyncio.Runner(loop_factory=new_loop).run(_Child(in_flight).work(end))
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError, ValueError):
            stream.flush()
    return 0


@dataclass
class _Child:
    in_flight: InFlight
    memory: MemoryLimit = field(default_factory=MemoryLimit)
    stop: asyncio.Event = field(default_factory=asyncio.Event)
    drained: asyncio.Event = field(default_factory=asyncio.Event)
    supervision: ChildSupervision = field(init=False)
    activities: Activities = field(init=False)

    async def work(self, end: socket.socket) -> None:
        asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, self.stop.set)
        begun: asyncio.Future[dict[str, Any]] = asyncio.get_running_loop().create_future()

        async def begin(message: Message) -> None:
            begun.set_result(message.data)

        async def stop(_: Message) -> None:
            self.stop.set()

        handlers: dict[str, Handler] = {"begin": begin, "drain": self._drain, "stop": stop}
        channel = await Channel.over(end, handlers)
        self.supervision = ChildSupervision(channel, RowNotes(self.in_flight, self.memory), self._retire, self.memory)
        handlers["import"] = import_user_code
        handlers["suspect"] = self.supervision.suspect
        self.activities = Activities(drain=self.drained, supervision=self.supervision)
        handlers["rows"] = IsolatedRows(self.supervision.watch, self.drained, self.activities.jobs).run
        trials = Trials(self.supervision.watch)
        handlers.update(build=trials.build, draw=trials.draw)
        handlers["try"] = trials.run
        limiters = self.activities.jobs.services.limiters
        shares, leases = Shares(limiters, channel), ChannelLeases(channel, limiters)
        handlers["share"] = shares.take
        handlers["find"] = self.supervision.claims.find
        beside = [asyncio.create_task(work) for work in (self._turn(), shares.run(), leases.run(), channel.serve())]
        try:
            settings = await begun
            COMMAND.name = settings["owner"] or COMMAND.name
            logs.configure_child(settings["log_level"], settings.get("log_mark"))
            self.memory.share = settings["max_memory"]
            self.supervision.alone = settings.get("alone", True)
            figures, listeners = None, list[Interceptor]()
            if settings.get("log_mark"):
                listeners.append(LogContext())
            if settings.get("metrics"):
                figures = FigureReports.begin(channel, self.activities, working=settings["role"] != "rows")
                listeners.append(figures.interceptor)
                handlers["rows"] = figures.flushed(handlers["rows"])
                beside.append(asyncio.create_task(figures.run()))
            if (tracer := traces.tracer()) is not None:
                from pipeline.telemetry.traces.activity_spans import activity_spans  # its library is for traces alone

                listeners += activity_spans(tracer)
                handlers["rows"] = traces.flushed(handlers["rows"])
            if settings["role"] == "rows":
                channel.send("ready")
                await self.stop.wait()
                await flush_tracers()
                await close_servers()
            else:
                await self._enrich(settings, channel, listeners)
            if figures is not None:
                await figures.flush()
            await traces.flush()
            channel.send("leaving")
            await channel.writer.drain()
        finally:
            channel.close()
            for task in beside:
                task.cancel()
            await asyncio.gather(*beside, return_exceptions=True)

    async def _enrich(self, settings: dict[str, Any], channel: Channel, listeners: Sequence[Interceptor]) -> None:
        client = await _client(settings["address"])
        watches = [ActivityWatch(self.in_flight), *listeners]
        async with enriching(client, settings["queue"], self.activities, watches, identity_of(settings["owner"])):
            channel.send("ready")
            await self.stop.wait()

    async def _drain(self, _: Message) -> None:
        self.drained.set()

    async def _turn(self) -> None:
        """Note that the loop turns, and retire the process if it holds too much memory."""
        while True:
            self.in_flight.note_loop_turn()
            await asyncio.sleep(_TURN_S)
            if not self.stop.is_set() and (excess := self.memory.excess()):
                self._retire(excess)

    def _retire(self, reason: str) -> None:
        """Take no new rows, finish those in flight, then end: another process replaces this one."""
        print(f"{reason}: the process finishes its rows and is replaced", file=sys.stderr, flush=True)
        self.stop.set()


async def _client(address: str | None) -> Client:
    """Connect to the embedded server at an address, else to the configured Temporal."""
    log_to_python()
    if address is None:
        return await connect()
    return await Client.connect(address, data_converter=JSON_MESSAGES)
