"""The metrics of a command that works: `--metrics`, else `TANDEM_METRICS`, and `--metrics-linger`."""

from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeAlias

from pipeline.cli.arguments import seconds
from pipeline.cli.screen.console import Screen
from pipeline.telemetry.metrics.address import Address

Work: TypeAlias = Callable[[], Coroutine[Any, Any, int]]
VARIABLE = "TANDEM_METRICS"


@dataclass(frozen=True)
class MetricsFlags:
    """The flags of one command, as they were written."""

    address: str | None
    linger: str | None
    quiet: bool = False

    def serving(self, work: Work) -> Work:
        """Return the work, with an endpoint while it runs if one is requested. Raises UsageError."""
        from pipeline.settings import current  # Pydantic, which the help does without

        text = self.address or current().metrics
        linger_s = seconds(self.linger) or 0.0
        if text is None:
            return work
        address = Address.parse(text, setting="--metrics" if self.address else VARIABLE)
        return partial(_served, work, address, linger_s, Screen(quiet=self.quiet))


async def _served(work: Work, address: Address, linger_s: float, screen: Screen) -> int:
    from pipeline.telemetry.metrics.command import serving

    async with serving(address, linger_s) as url:
        screen.note(f"Metrics: {url}")
        return await work()
