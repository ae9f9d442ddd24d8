"""RowWorkflow: one row of a stage that says `placement: node`. Each step of its graph is an activity of its own, so
that a worker that dies in a tool call of half an hour costs that call and nothing before it.

The result of a step is in the journal; no state of the graph crosses Temporal.
"""

from datetime import timedelta

from temporalio import workflow

with workflow.unsafe.imports_passed_through():
    from pipeline.workflows.activity_calls import STEP_ROW, call, stop_if_cancelled
    from schemas.messages.batch import RowInput, RowResult, Spent

_AGAIN = timedelta(seconds=0.5)
_LONGEST = timedelta(minutes=1)


@workflow.defn
class RowWorkflow:
    @workflow.run
    async def run(self, row: RowInput) -> RowResult:
        pause = _AGAIN
        spent = Spent()
        while True:
            step = await call(STEP_ROW, row, whole=True)
            spent += step.spent
            if step.state == "done":
                return RowResult(spent=spent)
            if step.state == "short":
                return RowResult(short=True, needed=step.needed, spent=spent)
            if step.state == "parked":
                return RowResult(spent=spent, parked_calls=step.parked_calls)
            stop_if_cancelled()
            if step.state == "more":
                pause = _AGAIN
            else:
                until = step.until or workflow.now()
                await workflow.sleep(max(until - workflow.now(), pause))
                pause = min(2 * pause, _LONGEST)
            if workflow.info().is_continue_as_new_suggested():
                workflow.continue_as_new(row)
