"""Jobs that a provider refused as a whole: a line at fault, too large, a full queue, or nothing that can be sent."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from pipeline.provider_jobs.answers import Outcome
from pipeline.provider_jobs.base import JobClient
from pipeline.provider_jobs.requests import request_at
from pipeline.provider_jobs.submission import TOO_SMALL, is_full
from pipeline.stores import Store
from schemas.errors import FatalModelError, RowError
from schemas.job_requests import AskedKey, JobRequests
from schemas.jobs import Submitted
from stages.models.failures.errors import describe
from stages.models.wires.jobs.form import JobStatus, LineRefusal

_TOO_LARGE = re.compile(
    r"too_large|too large|too many (requests|tasks|lines)|exceeds? the (maximum|limit)|file size", re.I
)


@dataclass(frozen=True)
class Verdict:
    """What a refusal means for the requests: those of `lines` are rejected, with these errors; the others may go with
    another job. `kind`: what is to be learned from it."""

    kind: Literal["", "full", "too_large", "too_small"] = ""
    lines: Mapping[AskedKey, Mapping[str, Any]] = field(default_factory=dict)
    fatal: FatalModelError | None = None
    refused: bool = False

    def outcome(self, key: AskedKey) -> Outcome | None:
        """Return what became of a request; None if the job was not refused."""
        if not self.refused:
            return None
        error = self.lines.get(key)
        return Outcome(refused=error) if error is not None else Outcome(again=True)


def status_of(done: Submitted) -> JobStatus:
    """Return the status of a job that was never created."""
    found = tuple(LineRefusal(one.message, one.code, one.line) for one in done.refusals)
    cancelled = any(one.code == "cancelled" for one in found)
    message = found[0].message if found else ""
    return JobStatus("", "cancelled" if cancelled else "failed", message=message, refusals=found)


def verdict(store: Store, client: JobClient, status: JobStatus, held: JobRequests) -> Verdict:
    """Return what the refusal of a job means. Blocks; raises StoreError, Damaged."""
    said = [f"{one.code} {one.message}" for one in status.refusals]
    if any(one.code == TOO_SMALL for one in status.refusals):
        return Verdict("too_small", refused=True)
    if any(map(is_full, said)):
        return Verdict("full", refused=True)
    if any(map(_TOO_LARGE.search, said)) and len(held.requests) > 1:
        return Verdict("too_large", refused=True)
    lines: dict[AskedKey, Mapping[str, Any]] = {}
    for one in status.refusals:
        error = client.model.failure_of(400, one.message.encode(), {})
        request = request_at(store, held, one.line) if one.line is not None else None
        if isinstance(error, FatalModelError):
            return Verdict(fatal=error, refused=True)
        if request is not None:
            lines[request.key] = describe(RowError(one.message, kind=getattr(error, "kind", "bad_request"), status=400))
    if lines:
        return Verdict(lines=lines, refused=True)
    if len(held.requests) == 1 and status.refusals:
        error = RowError(status.message, kind="bad_request", status=400)
        return Verdict(lines={held.requests[0].key: describe(error)}, refused=True)
    if not status.refusals:  # it failed without a word: each request has a try less
        return Verdict()
    why = f"{client.model.model}: the provider refused a whole job ({status.message})"
    return Verdict(fatal=FatalModelError(why, hint="Ask it live, or correct the stage, and run again."), refused=True)
