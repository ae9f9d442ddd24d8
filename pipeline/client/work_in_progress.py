"""The current progress of a run: the reports of its partitions plus the last heartbeats of their batches."""

import contextlib
import datetime as dt
import time
from collections import Counter
from collections.abc import Sequence
from typing import Any

from temporalio.client import Client, WorkflowExecutionDescription, WorkflowHandle, WorkflowQueryFailedError
from temporalio.service import RPCError

from pipeline.client.run import Run
from pipeline.workflows.activity_calls import ENRICH, OPEN
from schemas import ids
from schemas.messages.batch import Heartbeat, ModelLoad
from schemas.messages.run import Progress

_MOST_QUERIED = 16  # partitions: each is two requests to Temporal
_FEW = 4  # running partitions, which are queried however young they are
_YOUNG_S = 2.0
_ANSWER_WITHIN = dt.timedelta(seconds=5)


class WorkInProgress:
    """Rows, rejects, calls and USD so far. Rows with `placement: node` add their cost once they have ended. `whole`
    false: not every running partition was queried, so calls and USD are lower bounds. `waiting`: the reason for which
    batches wait, empty if none does. `rejects` and `failed_calls`: of the running partitions, by class; `loads`: the
    calls to each model, of all processes together."""

    def __init__(self, progress: Progress) -> None:
        self.rows = progress.rows_done
        self.rejected = progress.rejected
        self.calls = progress.totals.usage.calls
        self.cost_usd = progress.totals.usage.cost_usd
        self.whole = True
        self.budget_usd: float | None = None
        self.waiting = progress.waiting
        self.waits_for_code = progress.waits_for_code
        self.rejects: Counter[str] = Counter()
        self.failed_calls: Counter[str] = Counter()
        self._loads: dict[tuple[str, int, str], ModelLoad] = {}

    @property
    def loads(self) -> list[ModelLoad]:
        """The load of each model, by name."""
        found: dict[str, ModelLoad] = {}
        for one in self._loads.values():
            found[one.model] = _together(found[one.model], one) if one.model in found else one
        return [found[model] for model in sorted(found)]

    @property
    def reason(self) -> str:
        """The reason of a wait of any kind."""
        return self.waits_for_code or self.waiting

    async def add(self, partition: WorkflowHandle[Any, Any]) -> None:
        """Add what a partition's workflow reports. Raises RPCError, WorkflowQueryFailedError."""
        description = await partition.describe()
        progress = await partition.query("progress", result_type=Progress, rpc_timeout=_ANSWER_WITHIN)
        self.rows += progress.rows_done
        self.rejected += progress.rejected
        self.calls += progress.spent.calls
        self.cost_usd += progress.spent.cost_usd
        self.rejects.update(progress.spent.rejects)
        self.failed_calls.update(progress.spent.failed_calls)
        self.waiting = self.waiting or progress.waiting
        self.waits_for_code = self.waits_for_code or progress.waits_for_code
        for heartbeat in await _heartbeats(description):
            self.note(heartbeat)

    def note(self, heartbeat: Heartbeat) -> None:
        """Add what a running batch reports."""
        self.rows += heartbeat.rows
        self.calls += heartbeat.calls
        self.cost_usd += heartbeat.cost_usd
        self.rejects.update(heartbeat.rejects)
        self.failed_calls.update(heartbeat.failed_calls)
        for load in heartbeat.loads:  # those of the process, whichever of its batches reports them
            self._loads[heartbeat.spool, heartbeat.process, load.model] = load
        self.waiting = self.waiting or heartbeat.waiting


def _together(one: ModelLoad, other: ModelLoad) -> ModelLoad:
    rates = [load.per_minute for load in (one, other) if load.per_minute is not None]
    return ModelLoad(
        model=one.model,
        in_flight=one.in_flight + other.in_flight,
        waiting=one.waiting or other.waiting,
        per_minute=sum(rates) if rates else None,
        out=one.out or other.out,
    )


class Ages:
    """The running partitions of a run that a command looks at again and again. Those that have just begun are not worth
    a query: many are small, and over by the next look."""

    def __init__(self) -> None:
        self._seen: dict[str, float] = {}

    def old_enough(self, running: Sequence[str], now: float) -> list[str]:
        """Return the partitions to query, by what is running at a time in seconds."""
        self._seen = {partition: self._seen.get(partition, now) for partition in running}
        if len(running) <= _FEW:
            return list(running)
        return [partition for partition, first in self._seen.items() if now - first >= _YOUNG_S]


async def work_in_progress(client: Client, run: Run, progress: Progress, ages: Ages | None = None) -> WorkInProgress:
    """Ask the running partitions of a run, some at most. `ages`: of one who looks again and again."""
    work = WorkInProgress(progress)
    running = _own_partitions(progress)
    queried = (ages.old_enough(running, time.monotonic()) if ages is not None else running)[:_MOST_QUERIED]
    work.whole = len(queried) == len(running)
    for partition in queried:
        handle = client.get_workflow_handle(ids.partition_workflow_id(run.ref.pipeline, run.ref.sink, partition))
        with contextlib.suppress(RPCError, WorkflowQueryFailedError):  # no worker answers just now, or not this one
            await work.add(handle)
    return work


def _own_partitions(progress: Progress) -> list[str]:
    """Return running partitions, without held ones: the workflow with a held one's id belongs to another run."""
    return [partition for partition in progress.running if partition not in progress.held]


_OF_BATCHES = (ENRICH.name, OPEN.name)  # which enriches small partitions, too
_OF_EARLIER_VERSIONS = 3  # rows, calls and cost, without the message


async def _heartbeats(description: WorkflowExecutionDescription) -> list[Heartbeat]:
    """Return the last heartbeat of each running batch."""
    heartbeats = []
    for pending in description.raw_description.pending_activities:
        if pending.activity_type.name not in _OF_BATCHES or not pending.HasField("heartbeat_details"):
            continue
        payloads = pending.heartbeat_details.payloads
        if len(payloads) != _OF_EARLIER_VERSIONS:
            heartbeats += await description.data_converter.decode(payloads[-1:], [Heartbeat])
        else:
            rows, calls, cost_usd = await description.data_converter.decode(payloads, [int, int, float])
            heartbeats.append(Heartbeat(rows=rows, calls=calls, cost_usd=cost_usd))
    return heartbeats
