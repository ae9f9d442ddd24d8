"""Gemini's batches of generateContent from files, in AI Studio. No I/O. The forms are those of the SDK in the lock
(`google-genai`): batches.py, files.py."""

from collections.abc import Mapping
from typing import Any

import orjson

from schemas.jobs import Intent, ProviderState
from stages.limits.rate_headers import time_of
from stages.models.wires.jobs.form import Framing, JobAnswer, JobLimits, JobStatus, LineRefusal
from stages.models.wires.protocols.answer import counted, status_of_word

LIMITS = JobLimits(requests=200_000, bytes=2_000_000_000)  # of requests none is documented
FRAMING = Framing()
UNREADY = "PROCESSING"  # of a file, of which no job can be created yet
MIME = "application/jsonl"
_STATES: dict[str, ProviderState] = {
    "PENDING": "queued", "QUEUED": "queued", "UNSPECIFIED": "queued", "RUNNING": "running", "CANCELLING": "running",
    "SUCCEEDED": "ended", "PARTIALLY_SUCCEEDED": "ended", "FAILED": "failed", "CANCELLED": "cancelled",
    "EXPIRED": "expired",
}  # fmt: skip
_GIVES_UP_S = 48 * 3600.0
# google.rpc.Code, as lines of results have it instead of a status.
_HTTP = {1: 499, 2: 500, 3: 400, 4: 504, 5: 404, 7: 403, 8: 429, 9: 400, 10: 409, 11: 400, 12: 501, 13: 500, 14: 503,
         15: 500, 16: 401}  # fmt: skip
_CANCELLED = 499


def line(custom_id: str, body: Mapping[str, Any]) -> bytes:
    return orjson.dumps({"key": custom_id, "request": body})


def display_name(intent: Intent) -> str:
    return f"tandem-{intent.job}"


def create_body(intent: Intent, file: str) -> dict[str, Any]:
    return {"batch": {"displayName": display_name(intent), "inputConfig": {"fileName": file}}}


def is_of(operation: Mapping[str, Any], intent: Intent) -> bool:
    """True if a job was created for this intent."""
    return (operation.get("metadata") or {}).get("displayName") == display_name(intent)


def status_of(operation: Mapping[str, Any]) -> JobStatus:
    batch, error = operation.get("metadata") or {}, operation.get("error") or {}
    stats = batch.get("batchStats") or {}
    state = _STATES.get(str(batch.get("state", "")).rpartition("_STATE_")[2], "running")
    created = time_of(batch.get("createTime") or "")
    output = batch.get("output") or operation.get("response") or {}
    message = str(error.get("message") or "")
    refusals = (LineRefusal(message, str(error.get("status") or "")),) if error and state == "failed" else ()
    return JobStatus(
        id=operation["name"],
        state=state,
        total=counted(stats, "requestCount") or 0,
        done=counted(stats, "successfulRequestCount") or 0,
        failed=counted(stats, "failedRequestCount") or 0,
        deadline=created.timestamp() + _GIVES_UP_S if created is not None else None,
        message=message,
        refusals=refusals,
        inputs=(source["fileName"],) if (source := batch.get("inputConfig") or {}).get("fileName") else (),
        files={"responsesFile": output["responsesFile"]} if output.get("responsesFile") else {},
    )


def answer_of(found: Mapping[str, Any]) -> JobAnswer:
    """Return the result in a line of the responses."""
    custom_id, body = str(found.get("key")), found.get("response")
    if isinstance(body, dict):
        return JobAnswer(custom_id, 200, body)
    error = found.get("error") or found.get("status") or {}
    code = error.get("code")
    status = _HTTP.get(code, code) if isinstance(code, int) else status_of_word(str(error.get("status")))
    if status == _CANCELLED:
        return JobAnswer(custom_id, 0, error="the job was cancelled")
    return JobAnswer(custom_id, status or 500, error=orjson.dumps({"error": error}).decode())
