"""ScheduledWorkflow: one firing of a schedule.

    ask (the request of a run named after the scheduled time, or nothing to do) → that run, as a child

It is open as long as its run is, so that the schedule's overlap policy speaks of runs.
"""

from datetime import datetime, timedelta

from temporalio import workflow
from temporalio.common import SearchAttributeKey, SearchAttributePair, TypedSearchAttributes, WorkflowIDReusePolicy
from temporalio.exceptions import ApplicationError, WorkflowAlreadyStartedError

with workflow.unsafe.imports_passed_through():
    from pipeline.workflows.activity_calls import ASK, call
    from pipeline.workflows.policies import fair_share
    from pipeline.workflows.run import STATE, RunWorkflow
    from schemas import ids
    from schemas.messages.base import RunRef
    from schemas.messages.run import RunInput, RunResult
    from schemas.messages.schedule import FiringRequest, ScheduledInput, ScheduledResult


SCHEDULED_AT = SearchAttributeKey.for_datetime("TemporalScheduledStartTime")
_AGAIN = timedelta(hours=1)  # what failed is tried again so often though no new file came


@workflow.defn
class ScheduledWorkflow:
    @workflow.run
    async def run(self, given: ScheduledInput) -> ScheduledResult:
        info = workflow.info()
        at = info.typed_search_attributes.get(SCHEDULED_AT) or info.start_time.replace(microsecond=0)
        last = workflow.get_last_completion_result(ScheduledResult) if workflow.has_last_completion_result() else None
        request = FiringRequest(
            ref=given.ref,
            spec=given.spec,
            base=given.base,
            at=at,
            since=last.at if last is not None and last.at < at else None,
            lookback=given.terms.lookback,
            when=given.terms.when,
            seen=_seen(last, at),
        )
        asked = await call(ASK, request)
        if not asked.run:
            workflow.set_current_details(asked.note)
            known = last or ScheduledResult(at=at)
            return known.model_copy(update={"at": at, "run": "", "listing": asked.listing, "note": asked.note})
        workflow.set_current_details(f"the run {asked.run}")
        state = await self._run(given, asked.run)
        if state == "failed" and given.terms.pause_on_failure:
            raise ApplicationError(f"the run {asked.run} failed", type="RunFailed", non_retryable=True)
        return ScheduledResult.model_validate(
            {"at": at, "run": asked.run, "state": state, "listing": asked.listing, "tried_at": at}
        )

    async def _run(self, given: ScheduledInput, run: str) -> str:
        ref = given.ref.model_copy(update={"run": run})
        try:
            result = await workflow.execute_child_workflow(
                RunWorkflow.run,
                RunInput(ref=ref, request=ids.request(run), task_queue=given.task_queue, waits=False),
                id=ids.run_workflow_id(ref.pipeline, ref.sink, run),
                id_reuse_policy=WorkflowIDReusePolicy.ALLOW_DUPLICATE,
                parent_close_policy=workflow.ParentClosePolicy.REQUEST_CANCEL,
                cancellation_type=workflow.ChildWorkflowCancellationType.WAIT_CANCELLATION_COMPLETED,
                search_attributes=_attributes(ref) if given.attributes else None,
                priority=fair_share(ref),
                static_summary=f"{ref.pipeline}: {run}",
            )
        except WorkflowAlreadyStartedError:
            return "running"  # somebody has asked for it by its name, and follows it
        assert isinstance(result, RunResult)
        return result.state


def _seen(last: ScheduledResult | None, at: datetime) -> str:
    """The listing that needs no run any more: that of the last one, unless it failed some time ago."""
    if last is None:
        return ""
    failed = last.state != "completed" and last.tried_at is not None
    return "" if failed and last.tried_at is not None and at - last.tried_at >= _AGAIN else last.listing


def _attributes(ref: RunRef) -> TypedSearchAttributes:
    known = {"TandemPipeline": ref.pipeline, "TandemRun": ref.run, STATE.name: "running"}
    pairs = [SearchAttributePair(SearchAttributeKey.for_keyword(name), value) for name, value in known.items()]
    return TypedSearchAttributes(pairs)
