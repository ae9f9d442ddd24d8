"""A worker's side of limits that a fleet shares: it requests its share while it calls, and returns it afterwards.

Without an answer it keeps to a static part of the limit, and repeats the request. The limiters of a namespace have a
task queue of their own, so that any process that needs one also serves it."""

import asyncio
import contextlib
import logging
import uuid
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import timedelta
from math import inf

from temporalio.client import Client, RPCError, WithStartWorkflowOperation, WorkflowUpdateFailedError
from temporalio.common import WorkflowIDConflictPolicy, WorkflowIDReusePolicy
from temporalio.worker import Worker, WorkflowRunner

from pipeline.workflows.limiter import LimiterWorkflow
from schemas import ids
from schemas.messages.limits import Lease, LeaseRequest, LimiterInput, PerMinute
from stages.limits.fleet_share import Fleet, Rates
from stages.limits.limiter import Limiters
from stages.limits.provider_queue import ProviderQueue, clock

log = logging.getLogger("tandem.leases")
_AGAIN_S, _SOON_S = 2.0, 0.5
_IDLE_S = 5.0
_ANSWER_S = 4.0
_LONGEST = timedelta(minutes=10)  # an execution that no worker serves any more is ended by the server


class Leases:
    """Requests of shares for the limiters of this process."""

    def __init__(self, client: Client, limiters: Limiters, runner: WorkflowRunner) -> None:
        self._client = client
        self._limiters = limiters
        self._runner = runner
        self._name = uuid.uuid4().hex
        self._needed = asyncio.Event()
        self._kept: dict[str, asyncio.Task[None]] = {}
        limiters.share(self._needed.set)

    async def run(self) -> None:
        """Run until cancelled; then return every share. Nothing is requested or served before a limit is used."""
        await self._needed.wait()
        async with self._serving():
            try:
                while True:
                    self._needed.clear()
                    for key, queue, fleet in self._limiters.shared():
                        if key not in self._kept:
                            self._kept[key] = asyncio.create_task(self._keep(key, queue, fleet))
                    await self._needed.wait()
            finally:
                kept = list(self._kept.values())
                for task in kept:
                    task.cancel()
                await asyncio.gather(*kept, return_exceptions=True)

    @asynccontextmanager
    async def _serving(self) -> AsyncIterator[None]:
        worker = Worker(
            self._client,
            task_queue=ids.LIMITS_QUEUE,
            workflows=[LimiterWorkflow],
            workflow_runner=self._runner,
            max_cached_workflows=20,
        )
        working = asyncio.create_task(worker.run())
        try:
            yield
        finally:
            await worker.shutdown()
            await working

    async def _keep(self, key: str, queue: ProviderQueue, fleet: Fleet) -> None:
        """Hold a share for as long as there are calls."""
        held: Lease | None = None
        try:
            while queue.waiting or clock() - fleet.used_at < _IDLE_S:
                began = clock()
                lease = await self._ask(key, queue, fleet, held)
                if lease is None:
                    await asyncio.sleep(_SOON_S)
                    continue
                share = Rates(*(inf if rate is None else rate for rate in (lease.share.requests, lease.share.tokens)))
                fleet.grant(share, began + lease.seconds / 2)
                queue.dispatch()
                less = held is not None and _less(lease.share, held.share)
                held = lease
                if not less:  # else the others wait for the confirmation of a smaller share
                    await asyncio.sleep(_AGAIN_S if min(share.requests, share.tokens) > 0 else _SOON_S)
        finally:
            del self._kept[key]
            fleet.end_grant()
            if held is not None:
                with contextlib.suppress(TimeoutError, RPCError, WorkflowUpdateFailedError):
                    request = LeaseRequest(worker=self._name, leaving=True)
                    await asyncio.wait_for(self._update(key, request), _ANSWER_S / 2)

    async def _ask(self, key: str, queue: ProviderQueue, fleet: Fleet, held: Lease | None) -> Lease | None:
        demand = fleet.demand(clock())
        request = LeaseRequest(
            worker=self._name,
            limit=_per_minute(queue.limit),
            used=_per_minute(demand.used),
            hungry=demand.hungry,
            holds=held.number if held is not None else 0,
        )
        try:
            return await asyncio.wait_for(self._update(key, request), _ANSWER_S)
        except (TimeoutError, RPCError, WorkflowUpdateFailedError) as exc:
            log.warning("%s: no share of the limit (%s); keeping to a part of it", key, type(exc).__name__)
            return None

    async def _update(self, key: str, request: LeaseRequest) -> Lease:
        start = WithStartWorkflowOperation(
            LimiterWorkflow.run,
            LimiterInput(),
            id=ids.limiter_workflow_id(key),
            task_queue=ids.LIMITS_QUEUE,
            id_conflict_policy=WorkflowIDConflictPolicy.USE_EXISTING,
            id_reuse_policy=WorkflowIDReusePolicy.ALLOW_DUPLICATE,
            run_timeout=_LONGEST,
        )
        lease = await self._client.execute_update_with_start_workflow(
            LimiterWorkflow.lease, request, start_workflow_operation=start
        )
        assert isinstance(lease, Lease)
        return lease


def _per_minute(rates: Rates) -> PerMinute:
    return PerMinute(
        requests=None if rates.requests == inf else rates.requests,
        tokens=None if rates.tokens == inf else rates.tokens,
    )


def _less(share: PerMinute, held: PerMinute) -> bool:
    pairs = ((share.requests, held.requests), (share.tokens, held.tokens))
    return any(now is not None and (before is None or now < 0.95 * before) for now, before in pairs)
