"""Partitions that another run is at work on: they are waited for, outside of the window, until it is done."""

import asyncio
import contextlib
from datetime import timedelta

from temporalio import workflow
from temporalio.exceptions import ActivityError, FailureError, is_cancelled_exception

with workflow.unsafe.imports_passed_through():
    from pipeline.workflows.activity_calls import HOLDER, call
    from pipeline.workflows.policies import SHORT
    from schemas import ids
    from schemas.messages.base import RunRef
    from schemas.messages.partition import HolderRequest


# The holder tells us when it is done; asking again is for one that was terminated and tells nobody.
_PATIENCE = timedelta(minutes=1)
_LONGEST = timedelta(hours=1)
_ENDS_WITHIN = timedelta(seconds=1)  # it tells us as the last thing that it does


class HeldPartitions:
    def __init__(self, ref: RunRef) -> None:
        self.partitions: set[str] = set()
        self._ref = ref
        self._patience: dict[str, timedelta] = {}  # of those that were held, too
        self._freed: set[str] = set()

    def release(self, partition: str) -> None:
        """It is tried again."""
        self.partitions.discard(partition)

    def forget(self, partition: str) -> None:
        """It has ended."""
        self.release(partition)
        self._patience.pop(partition, None)

    def freed(self, partition: str) -> None:
        """Its holder says that it is done."""
        self._freed.add(partition)

    async def holder(self, partition: str) -> str:
        """The name of the run that holds it, as far as it can be told."""
        request = HolderRequest(ref=self._ref, partition=partition)
        try:
            found = await call(HOLDER, request, within=SHORT)
        except ActivityError as exc:
            if is_cancelled_exception(exc):
                raise asyncio.CancelledError from None
            return "another run"
        return found.run or "another run"

    async def wait(self, partition: str) -> None:
        """Ask the holder to tell us when it is done, and wait for that, though not for ever: longer each time. It is
        held until it is released."""
        self.partitions.add(partition)
        patience = self._patience.setdefault(partition, _PATIENCE)
        self._patience[partition] = min(2 * patience, _LONGEST)
        self._freed.discard(partition)
        name = ids.partition_workflow_id(self._ref.pipeline, self._ref.sink, partition)
        try:
            await workflow.get_external_workflow_handle(name).signal("wanted_by", workflow.info().workflow_id)
        except FailureError as exc:
            if is_cancelled_exception(exc):
                raise asyncio.CancelledError from None
            return  # it has ended meanwhile
        with contextlib.suppress(asyncio.TimeoutError):
            await workflow.wait_condition(lambda: partition in self._freed, timeout=patience)
            await workflow.sleep(_ENDS_WITHIN)
