"""Runs, partitions and batches as spans with their real length, written once by the process that runs the workflows.

Workflow code knows nothing of it, and no command of a workflow depends on it: times are the workflow's own, a span is
handed to an external function when what it is about has ended, and never while a history is replayed.
"""

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from temporalio import workflow
from temporalio.exceptions import is_cancelled_exception
from temporalio.worker import (
    ExecuteWorkflowInput,
    Interceptor,
    StartActivityInput,
    WorkflowInboundInterceptor,
    WorkflowInterceptorClassInput,
    WorkflowOutboundInterceptor,
)

from pipeline.telemetry.traces import place
from pipeline.telemetry.traces.place import Place
from pipeline.telemetry.traces.tracer import Span, Tracer
from schemas.messages.base import RunRef
from schemas.messages.batch import BatchRequest, BatchResult
from schemas.messages.partition import Opened, OpenRequest, PartitionInput, PartitionResult
from schemas.messages.run import RunInput, RunResult

_EXTERN = "tandem_spans"
_BATCH = "enrich_batch"


class WorkflowSpans(Interceptor):
    """An interceptor for the worker of workflows."""

    def __init__(self, tracer: Tracer) -> None:
        self._tracer = tracer

    def workflow_interceptor_class(
        self, input: WorkflowInterceptorClassInput
    ) -> type[WorkflowInboundInterceptor] | None:
        input.unsafe_extern_functions[_EXTERN] = self._tracer.emit
        return _Inbound


class _Inbound(WorkflowInboundInterceptor):
    def init(self, outbound: WorkflowOutboundInterceptor) -> None:
        super().init(_Outbound(outbound))

    async def execute_workflow(self, input: ExecuteWorkflowInput) -> Any:
        began, request = workflow.info().start_time, input.args[0] if input.args else None
        try:
            result = await super().execute_workflow(input)
        except workflow.ContinueAsNewError:
            raise  # the next execution is the same run
        except BaseException as exc:
            _emit(_of_workflow(request, None), began, "cancelled" if is_cancelled_exception(exc) else _class_of(exc))
            raise
        _emit(_of_workflow(request, result), began, "")
        return result


class _Outbound(WorkflowOutboundInterceptor):
    """Notes when each batch was begun: by its first activity, of maybe several."""

    def __init__(self, next: WorkflowOutboundInterceptor) -> None:
        super().__init__(next)
        self._began: dict[int, datetime] = {}

    def start_activity(self, input: StartActivityInput) -> workflow.ActivityHandle[Any]:
        handle = super().start_activity(input)
        request = input.args[0] if input.args else None
        if input.activity == _BATCH and isinstance(request, BatchRequest):
            self._began.setdefault(request.batch, workflow.now())
            handle.add_done_callback(lambda ended: self._batch_ended(request, *_end_of(ended)))
        elif isinstance(request, OpenRequest) and request.onward:
            self._began[0] = workflow.now()
            handle.add_done_callback(lambda ended: self._opened(request, *_end_of(ended)))
        return handle

    def _opened(self, request: OpenRequest, error: str, result: Any) -> None:
        """Note the end of a batch that was run when its partition was opened; without anything to do, there is none."""
        batch = BatchRequest(
            ref=request.ref, plan=request.plan, partition=request.partition, opened="", batch=0
        )  # fmt: skip
        onward = result.onward if isinstance(result, Opened) else None
        if error or onward is not None:
            self._batch_ended(batch, error, onward.batch if onward is not None else None)
        else:
            self._began.pop(0, None)

    def _batch_ended(self, request: BatchRequest, error: str, result: Any) -> None:
        if isinstance(result, BatchResult) and result.state != "done":
            return  # it is not over: the same batch is begun again
        began = self._began.pop(request.batch, None)
        if began is not None:
            _emit(_of_batch(request, result), began, error)


def _end_of(ended: Any) -> tuple[str, Any]:
    """Return the class of an activity's error, empty without one, and its result."""
    if ended.cancelled():
        return "cancelled", None
    if (exc := ended.exception()) is not None:
        return "cancelled" if is_cancelled_exception(exc) else _class_of(exc), None
    return "", ended.result()


@dataclass(frozen=True)
class _Work:
    """What a span is about."""

    name: str
    place: Place
    parent: Place | None
    attributes: dict[str, Any]
    error: str = ""


def _of_workflow(request: Any, result: Any) -> _Work | None:
    if isinstance(request, PartitionInput):
        return _of_partition(request, result)
    return _of_run(request, result) if isinstance(request, RunInput) else None


def _of_run(request: RunInput, result: Any) -> _Work:
    known: dict[str, Any] = {}
    if isinstance(result, RunResult):
        totals = result.totals
        known = {"tandem.run.state": result.state, **_counts(totals.counts), **{
            f"tandem.partitions.{name}": getattr(totals, name)
            for name in ("total", "published", "unchanged", "failed", "cancelled", "not_run")
        }}  # fmt: skip
    failed = known.get("tandem.run.state") in ("failed", "cancelled")
    return _Work(
        "run", place.of_run(request.ref), None, {**_of_ref(request.ref), **known},
        str(known["tandem.run.state"]) if failed else "",
    )  # fmt: skip


def _of_partition(request: PartitionInput, result: Any) -> _Work:
    ref, known, error = request.ref, dict[str, Any](), ""
    if isinstance(result, PartitionResult):
        known = {"tandem.partition.outcome": result.outcome, **_counts(result.counts)}
        error = result.error
    here = place.of_partition(ref, request.partition)
    return _Work(
        "partition", here, place.of_run(ref), {**_of_ref(ref), "tandem.partition": request.partition, **known}, error
    )


def _of_batch(request: BatchRequest, result: Any) -> _Work:
    ref, known = request.ref, dict[str, Any]()
    if isinstance(result, BatchResult):
        known = {"tandem.rows.in": result.rows, "tandem.rows.rejected": result.rejected}
    attributes = {**_of_ref(ref), "tandem.partition": request.partition, "tandem.batch": request.batch, **known}
    here = place.of_batch(ref, request.partition, request.batch)
    return _Work("batch", here, place.of_partition(ref, request.partition), attributes)


def _of_ref(ref: RunRef) -> dict[str, Any]:
    return {"tandem.pipeline": ref.pipeline, "tandem.run": ref.run}


def _counts(counts: Any) -> dict[str, int]:
    names = {"rows_in": "in", "ok": "ok", "rejected": "rejected", "filtered": "filtered", "pending": "pending"}
    return {f"tandem.rows.{name}": getattr(counts, field) for field, name in names.items()}


def _class_of(exc: BaseException) -> str:
    """Return the class of the error behind an error of Temporal's."""
    cause: BaseException = exc
    while (inner := getattr(cause, "cause", None)) is not None:
        cause = inner
    return str(getattr(cause, "type", None) or type(cause).__name__)


def _emit(work: _Work | None, began: datetime, error: str) -> None:
    emit: Callable[[Span], None] | None = workflow.extern_functions().get(_EXTERN)
    if work is None or emit is None or workflow.unsafe.is_replaying():
        return
    emit(
        Span(
            work.name, work.parent, _ns(began), _ns(workflow.now()), work.attributes, place=work.place,
            error=error or work.error,
        )
    )  # fmt: skip


def _ns(time: datetime) -> int:
    return round(time.timestamp() * 1_000_000) * 1_000
