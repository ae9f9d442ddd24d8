"""Bedrock's model invocation jobs over Converse, from files in S3. No I/O. The forms are those of the SDK in the lock
(botocore's model of `bedrock`), results those of docs.aws.amazon.com/bedrock/latest/userguide/batch-inference-results.
"""

from collections.abc import Mapping
from datetime import datetime
from typing import Any

import orjson

from schemas.digests import digest
from schemas.jobs import Intent, ProviderState
from stages.models.wires.jobs.form import Framing, JobAnswer, JobLimits, JobStatus, LineRefusal

# Quotas of docs.aws.amazon.com/general/latest/gr/bedrock.html: records of a job, size of an input file.
LIMITS = JobLimits(requests=50_000, bytes=1_000_000_000, least=100)
FRAMING = Framing()
OUTPUT = ".jsonl.out"  # how the names of files with results end
_STATES: dict[str, ProviderState] = {
    "Submitted": "queued", "Validating": "queued", "Scheduled": "queued", "InProgress": "running",
    "Stopping": "running", "Completed": "ended", "PartiallyCompleted": "expired", "Expired": "expired",
    "Failed": "failed", "Stopped": "cancelled",
}  # fmt: skip


def line(custom_id: str, body: Mapping[str, Any]) -> bytes:
    return orjson.dumps({"recordId": custom_id, "modelInput": body})


def job_name(intent: Intent) -> str:
    return f"tandem-{intent.job}"


def create_request(intent: Intent, file: str, *, model: str, role: str, place: str) -> dict[str, Any]:
    """Return the parameters of CreateModelInvocationJob. A second one with this token creates nothing: it returns the
    same job, or, with another file, is a conflict."""
    return {
        "jobName": job_name(intent), "clientRequestToken": digest(intent.job, intent.digest), "roleArn": role,
        "modelId": model, "modelInvocationType": "Converse",
        "inputDataConfig": {"s3InputDataConfig": {"s3Uri": file, "s3InputFormat": "JSONL"}},
        "outputDataConfig": {"s3OutputDataConfig": {"s3Uri": f"{place.rstrip('/')}/output/"}},
    }  # fmt: skip


def is_of(job: Mapping[str, Any], intent: Intent) -> bool:
    """True if a job was created for this intent."""
    return job.get("jobName") == job_name(intent)


def status_of(job: Mapping[str, Any]) -> JobStatus:
    """Return the status of a job, as boto3 describes it. Its results are below `files["output"]`."""
    state, message = _STATES.get(job["status"], "running"), str(job.get("message") or "")
    expires = job.get("jobExpirationTime")
    place = str(job["outputDataConfig"]["s3OutputDataConfig"]["s3Uri"]).rstrip("/")
    return JobStatus(
        id=job["jobArn"],
        state=state,
        total=job.get("totalRecordCount") or 0,
        done=job.get("successRecordCount") or 0,
        failed=job.get("errorRecordCount") or 0,
        deadline=expires.timestamp() if isinstance(expires, datetime) else None,
        message=message,
        refusals=(LineRefusal(message),) if message and state == "failed" else (),
        inputs=(job["inputDataConfig"]["s3InputDataConfig"]["s3Uri"],),
        files={"output": f"{place}/{job['jobArn'].rpartition('/')[2]}/"},
    )


def answer_of(found: Mapping[str, Any]) -> JobAnswer:
    """Return the result in a line of the output."""
    custom_id, body = str(found.get("recordId")), found.get("modelOutput")
    if isinstance(body, dict):
        return JobAnswer(custom_id, 200, body)
    error = found.get("error") or {}
    code = str(error.get("errorCode"))
    text = orjson.dumps({"message": error.get("errorMessage") or "no answer"}).decode()
    return JobAnswer(custom_id, int(code) if code.isdecimal() and 400 <= int(code) < 600 else 500, error=text)
