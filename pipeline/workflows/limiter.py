"""LimiterWorkflow: one limit of a provider, shared by the workers of a namespace.

A worker asks by update for its share and asks again every few seconds; a share that is not asked for again is free once
its lease is over. The workflow ends when nobody holds any: the next worker starts it anew.
"""

from datetime import timedelta

from temporalio import workflow

with workflow.unsafe.imports_passed_through():
    from pipeline.workflows.limit_shares import LEASE_S, Shares
    from schemas.messages.limits import Lease, LeaseRequest, LimiterInput

_UPDATES = 500  # Temporal refuses more than 2,000 an execution
_AGE = timedelta(minutes=5)  # well within the execution's timeout, which ends one that no worker serves any more


@workflow.defn
class LimiterWorkflow:
    @workflow.init
    def __init__(self, given: LimiterInput) -> None:
        self._shares = Shares(given)
        self._updates = 0

    @workflow.run
    async def run(self, given: LimiterInput) -> None:
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
    def lease(self, asked: LeaseRequest) -> Lease:
        self._updates += 1
        lease = self._shares.lease(asked, _seconds())
        holders = self._shares.holders
        workflow.set_current_details(f"{len(holders)} workers share this limit")
        return lease


def _seconds() -> float:
    return workflow.now().timestamp()
