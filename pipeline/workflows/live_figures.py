"""Figures of runs and partitions for the metrics of the process that works on them. Nothing here changes a workflow: it
is no command, and without a listener nothing is computed.

A listener is an external function of the workflow's worker (`pipeline.telemetry.metrics.workflow_figures`).
"""

from collections.abc import Callable
from functools import partial
from typing import Any

from temporalio import workflow

with workflow.unsafe.imports_passed_through():
    from schemas.messages.jobs import JOB_STATES, JobNews
    from schemas.messages.partition import PartitionResult
    from schemas.messages.run import PlanRef, Totals

LISTENER = "tandem_figures"


def partition_ended(result: PartitionResult) -> None:
    """Count the outcome of a partition, once: not when its history is replayed."""
    if not workflow.unsafe.is_replaying():
        _tell("partition_ended", lambda: result)


def run_goes_on(plan: PlanRef | None, totals: Totals, questions: int, *, over_budget: bool) -> None:
    """Set the rows of a run in partitions that have not ended, the number of questions that it waits for, and whether
    its budget has stopped it."""
    left = plan.rows - totals.counts.rows_in if plan is not None else 0
    _tell("rows_left", lambda: (workflow.info().workflow_id, max(0, left)))
    _tell("questions", lambda: (workflow.info().workflow_id, questions))
    _tell("over_budget", lambda: (workflow.info().workflow_id, int(over_budget)))


def jobs_are(news: JobNews) -> None:
    """Set the provider jobs of a pool that are out, by state."""
    jobs = f"{workflow.info().workflow_id} {news.pool}"
    for state in JOB_STATES:
        _tell(f"jobs_{state}", partial(_number_of, jobs, news.states.get(state, 0)))


def _number_of(name: str, number: int) -> tuple[str, int]:
    return name, number


def run_ended() -> None:
    """End the figures of a run."""
    for figure in ("rows_left", "questions", "over_budget"):
        _tell(figure, lambda: (workflow.info().workflow_id, 0))


def rows_done(rows: int) -> None:
    """Set the rows of a partition in batches that have ended; 0 once it is no longer among those left."""
    _tell("rows_done", lambda: (workflow.info().workflow_id, rows))


def _tell(event: str, value: Callable[[], Any]) -> None:
    listener = workflow.extern_functions().get(LISTENER)
    if listener is not None:
        listener(event, value())
