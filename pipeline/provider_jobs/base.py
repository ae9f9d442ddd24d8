"""A provider's jobs as the rest of this room uses them: one client for each protocol."""

from collections.abc import AsyncIterator, Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from langchain_core.outputs import ChatResult

from schemas.errors import RowError, TandemError
from schemas.jobs import Intent
from stages.models.wires.jobs.form import Framing, JobAnswer, JobLimits, JobStatus, LineRefusal
from stages.models.wires.transport import ProviderChatModel


class Undecided(TandemError):
    """It cannot be known yet whether a job was created: a job that may be it has not ended."""

    retryable = True


@dataclass(frozen=True)
class Content:
    """What a job sends: a local file of `bytes` bytes, deleted by who made it, with this SHA-256. `tokens` are those of
    its lines, estimated."""

    path: Path
    bytes: int
    digest: str = ""
    tokens: int = 0
    requests: int = 0


class JobClient(Protocol):
    """The jobs of one provider. Every method that sends raises TransientModelError, RowError or FatalModelError, as
    live calls do. `create_s`: the longest that creating a job takes; `model`: its live model."""

    model: ProviderChatModel
    limits: JobLimits
    framing: Framing
    create_s: float

    def line(self, custom_id: str, body: dict[str, Any]) -> bytes:
        """Return a request's line in the content of a job."""
        ...

    def result(self, answer: JobAnswer) -> ChatResult:
        """Return an answer of status 200 in LangChain's form. Raises NoAnswer for one without a completion."""
        ...

    def failure(self, answer: JobAnswer) -> tuple[int, str] | None:
        """Return status and body of a failure that was sent as a success; None for a completion."""
        ...

    def refusal(self, error: RowError) -> LineRefusal:
        """Return why the provider did not create a job."""
        ...

    async def upload(self, intent: Intent, content: Content) -> str:
        """Send the content ahead and return its id; empty where `create` sends it."""
        ...

    async def withdraw(self, file: str) -> None:
        """Delete a file: a content, so that no job can be created with it any more, or results that were read. One that
        is gone is no error."""
        ...

    async def create(self, intent: Intent, content: Content, file: str) -> str:
        """Create the job and return its id."""
        ...

    async def find(self, intent: Intent, others: Collection[str] = ()) -> str | None:
        """Return the job that was created for this intent, if there is one. `others`: ids that are surely not it.
        Raises Undecided where that cannot be known yet."""
        ...

    async def status(self, id: str) -> JobStatus: ...

    def results(self, id: str, folder: Path) -> AsyncIterator[JobAnswer]:
        """Yield the results in any order, in bounded memory; `folder` holds them meanwhile."""
        ...

    async def cancel(self, id: str) -> None:
        """Ask the provider to stop; a job that is over already is no error."""
        ...


class WireAnswers:
    """The part of a client whose lines of results hold what a live call would have got."""

    model: ProviderChatModel

    def result(self, answer: JobAnswer) -> ChatResult:
        assert answer.body is not None
        return self.model.wire.result(answer.body, {}, self.model.model)

    def failure(self, answer: JobAnswer) -> tuple[int, str] | None:
        return None if answer.body is None else self.model.wire.failure(answer.body)

    def refusal(self, error: RowError) -> LineRefusal:
        return LineRefusal(error.message)
