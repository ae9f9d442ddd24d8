"""Anthropic's Message Batches. No I/O. The forms are those of the SDK in the lock (`anthropic`): types/messages/."""

import re
from collections.abc import Mapping
from typing import Any

import orjson

from schemas.jobs import ProviderState
from stages.limits.rate_headers import time_of
from stages.models.wires.jobs.form import Framing, JobAnswer, JobLimits, JobStatus, LineRefusal
from stages.models.wires.protocols.answer import status_of_word

LIMITS = JobLimits(requests=100_000, bytes=256_000_000)
FRAMING = Framing(b'{"requests":[', b",", b"]}")
_PLACE = re.compile(r"\brequests?[.\[](\d+)")
_WHY = {"canceled": "the job was cancelled", "expired": "the job expired"}


def line(custom_id: str, body: Mapping[str, Any]) -> bytes:
    return orjson.dumps({"custom_id": custom_id, "params": body})


def total_of(batch: Mapping[str, Any]) -> int:
    """Return the number of a job's requests."""
    return sum(batch["request_counts"].values())


def created_at(batch: Mapping[str, Any]) -> float:
    """Return when a job was created, in seconds since the epoch; 0 if it does not say."""
    return _seconds(batch.get("created_at")) or 0.0


def status_of(batch: Mapping[str, Any]) -> JobStatus:
    counts = batch["request_counts"]
    return JobStatus(
        id=batch["id"],
        state=_state(batch["processing_status"], counts),
        total=total_of(batch),
        done=counts["succeeded"],
        failed=counts["errored"],
        deadline=_seconds(batch.get("expires_at")),
    )


def _state(status: str, counts: Mapping[str, int]) -> ProviderState:
    if status != "ended":
        return "running"
    if counts["expired"]:
        return "expired"
    return "cancelled" if counts["canceled"] else "ended"


def _seconds(text: Any) -> float | None:
    found = time_of(text) if isinstance(text, str) else None
    return found.timestamp() if found is not None else None


def answer_of(found: Mapping[str, Any]) -> JobAnswer:
    """Return the result in a line of the results."""
    custom_id, result = str(found.get("custom_id")), found["result"]
    if result["type"] == "succeeded":
        return JobAnswer(custom_id, 200, result["message"])
    if result["type"] in _WHY:
        return JobAnswer(custom_id, 0, error=_WHY[result["type"]])
    error = result["error"]
    status = status_of_word(str((error.get("error") or {}).get("type"))) or 500
    return JobAnswer(custom_id, status, error=orjson.dumps(error).decode(), request_id=error.get("request_id"))


def refusal_of(message: str) -> LineRefusal:
    """Return why a job was not created; a message may name the request at fault by its place."""
    place = _PLACE.search(message)
    return LineRefusal(message, line=int(place[1]) + 1 if place else None)
