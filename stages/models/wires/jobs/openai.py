"""OpenAI's Files and Batches, for Chat Completions, Responses and embeddings; Azure's are alike. No I/O.

The forms are those of the SDK in the lock (`openai`): types/batch.py, types/batch_create_params.py."""

from collections.abc import Mapping
from typing import Any

import orjson

from schemas.jobs import Intent, ProviderState
from stages.models.wires.jobs.form import Framing, JobAnswer, JobLimits, JobStatus, LineRefusal

LIMITS = JobLimits(requests=50_000, bytes=200_000_000)
FRAMING = Framing()
_STATES: dict[str, ProviderState] = {
    "validating": "queued", "in_progress": "running", "finalizing": "running", "cancelling": "running",
    "completed": "ended", "failed": "failed", "expired": "expired", "cancelled": "cancelled",
}  # fmt: skip
UNREADY = frozenset(("pending", "running"))  # of a file at Azure, of which no job can be created yet
_NOT_RUN = frozenset(("batch_expired", "batch_cancelled"))
_OUTPUTS = ("output_file_id", "error_file_id")


def line(custom_id: str, url: str, body: Mapping[str, Any]) -> bytes:
    return orjson.dumps({"custom_id": custom_id, "method": "POST", "url": url, "body": body})


def create_body(intent: Intent, file: str, endpoint: str) -> dict[str, Any]:
    """Return the body that creates a job. Its metadata say whose it is, so that it can be found again."""
    return {
        "input_file_id": file, "endpoint": endpoint, "completion_window": "24h",
        "metadata": {"tandem_job": intent.job, "tandem_content": intent.digest},
    }  # fmt: skip


def is_of(batch: Mapping[str, Any], intent: Intent) -> bool:
    """True if a job was created for this intent."""
    return (batch.get("metadata") or {}).get("tandem_job") == intent.job


def status_of(batch: Mapping[str, Any]) -> JobStatus:
    counts = batch.get("request_counts") or {}
    refusals = tuple(
        LineRefusal(str(error.get("message") or ""), str(error.get("code") or ""), error.get("line"))
        for error in (batch.get("errors") or {}).get("data") or ()
    )
    return JobStatus(
        id=batch["id"],
        state=_STATES.get(batch["status"], "running"),
        total=counts.get("total") or 0,
        done=counts.get("completed") or 0,
        failed=counts.get("failed") or 0,
        deadline=batch.get("expires_at"),
        message=refusals[0].message if refusals else "",
        refusals=refusals,
        files={name: batch[name] for name in _OUTPUTS if batch.get(name)},
        inputs=(batch["input_file_id"],) if batch.get("input_file_id") else (),
    )


def answer_of(found: Mapping[str, Any]) -> JobAnswer:
    """Return the result in a line of an output file, or of an error file."""
    custom_id, response, error = str(found.get("custom_id")), found.get("response"), found.get("error") or {}
    if response is None:
        text = orjson.dumps({"error": error}).decode()
        return JobAnswer(custom_id, 0 if error.get("code") in _NOT_RUN else 504, error=text)
    status, body = int(response["status_code"]), response.get("body")
    if status != 200 or not isinstance(body, dict):
        text = body if isinstance(body, str) else orjson.dumps(body).decode()
        return JobAnswer(custom_id, 502 if status == 200 else status, error=text, request_id=response.get("request_id"))
    return JobAnswer(custom_id, 200, body, request_id=response.get("request_id"))
