"""ScheduledWorkflow: one firing of a schedule.

    ask (the request of a run named after the scheduled time, or nothing to do) → that run, as a child

It stays open as long as its run, so that the schedule's overlap policy applies to runs.
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
_AGAIN = timedelta(hours=1)  # how often a failed run is tried again although no new file came


@workflow.defn
class ScheduledWorkflow:
    @workflow.run
    async def run(self, firing: ScheduledInput) -> ScheduledResult:
        info = workflow.info()
        time = info.typed_search_attributes.get(SCHEDULED_AT) or info.start_time.replace(microsecond=0)
        last = workflow.get_last_completion_result(ScheduledResult) if workflow.has_last_completion_result() else None
        request = FiringRequest(
            ref=firing.ref,
            spec=firing.spec,
            base=firing.base,
            at=time,
            since=last.at if last is not None and last.at < time else None,
            lookback=firing.terms.lookback,
            when=firing.terms.when,
            seen=_seen(last, time),
        )
        decision = await call(ASK, request)
        if not decision.run:
            workflow.set_current_details(decision.note)
            result = last or ScheduledResult(at=time)
            return result.model_copy(update={"at": time, "run": "", "listing": decision.listing, "note": decision.note})
        workflow.set_current_details(f"the run {decision.run}{'; ' if decision.note else ''}{decision.note}")
        state = await self._run(firing, decision.run)
        if state == "failed" and firing.terms.pause_on_failure:
            raise ApplicationError(f"the run {decision.run} failed", type="RunFailed", non_retryable=True)
        return ScheduledResult.model_validate(
            {
                "at": time,
                "run": decision.run,
                "state": state,
                "listing": decision.listing,
                "tried_at": time,
                "note": decision.note,
            }
        )

    async def _run(self, firing: ScheduledInput, run: str) -> str:
        ref = firing.ref.model_copy(update={"run": run})
        try:
            result = await workflow.execute_child_workflow(
                RunWorkflow.run,
                RunInput(ref=ref, request=ids.request(run), task_queue=firing.task_queue, waits=False),
                id=ids.run_workflow_id(ref.pipeline, ref.sink, run),
                id_reuse_policy=WorkflowIDReusePolicy.ALLOW_DUPLICATE,
                parent_close_policy=workflow.ParentClosePolicy.REQUEST_CANCEL,
                cancellation_type=workflow.ChildWorkflowCancellationType.WAIT_CANCELLATION_COMPLETED,
                search_attributes=_attributes(ref) if firing.attributes else None,
                priority=fair_share(ref),
                static_summary=f"{ref.pipeline}: {run}",
            )
        except WorkflowAlreadyStartedError:
            return "running"  # it was started by its name, and is followed elsewhere
        assert isinstance(result, RunResult)
        return result.state


def _seen(last: ScheduledResult | None, scheduled_at: datetime) -> str:
    """Return the listing that needs no run any more: the last one, unless its run failed some time ago."""
    if last is None:
        return ""
    failed = last.state != "completed" and last.tried_at is not None
    return "" if failed and last.tried_at is not None and scheduled_at - last.tried_at >= _AGAIN else last.listing


def _attributes(ref: RunRef) -> TypedSearchAttributes:
    known = {"TandemPipeline": ref.pipeline, "TandemRun": ref.run, STATE.name: "running"}
    pairs = [SearchAttributePair(SearchAttributeKey.for_keyword(name), value) for name, value in known.items()]
    return TypedSearchAttributes(pairs)
