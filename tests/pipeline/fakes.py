"""Activities under the real names that only remember and answer: workflows are tested by what they ask for."""

from __future__ import annotations

import asyncio
import datetime as dt
import sys
import uuid
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from temporalio import activity
from temporalio.client import Client, WorkflowHandle
from temporalio.contrib.pydantic import pydantic_data_converter
from temporalio.exceptions import ApplicationError
from temporalio.testing import WorkflowEnvironment
from temporalio.worker import Worker

from pipeline.workflows.jobs.workflow import JobsWorkflow
from pipeline.workflows.partition import PartitionWorkflow
from pipeline.workflows.policies import fair_share
from pipeline.workflows.row import RowWorkflow
from pipeline.workflows.run import RunWorkflow
from pipeline.workflows.schedule import ScheduledWorkflow
from schemas import ids
from schemas.jobs import JobEnd, JobState
from schemas.manifest import Counts, Usage
from schemas.messages.base import Concurrency, RunRef
from schemas.messages.batch import BatchRequest, BatchResult, RowInput, StepResult
from schemas.messages.jobs import (
    CancelJobs,
    CancelledJobs,
    FormedJobs,
    FormRequest,
    JobProgress,
    JobRequest,
    JobTerms,
)
from schemas.messages.partition import (
    Answers,
    AnswersRequest,
    CloseRequest,
    Holder,
    HolderRequest,
    Opened,
    OpenRequest,
    PartitionInput,
    PartitionResult,
    PublishRequest,
)
from schemas.messages.run import (
    BudgetCheck,
    BudgetVerdict,
    FinaliseRequest,
    Notified,
    NotifyRequest,
    Page,
    PageRequest,
    PlannedPartition,
    PlanRef,
    PlanRequest,
    RunInput,
    RunOptions,
    RunResult,
    SetLimits,
    SetLimitsRequest,
)
from schemas.messages.schedule import FiringDecision, FiringRequest
from tests.harness.sandbox import sandbox

ROWS = 10
T = TypeVar("T")
Hook = Callable[..., Awaitable[Any]]


def failed(kind: str, message: str = "no") -> ApplicationError:
    return ApplicationError(message, type=kind, non_retryable=True)


def planned(*keys: str, run: bool = True) -> list[PlannedPartition]:
    return [PlannedPartition(key=key, run=run, rows=ROWS) for key in keys]


@dataclass
class Fakes:
    """`on` replaces what an activity does, for one partition (`name:partition`) or all of that name. It is given the
    request and the how-maniest call this is for its partition and batch, and may return None for the usual answer."""

    pages: Sequence[Sequence[PlannedPartition]] = ()
    canary: Sequence[PlannedPartition] = ()
    batches: int = 2
    windows: Concurrency = field(default_factory=Concurrency)
    on: dict[str, Hook] = field(default_factory=dict)
    jobs: JobTerms | None = None
    calls: list[tuple[str, Any]] = field(default_factory=list)
    at: list[tuple[str, dt.datetime]] = field(default_factory=list)
    running: Counter[str] = field(default_factory=Counter)
    most: Counter[str] = field(default_factory=Counter)

    def of(self, name: str, partition: str | None = None) -> list[Any]:
        return [said for called, said in self.calls if called == name and partition in (None, _partition(said))]

    async def _do(self, name: str, request: Any, usual: Any) -> Any:
        self.calls.append((name, request))
        self.at.append((name, activity.info().started_time))
        key = _partition(request)
        batch = getattr(request, "batch", None)
        nth = sum(1 for said in self.of(name, key) if getattr(said, "batch", None) == batch)
        hook = self.on.get(f"{name}:{key}") or self.on.get(name)
        scopes = (name, f"{name}:{key}")
        self.running.update(scopes)
        for scope in scopes:
            self.most[scope] = max(self.most[scope], self.running[scope])
        try:
            said = await hook(request, nth) if hook is not None else None
        finally:
            self.running.subtract(scopes)
        return usual if said is None else said

    @activity.defn
    async def plan(self, request: PlanRequest) -> PlanRef:
        every = [partition for page in self.pages for partition in page]
        usual = PlanRef(
            key="plan.json", plan_id="p", pages=len(self.pages), partitions=len(every),
            to_run=sum(p.run for p in every), rows=sum(p.rows for p in every if p.run), windows=self.windows,
            canary_rows=sum(p.rows for p in self.canary), max_reject_rate=0.5, jobs=self.jobs,
        )  # fmt: skip
        return await self._do("plan", request, usual)  # type: ignore[no-any-return]

    @activity.defn
    async def read_page(self, request: PageRequest) -> Page:
        usual = Page(partitions=tuple([*self.pages, self.canary][request.page]))
        return await self._do("read_page", request, usual)  # type: ignore[no-any-return]

    @activity.defn
    async def open(self, request: OpenRequest) -> Opened:
        usual = Opened(opened=f"open/{request.partition}", base=0, batches=self.batches, rows=ROWS)
        return await self._do("open", request, usual)  # type: ignore[no-any-return]

    @activity.defn
    async def enrich_batch(self, request: BatchRequest) -> BatchResult:
        usual = BatchResult(state="done", receipt=f"receipt-{request.batch}", rows=ROWS // self.batches)
        return await self._do("enrich_batch", request, usual)  # type: ignore[no-any-return]

    @activity.defn
    async def step_row(self, request: RowInput) -> StepResult:
        return await self._do("step_row", request, StepResult(state="done"))  # type: ignore[no-any-return]

    @activity.defn
    async def answers(self, request: AnswersRequest) -> Answers:
        return await self._do("answers", request, Answers(missing=0, given=1))  # type: ignore[no-any-return]

    @activity.defn
    async def publish(self, request: PublishRequest) -> PartitionResult:
        usual = PartitionResult(
            partition=request.partition, outcome="published", generation=1,
            counts=Counts(rows_in=ROWS, ok=ROWS, out=ROWS), usage=Usage(calls=ROWS),
        )  # fmt: skip
        return await self._do("publish", request, usual)  # type: ignore[no-any-return]

    @activity.defn
    async def close(self, request: CloseRequest) -> PartitionResult:
        usual = PartitionResult(
            partition=request.partition, outcome=request.outcome, error=request.error, message=request.message,
            stops_run=request.error == "FatalModelError",
        )  # fmt: skip
        return await self._do("close", request, usual)  # type: ignore[no-any-return]

    @activity.defn
    async def reckon(self, request: BudgetCheck) -> BudgetVerdict:
        return await self._do("reckon", request, BudgetVerdict(go_on=False, message="no money"))  # type: ignore[no-any-return]

    @activity.defn
    async def finalise(self, request: FinaliseRequest) -> RunResult:
        usual = RunResult(state=request.state, report="report.json", totals=request.totals, stop=request.stop)
        return await self._do("finalise", request, usual)  # type: ignore[no-any-return]

    @activity.defn
    async def holder(self, request: HolderRequest) -> Holder:
        return await self._do("holder", request, Holder(run="other"))  # type: ignore[no-any-return]

    @activity.defn
    async def set_limits(self, request: SetLimitsRequest) -> SetLimits:
        return await self._do("set_limits", request, request.limits)  # type: ignore[no-any-return]

    @activity.defn
    async def notify(self, request: NotifyRequest) -> Notified:
        return await self._do("notify", request, Notified())  # type: ignore[no-any-return]

    @activity.defn
    async def ask(self, request: FiringRequest) -> FiringDecision:
        return await self._do("ask", request, FiringDecision())  # type: ignore[no-any-return]

    @activity.defn
    async def form_jobs(self, request: FormRequest) -> FormedJobs:
        names = sorted(f"job-of-{file}" for file in request.files) if request.closing else []
        return await self._do("form_jobs", request, FormedJobs(jobs=tuple(names[:1]), limit=1_000))  # type: ignore[no-any-return]

    @activity.defn
    async def submit_job(self, request: JobRequest) -> JobProgress:
        state = JobState(job=request.job, state="queued", id="batch-1", requests=10)
        return await self._do("submit_job", request, JobProgress(state=state, look_again_s=0.5))  # type: ignore[no-any-return]

    @activity.defn
    async def poll_job(self, request: JobRequest) -> JobProgress:
        state = JobState(job=request.job, state="ended", id="batch-1", requests=10, done=10)
        return await self._do("poll_job", request, JobProgress(state=state, look_again_s=0.5))  # type: ignore[no-any-return]

    @activity.defn
    async def collect_job(self, request: JobRequest) -> JobEnd:
        end = JobEnd(job=request.job, id="batch-1", state="ended", requests=10, answered=10)
        return await self._do("collect_job", request, end)  # type: ignore[no-any-return]

    @activity.defn
    async def cancel_jobs(self, request: CancelJobs) -> CancelledJobs:
        return await self._do("cancel_jobs", request, CancelledJobs(jobs=1))  # type: ignore[no-any-return]

    def all(self) -> list[Callable[..., Any]]:
        return [
            self.plan, self.read_page, self.open, self.enrich_batch, self.step_row, self.answers, self.publish,
            self.close, self.finalise, self.holder, self.set_limits, self.reckon, self.ask, self.notify,
            self.form_jobs, self.submit_job, self.poll_job, self.collect_job, self.cancel_jobs,
        ]  # fmt: skip


def _partition(request: Any) -> str | None:
    return getattr(request, "partition", None)


@dataclass
class Bench:
    """A client, a queue and a sink of this test's own, so that workflow ids never meet those of another."""

    client: Client
    queue: str
    ref: RunRef

    async def start(
        self, run: str = "run-1", course: RunOptions | None = None, *, waits: bool = True
    ) -> WorkflowHandle[RunWorkflow, RunResult]:
        ref = self.ref.model_copy(update={"run": run})
        return await self.client.start_workflow(
            RunWorkflow.run,
            RunInput(
                ref=ref, request=ids.request(run), task_queue=self.queue, course=course or RunOptions(), waits=waits
            ),
            id=ids.run_workflow_id(ref.pipeline, ref.sink, run),
            task_queue=self.queue,
            priority=fair_share(ref),
        )

    async def partition(self, key: str, windows: Concurrency | None = None) -> WorkflowHandle[Any, PartitionResult]:
        """A partition's workflow without a parent."""
        return await self.client.start_workflow(
            PartitionWorkflow.run,
            PartitionInput(ref=self.ref, plan="plan.json", partition=key, rows=ROWS, windows=windows or Concurrency()),
            id=ids.partition_workflow_id(self.ref.pipeline, self.ref.sink, key),
            task_queue=self.queue,
        )

    async def still_open(self) -> list[str]:
        return [found.id async for found in self.client.list_workflows("ExecutionStatus = 'Running'")]

    async def events(self, workflow: str) -> Counter[str]:
        from temporalio.api.enums.v1 import EventType

        history = await self.client.get_workflow_handle(workflow).fetch_history()
        return Counter(EventType.Name(event.event_type) for event in history.events)


@asynccontextmanager
async def at_work(client: Client, fakes: Fakes, **options: Any) -> AsyncIterator[Bench]:
    """A worker with the real workflows in the real sandbox, and these activities."""
    name = uuid.uuid4().hex[:8]
    bench = Bench(client, f"fakes-{name}", RunRef(pipeline="tests", run="run-1", sink=f"memory://{name}"))
    options.setdefault("workflow_runner", sandbox())
    options.setdefault("max_cached_workflows", 100)
    async with Worker(
        client, task_queue=bench.queue, activities=fakes.all(),
        workflows=[RunWorkflow, PartitionWorkflow, RowWorkflow, JobsWorkflow, ScheduledWorkflow],
        max_heartbeat_throttle_interval=dt.timedelta(milliseconds=100),
        default_heartbeat_throttle_interval=dt.timedelta(milliseconds=100), **options,
    ):  # fmt: skip
        yield bench


@asynccontextmanager
async def skipping_time() -> AsyncIterator[WorkflowEnvironment]:
    """A server on which hours of waiting take no time."""
    binary = Path(sys.executable).parent / "temporal-test-server"
    env = await WorkflowEnvironment.start_time_skipping(
        test_server_existing_path=str(binary), data_converter=pydantic_data_converter
    )
    try:
        yield env
    finally:
        await env.shutdown()


async def beat_until(event: asyncio.Event) -> None:
    """Work until told to stop; a cancel is seen, as in a real activity."""
    while not event.is_set():
        activity.heartbeat()
        await asyncio.sleep(0.02)


async def ended(handle: WorkflowHandle[Any, T], seconds: float = 30) -> T:
    """A workflow's result; one that hangs fails its test, not all of them."""
    async with asyncio.timeout(seconds):
        return await handle.result()


async def until(holds: Callable[[], bool], seconds: float = 20) -> None:
    async with asyncio.timeout(seconds):
        while not holds():  # noqa: ASYNC110
            await asyncio.sleep(0.01)
