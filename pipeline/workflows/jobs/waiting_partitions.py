"""The partitions of a run that wait for provider jobs, and the workflows of these jobs, one a pool.

A partition that waits has no child: what it waits for lies in the sink, and it is begun again once its answers are in
the journal. The workflows of jobs outlive a continue-as-new of the run; they are signalled by their ids.
"""

import contextlib
from datetime import UTC, datetime, timedelta
from typing import Any

from temporalio import workflow
from temporalio.common import WorkflowIDReusePolicy
from temporalio.exceptions import FailureError, WorkflowAlreadyStartedError

with workflow.unsafe.imports_passed_through():
    from pipeline.workflows.jobs.workflow import JobsWorkflow
    from schemas import ids
    from schemas.messages.base import RunRef
    from schemas.messages.jobs import (
        JobAnswers,
        JobNews,
        JobsInput,
        JobsResult,
        JobTerms,
        Late,
        ParkedCalls,
        ParkedPartitionCalls,
        Waves,
    )
    from schemas.messages.run import PlannedPartition, PlanRef, WaitingPartition

_TRIES = 3  # to signal a workflow that may end just then
_LAST_WORDS = timedelta(minutes=20)  # that jobs have to be cancelled by their provider
_ENDS_WITHIN = timedelta(seconds=1)  # after its last signal
_FROM_BEST: tuple[Late, ...] = ("next-job", "standard", "reject")


class WaitingPartitions:
    """`partitions`: those that wait, by key; `news`: what is out, by pool."""

    def __init__(self, ref: RunRef) -> None:
        self.partitions: dict[str, WaitingPartition] = {}
        self.news: dict[str, JobNews] = {}
        self.pools: set[str] = set()  # that have a workflow
        self._ref = ref
        self._answers: dict[tuple[str, str], Late] = {}  # by partition and pool
        self._ended: set[str] = set()
        self._said_nothing_else: set[str] = set()
        self._handles: dict[str, workflow.ChildWorkflowHandle[JobsWorkflow, JobsResult]] = {}
        self._paused = False
        self.handing_over = 0  # partitions whose calls are not with the jobs yet

    # Of a partition -------------------------------------------------------------------------------------------------

    def resume(self, waiting: WaitingPartition) -> None:
        """Take over a partition that waited in the execution before this one."""
        self.partitions[waiting.partition.key] = waiting

    async def park(self, planned: PlannedPartition, waves: Waves, parked: ParkedCalls, plan: PlanRef) -> None:
        """Hand the calls of a partition to the jobs of their pools."""
        key = planned.key
        for pool in parked.pools:
            self._answers.pop((key, pool), None)
            self._said_nothing_else.discard(pool)
        self.partitions[key] = WaitingPartition(partition=planned, waves=waves, pools=parked.pools, calls=parked.calls)
        self.handing_over += 1
        try:
            for pool in parked.pools:
                await self._tell(pool, plan, "parked_calls", ParkedPartitionCalls(partition=key, parked=parked))
        finally:
            self.handing_over -= 1

    async def answered(self, key: str) -> Waves:
        """Wait until all calls of a partition are over. Returns its next wave."""
        waiting = self.partitions[key]
        await workflow.wait_condition(lambda: all((key, pool) in self._answers for pool in waiting.pools))
        late = self._late(waiting, waiting.pools)
        return waiting.waves.model_copy(update={"wave": waiting.waves.wave + 1, "late": late})

    def forget(self, key: str) -> None:
        self.partitions.pop(key, None)

    def carried(self) -> tuple[WaitingPartition, ...]:
        """Return the partitions that wait, for the next execution."""
        carried = []
        for key, waiting in self.partitions.items():
            over = tuple(pool for pool in waiting.pools if (key, pool) in self._answers)
            left = tuple(pool for pool in waiting.pools if pool not in over)
            carried.append(waiting.model_copy(update={"pools": left, "late": self._late(waiting, over)}))
        return tuple(carried)

    def _late(self, waiting: WaitingPartition, pools: tuple[str, ...]) -> Late:
        found = [self._answers[waiting.partition.key, pool] for pool in pools]
        return max([waiting.late, *found], key=_FROM_BEST.index)

    # From the jobs --------------------------------------------------------------------------------------------------

    def note_answers(self, answers: JobAnswers) -> None:
        for partition in answers.partitions:
            self._answers[partition, answers.pool] = answers.late

    def note_end(self, pool: str) -> None:
        self._ended.add(pool)
        self.news.pop(pool, None)

    # To the jobs ----------------------------------------------------------------------------------------------------

    async def say_nothing_else(self) -> None:
        """Signal the pools that wait for more calls that none will come."""
        for pool in sorted(self.pools - self._said_nothing_else):
            self._said_nothing_else.add(pool)
            await self._signal(pool, "nothing_else")

    async def pause(self, paused: bool) -> None:
        self._paused = paused
        for pool in sorted(self.pools):
            await self._signal(pool, "pause", paused)

    async def funded(self, pool: str) -> None:
        await self._signal(pool, "funded")

    async def stop(self, how: str) -> None:
        """End the workflows of the jobs: `end`, or `cancel` those that are out and keep what they have answered."""
        for pool in sorted(self.pools):
            await self._signal(pool, "stop", how)
        with contextlib.suppress(TimeoutError):
            await workflow.wait_condition(lambda: self.pools <= self._ended, timeout=_LAST_WORDS)
        for pool in sorted(self._handles.keys() & self._ended):
            with contextlib.suppress(FailureError):
                await self._handles[pool]
        if self.pools - self._handles.keys():
            await workflow.sleep(_ENDS_WITHIN)

    async def _tell(self, pool: str, plan: PlanRef, signal: str, *arguments: Any) -> None:
        """Signal the workflow of a pool's jobs, and start it where there is none."""
        for _ in range(_TRIES):
            if pool not in self.pools or pool in self._ended:
                await self._start(pool, plan)
            if await self._signal(pool, signal, *arguments):
                return
            self.pools.discard(pool)

    async def _start(self, pool: str, plan: PlanRef) -> None:
        inputs = JobsInput(
            ref=self._ref, plan=plan.key, pool=pool, terms=plan.jobs or JobTerms(),
            run_workflow=workflow.info().workflow_id,
        )  # fmt: skip
        attributes = workflow.info().typed_search_attributes
        with contextlib.suppress(WorkflowAlreadyStartedError):
            self._handles[pool] = await workflow.start_child_workflow(
                JobsWorkflow.run,
                inputs,
                id=self._id(pool),
                task_timeout=workflow.info().task_timeout,
                id_reuse_policy=WorkflowIDReusePolicy.ALLOW_DUPLICATE,
                # It goes on while its run continues as new, and keeps what is out if its run is killed.
                parent_close_policy=workflow.ParentClosePolicy.ABANDON,
                search_attributes=attributes if len(attributes) else None,
            )
        self.pools.add(pool)
        self._ended.discard(pool)
        if self._paused:
            await self._signal(pool, "pause", True)

    async def _signal(self, pool: str, signal: str, *arguments: Any) -> bool:
        try:
            await workflow.get_external_workflow_handle(self._id(pool)).signal(signal, args=list(arguments))
        except FailureError:
            self._ended.add(pool)
            return False
        return True

    def _id(self, pool: str) -> str:
        return ids.jobs_workflow_id(self._ref.pipeline, self._ref.sink, self._ref.run, pool)

    # For people -----------------------------------------------------------------------------------------------------

    def text(self) -> str:
        """Return what the run waits for: `3 partitions wait for 2 provider jobs, 120 of 4,000 calls answered, until …`;
        empty if none waits."""
        if not self.partitions:
            return ""
        found = list(self.news.values())
        jobs, requests, done = (sum(getattr(one, name) for one in found) for name in ("jobs", "requests", "done"))
        count = len(self.partitions)
        text = "1 partition waits" if count == 1 else f"{count:,} partitions wait"
        if not jobs:
            return f"{text} for provider jobs, which are being filled"
        text += f" for {jobs:,} provider job{'' if jobs == 1 else 's'}, {done:,} of {requests:,} calls answered"
        deadlines = [one.deadline for one in found if one.deadline is not None]
        if deadlines:
            text += f", until {datetime.fromtimestamp(min(deadlines), UTC):%Y-%m-%d %H:%M} UTC at the latest"
        details = [one.detail for one in found if one.detail]
        return f"{text} ({details[0]})" if details else text
