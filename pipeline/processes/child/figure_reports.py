"""A child's side of metrics: it records what it does, and reports to its supervisor."""

import asyncio
import contextlib
from collections.abc import Iterable
from dataclasses import dataclass
from functools import partial
from typing import Self

from temporalio.worker import Interceptor

from pipeline.activities.registered import Activities
from pipeline.processes.channel import Channel, ChannelClosed, Handler, Message
from pipeline.telemetry.metrics import recorder
from pipeline.telemetry.metrics.activity_figures import ActivityFigures
from pipeline.telemetry.metrics.command import REPORT_EVERY_S
from pipeline.telemetry.metrics.limit_figures import of_budgets, of_limiters
from pipeline.telemetry.metrics.recorder import Gauge, Recorder


@dataclass(frozen=True)
class FigureReports:
    """Reports of one child. What a killed child had not reported is lost, so sums are never too high."""

    channel: Channel
    recorder: Recorder
    interceptor: Interceptor

    @classmethod
    def begin(cls, channel: Channel, activities: Activities, *, working: bool) -> Self:
        """Record from now on. `working`: it takes part in the work of a queue."""
        recording = recorder.record()
        recording.gauges += [
            partial(of_limiters, activities.jobs.services.limiters),
            partial(of_budgets, activities.budgets),
            partial(_processes, working=working),
        ]
        return cls(channel, recording, ActivityFigures(recording))

    async def run(self) -> None:
        """Report until cancelled."""
        while True:
            self.channel.send("figures", self.recorder.report())
            await asyncio.sleep(REPORT_EVERY_S)

    async def flush(self) -> None:
        """Report, and wait until the supervisor has it."""
        with contextlib.suppress(ChannelClosed):
            await self.channel.request("figures", self.recorder.report())

    def flushed(self, handler: Handler) -> Handler:
        """Return a handler whose answer comes after the report of what it did: its process may then be killed."""

        async def handle(message: Message) -> Message | None:
            try:
                return await handler(message)
            finally:
                await self.flush()

        return handle


def _processes(*, working: bool) -> Iterable[Gauge]:
    yield "tandem_processes", {}, int(working)
