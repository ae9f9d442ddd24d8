"""Partitions that another run is processing. This run waits for them, outside of its window, until that run is done."""

import asyncio
import contextlib
from datetime import timedelta

from temporalio import workflow
from temporalio.exceptions import ActivityError, FailureError, is_cancelled_exception

with workflow.unsafe.imports_passed_through():
    from pipeline.workflows.activity_calls import HOLDER, call, stop_if_cancel_was_lost
    from pipeline.workflows.policies import SHORT
    from schemas import ids
    from schemas.messages.base import RunRef
    from schemas.messages.partition import HolderRequest


# The holder signals when it is done; a holder that was terminated does not, so the wait ends by itself too.
_PATIENCE = timedelta(minutes=1)
_LONGEST = timedelta(hours=1)
_ENDS_WITHIN = timedelta(seconds=1)  # it signals as its last step


class HeldPartitions:
    def __init__(self, ref: RunRef) -> None:
        self.partitions: set[str] = set()
        self._ref = ref
        self._patience: dict[str, timedelta] = {}  # of those that were held, too
        self._freed: set[str] = set()

    def release(self, partition: str) -> None:
        """Count a partition as held no longer, because it is tried again."""
        self.partitions.discard(partition)

    def forget(self, partition: str) -> None:
        """Remove a partition that has ended."""
        self.release(partition)
        self._patience.pop(partition, None)

    def freed(self, partition: str) -> None:
        """Record that the holder of a partition is done."""
        self._freed.add(partition)

    async def holder(self, partition: str) -> str:
        """Return the name of the run that holds the partition, or "another run" if it is unknown."""
        request = HolderRequest(ref=self._ref, partition=partition)
        try:
            answer = await call(HOLDER, request, within=SHORT)
        except ActivityError as exc:
            if is_cancelled_exception(exc):
                raise asyncio.CancelledError from None
            return "another run"
        return answer.run or "another run"

    async def wait_for_jobs(self, partition: str) -> None:
        """Wait for a partition with which another run waits for provider jobs, each time longer. It counts as held
        until it is released."""
        self.partitions.add(partition)
        patience = self._patience.setdefault(partition, _PATIENCE)
        self._patience[partition] = min(2 * patience, _LONGEST)
        await workflow.sleep(patience)

    async def wait(self, partition: str) -> None:
        """Ask the holder for a signal when it is done, and wait for it, each time longer. The partition counts as held
        until it is released."""
        self.partitions.add(partition)
        patience = self._patience.setdefault(partition, _PATIENCE)
        self._patience[partition] = min(2 * patience, _LONGEST)
        self._freed.discard(partition)
        workflow_id = ids.partition_workflow_id(self._ref.pipeline, self._ref.sink, partition)
        try:
            await workflow.get_external_workflow_handle(workflow_id).signal("wanted_by", workflow.info().workflow_id)
        except FailureError as exc:
            if is_cancelled_exception(exc):
                raise asyncio.CancelledError from None
            return  # it has ended meanwhile
        with contextlib.suppress(asyncio.TimeoutError):
            await workflow.wait_condition(lambda: partition in self._freed, timeout=patience)
            await workflow.sleep(_ENDS_WITHIN)
        stop_if_cancel_was_lost()
