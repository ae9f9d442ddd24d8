"""The supervisor's side of metrics: reports of a child are added to those of the command, and its death is counted."""

import asyncio
from dataclasses import dataclass

from pipeline.processes.channel import Message
from pipeline.processes.deaths import Death
from pipeline.telemetry.metrics import recorder
from pipeline.telemetry.metrics.command import CommandMetrics


@dataclass(frozen=True, eq=False)
class ChildFigures:
    """The figures of one child. `expendable`: it ends with its rows, and only a death by its own fault counts."""

    metrics: CommandMetrics
    expendable: bool

    async def take(self, message: Message) -> None:
        """Add a report."""
        self.metrics.totals.add(self, message.data)

    def ended(self, death: "asyncio.Task[Death]") -> None:
        self.metrics.totals.forget(self)
        if death.cancelled() or death.exception() is not None:
            return
        end = death.result()
        if end.own if self.expendable else end.cause:
            count_death(end)


def count_death(death: Death) -> None:
    """Count the end of a process that was not to end."""
    if recorder.current is not None:
        recorder.current.count("tandem_process_deaths_total", {"cause": death.kind})
