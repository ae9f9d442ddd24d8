"""A run that this process may follow."""

from dataclasses import dataclass

from temporalio.client import WorkflowHandle

from pipeline.stores import Store
from pipeline.workflows.run import RunWorkflow
from schemas.messages.base import RunRef
from schemas.messages.run import RunResult
from schemas.plan import RunRequest


@dataclass(frozen=True)
class Run:
    """A run that this process may follow. `began`: started, joined, resumed, replanned or completed."""

    request: RunRequest
    store: Store
    handle: WorkflowHandle[RunWorkflow, RunResult] | None
    began: str

    @property
    def ref(self) -> RunRef:
        return RunRef(pipeline=self.request.pipeline, run=self.request.run, sink=self.store.uri)
