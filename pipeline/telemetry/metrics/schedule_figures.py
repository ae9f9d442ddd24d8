"""Figures of the schedules of a namespace, as Temporal counts them. Every worker sees the same ones."""

import asyncio
import contextlib
from collections.abc import Iterable

from temporalio.client import Client
from temporalio.service import RPCError

from pipeline.telemetry.metrics.recorder import Gauge, Recorder

_EVERY_S = 60.0
_MOST = 200
_OURS = "ScheduledWorkflow"


class ScheduleFigures:
    """Actions of schedules that were not begun, as their time was past the catch-up window."""

    def __init__(self, recorder: Recorder) -> None:
        self._missed: int | None = None
        recorder.gauges.append(self._gauge)

    async def watch(self, client: Client) -> None:
        """Look at the schedules every minute, until cancelled."""
        while True:
            with contextlib.suppress(RPCError):  # it is looked at again; the last figure stays
                self._missed = await _missed(client)
            await asyncio.sleep(_EVERY_S)

    def _gauge(self) -> Iterable[Gauge]:
        if self._missed is not None:
            yield "tandem_schedule_actions_missed", {}, self._missed


async def _missed(client: Client) -> int:
    missed = seen = 0
    async for listed in await client.list_schedules():
        action = listed.schedule.action if listed.schedule is not None else None
        if getattr(action, "workflow", "") != _OURS:
            continue
        description = await client.get_schedule_handle(listed.id).describe()
        missed += description.info.num_actions_missed_catchup_window
        seen += 1
        if seen == _MOST:
            break
    return missed
