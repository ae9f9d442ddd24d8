"""LimiterWorkflow: one limit of a provider, shared by the workers of a namespace.

A worker requests its share by update and renews it every few seconds; a share that is not renewed is free once its
lease is over. The workflow ends when no worker holds a share: the next worker starts it again.
"""

from datetime import timedelta

from temporalio import workflow

with workflow.unsafe.imports_passed_through():
    from pipeline.workflows.limits.shares import LEASE_S, Shares
    from schemas.messages.limits import Lease, LeaseRequest, LimiterInput

_UPDATES = 500  # Temporal refuses more than 2,000 an execution
_AGE = timedelta(minutes=5)  # well within the execution's timeout, which ends a limiter that no worker serves


@workflow.defn
class LimiterWorkflow:
    @workflow.init
    def __init__(self, state: LimiterInput) -> None:
        self._shares = Shares(state)
        self._updates = 0

    @workflow.run
    async def run(self, state: LimiterInput) -> None:
        began = workflow.now()
        while not self._full() and workflow.now() - began < _AGE:
            try:
                await workflow.wait_condition(
                    lambda: self._full() or (self._updates > 0 and not self._shares.holders),
                    timeout=timedelta(seconds=LEASE_S),
                )
            except TimeoutError:
                self._shares.expire(_seconds())
            if not self._shares.holders:
                await workflow.wait_condition(workflow.all_handlers_finished)
                return
        await workflow.wait_condition(workflow.all_handlers_finished)
        workflow.continue_as_new(self._shares.carried())

    def _full(self) -> bool:
        return self._updates >= _UPDATES or workflow.info().is_continue_as_new_suggested()

    @workflow.update
    def lease(self, request: LeaseRequest) -> Lease:
        self._updates += 1
        lease = self._shares.lease(request, _seconds())
        holders = self._shares.holders
        workflow.set_current_details(f"{len(holders)} workers share this limit")
        return lease


def _seconds() -> float:
    return workflow.now().timestamp()
