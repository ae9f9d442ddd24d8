"""The metrics of a command: its own figures, those of its processes, and the endpoint that serves their sum."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

from pipeline.telemetry.metrics import recorder
from pipeline.telemetry.metrics.address import Address
from pipeline.telemetry.metrics.recorder import Recorder
from pipeline.telemetry.metrics.schedule_figures import ScheduleFigures
from pipeline.telemetry.metrics.totals import Totals

REPORT_EVERY_S = 1.0
_SELF = "this process"


@dataclass
class CommandMetrics:
    """The recorder of the command's own process, and the sum over all of them."""

    own: Recorder
    totals: Totals = field(default_factory=Totals)
    schedules: ScheduleFigures = field(init=False)

    def __post_init__(self) -> None:
        self.schedules = ScheduleFigures(self.own)

    def collect(self) -> None:
        """Add what this process has recorded."""
        self.totals.add(_SELF, self.own.report())


current: CommandMetrics | None = None  # of this command; None: nobody has requested metrics


@asynccontextmanager
async def serving(address: Address, linger_s: float = 0.0) -> AsyncIterator[str]:
    """Serve the metrics of this command while the block runs, and `linger_s` longer; yields the URL. Raises
    UsageError."""
    global current  # noqa: PLW0603  one a process, set before its work
    from pipeline.telemetry.metrics.endpoint import Endpoint  # its library is for those who want metrics

    metrics = CommandMetrics(recorder.record())
    endpoint = Endpoint.open(address, metrics.totals.read)
    current = metrics
    collecting = asyncio.create_task(_collect(metrics))
    try:
        try:
            yield endpoint.url
        except Exception:
            await _linger(metrics, linger_s)
            raise
        await _linger(metrics, linger_s)
    finally:
        collecting.cancel()
        await asyncio.gather(collecting, return_exceptions=True)
        endpoint.close()
        recorder.stop()
        current = None


async def _linger(metrics: CommandMetrics, seconds: float) -> None:
    """Go on for a last scrape. An interrupt ends this, and not what the command has done."""
    metrics.collect()
    try:
        await asyncio.sleep(seconds if metrics.totals.counts else 0.0)  # nothing was done: nothing is worth a scrape
    except asyncio.CancelledError:
        task = asyncio.current_task()
        assert task is not None
        task.uncancel()


async def _collect(metrics: CommandMetrics) -> None:
    while True:
        metrics.collect()
        await asyncio.sleep(REPORT_EVERY_S)
