"""The form in which every provider's jobs are seen: limits, states, and answers by custom id. No I/O."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from schemas.jobs import ProviderState


@dataclass(frozen=True)
class JobLimits:
    """The most that one job may hold, and the least requests that it takes, as the provider documents it."""

    requests: int
    bytes: int
    least: int = 1


@dataclass(frozen=True)
class Framing:
    """The bytes around and between the lines of a job's content."""

    head: bytes = b""
    between: bytes = b"\n"
    tail: bytes = b"\n"


@dataclass(frozen=True)
class LineRefusal:
    """Why a provider refused a job as a whole. `line` is the number of the line at fault, from 1; None: no single one.
    `code` is the provider's word for it."""

    message: str
    code: str = ""
    line: int | None = None


@dataclass(frozen=True)
class JobStatus:
    """A job as its provider describes it. `deadline`: in seconds since the epoch, when it gives up; `refusals`: of a
    job that failed as a whole; `files`: where its results are, by kind; `inputs`: files that were sent ahead."""

    id: str
    state: ProviderState
    total: int = 0
    done: int = 0
    failed: int = 0
    deadline: float | None = None
    message: str = ""
    refusals: tuple[LineRefusal, ...] = ()
    files: Mapping[str, str] = field(default_factory=dict)
    inputs: tuple[str, ...] = ()


@dataclass(frozen=True)
class JobAnswer:
    """The result of one request. `status`: HTTP's, 0 for a request that was never worked on (`error` says why: the job
    expired or was cancelled); `body`: the provider's answer, as a live call would have got it; `error`: the body of a
    failure, as text."""

    custom_id: str
    status: int
    body: dict[str, Any] | None = None
    error: str = ""
    request_id: str | None = None

    @property
    def not_run(self) -> bool:
        return self.status == 0
