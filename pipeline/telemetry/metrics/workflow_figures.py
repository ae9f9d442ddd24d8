"""Figures that only workflows know: outcomes as the report has them, the backlog, questions to people.

They arrive through an external function of the worker, and carry ids of workflows, which end here: only sums are shown.
"""

from collections.abc import Iterable
from typing import Any

from temporalio.worker import Interceptor, WorkflowInboundInterceptor, WorkflowInterceptorClassInput

from pipeline.telemetry.metrics.catalogue import HITS, ROW_OUTCOMES
from pipeline.telemetry.metrics.recorder import Gauge, Recorder
from pipeline.workflows.live_figures import LISTENER
from schemas.messages.jobs import JOB_STATES
from schemas.messages.partition import PartitionResult

_FIGURES = ("rows_left", "rows_done", "questions", "over_budget")
_JOBS = tuple(f"jobs_{state}" for state in JOB_STATES)


class WorkflowFigures(Interceptor):
    """Hears of the workflows of one worker, and records their figures."""

    def __init__(self, recorder: Recorder) -> None:
        self._recorder = recorder
        self._gauges: dict[str, dict[str, int]] = {name: {} for name in (*_FIGURES, *_JOBS)}
        recorder.gauges.append(self._sums)

    def workflow_interceptor_class(
        self, input: WorkflowInterceptorClassInput
    ) -> type[WorkflowInboundInterceptor] | None:
        input.unsafe_extern_functions[LISTENER] = self._hear
        return None

    def _hear(self, event: str, value: Any) -> None:
        if event == "partition_ended":
            self._count(value)
            return
        workflow, number = value
        if number:
            self._gauges[event][workflow] = number
        else:
            self._gauges[event].pop(workflow, None)

    def _count(self, result: PartitionResult) -> None:
        recorder = self._recorder
        recorder.count("tandem_partitions_total", {"outcome": result.outcome})
        for outcome in ROW_OUTCOMES:
            if rows := getattr(result.counts, outcome):
                recorder.count("tandem_rows_total", {"outcome": outcome}, rows)
        for kind in HITS:
            if hits := getattr(result.reuse, kind):
                recorder.count("tandem_journal_hits_total", {"kind": kind}, hits)

    def _sums(self) -> Iterable[Gauge]:
        left, done, questions, over_budget = (sum(tuple(self._gauges[name].values())) for name in _FIGURES)
        yield "tandem_backlog_rows", {}, max(0, left - done)
        yield "tandem_reviews_pending", {}, questions
        for state, name in zip(JOB_STATES, _JOBS, strict=True):
            yield "tandem_jobs", {"state": state}, sum(tuple(self._gauges[name].values()))
        if over_budget:  # no process has it open then
            yield "tandem_budget_used_ratio", {}, 1.0
