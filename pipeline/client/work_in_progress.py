"""How far a run is, to the second: what partitions report, and beyond it the last heartbeats of their batches."""

import contextlib
import datetime as dt
from typing import Any

from temporalio.client import Client, WorkflowExecutionDescription, WorkflowHandle, WorkflowQueryFailedError
from temporalio.service import RPCError

from pipeline.client.start import Run
from pipeline.workflows.activity_calls import ENRICH
from schemas import ids
from schemas.messages.batch import Heartbeat
from schemas.messages.run import Progress

_LOOKED_AT = 16  # partitions: each is two requests to Temporal
_ANSWER_WITHIN = dt.timedelta(seconds=5)


class WorkInProgress:
    """Rows, rejects, calls and USD so far. Of rows that are run by themselves (`placement: node`) it knows what they
    spent once they have ended. `whole` false: not every partition at work was asked, so calls and USD are lower
    bounds. `waiting`: what batches wait for, empty where none does."""

    def __init__(self, progress: Progress) -> None:
        self.rows = progress.rows_done
        self.rejected = progress.rejected
        self.calls = progress.totals.usage.calls
        self.cost_usd = progress.totals.usage.cost_usd
        self.whole = len(_own_partitions(progress)) <= _LOOKED_AT
        self.budget_usd: float | None = None
        self.waiting = progress.waiting
        self.waits_for_code = progress.waits_for_code

    @property
    def reason(self) -> str:
        """What is waited for, of whatever kind."""
        return self.waits_for_code or self.waiting

    async def add(self, partition: WorkflowHandle[Any, Any]) -> None:
        """Add what a partition's workflow reports. Raises RPCError, WorkflowQueryFailedError."""
        described = await partition.describe()
        progress = await partition.query("progress", result_type=Progress, rpc_timeout=_ANSWER_WITHIN)
        self.rows += progress.rows_done
        self.rejected += progress.rejected
        self.calls += progress.spent.calls
        self.cost_usd += progress.spent.cost_usd
        self.waiting = self.waiting or progress.waiting
        self.waits_for_code = self.waits_for_code or progress.waits_for_code
        for beat in await _heartbeats(described):
            self.rows += beat.rows
            self.calls += beat.calls
            self.cost_usd += beat.cost_usd
            self.waiting = self.waiting or beat.waiting


async def work_in_progress(client: Client, run: Run, progress: Progress) -> WorkInProgress:
    found = WorkInProgress(progress)
    for partition in _own_partitions(progress)[:_LOOKED_AT]:
        handle = client.get_workflow_handle(ids.partition_workflow_id(run.ref.pipeline, run.ref.sink, partition))
        with contextlib.suppress(RPCError, WorkflowQueryFailedError):  # no worker answers just now, or not this one
            await found.add(handle)
    return found


def _own_partitions(progress: Progress) -> list[str]:
    """Partitions at work, without those that are held: the workflow of such an id is another run's."""
    return [partition for partition in progress.running if partition not in progress.held]


async def _heartbeats(described: WorkflowExecutionDescription) -> list[Heartbeat]:
    """The last heartbeat of each batch at work."""
    found = []
    for pending in described.raw_description.pending_activities:
        if pending.activity_type.name != ENRICH.name or not pending.HasField("heartbeat_details"):
            continue
        payloads = pending.heartbeat_details.payloads
        if len(payloads) == 1:
            found += await described.data_converter.decode(payloads, [Heartbeat])
        else:  # a worker of an earlier version sends them one by one
            rows, calls, cost_usd = await described.data_converter.decode(payloads, [int, int, float])
            found.append(Heartbeat(rows=rows, calls=calls, cost_usd=cost_usd))
    return found
