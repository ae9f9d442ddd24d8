"""Bedrock's model invocation jobs, as strict as botocore's model of them; their files lie in a real S3 server."""

from __future__ import annotations

import asyncio
import datetime as dt
import re
import time
import uuid
from urllib.parse import unquote

import botocore.session
import orjson
from aiohttp import web
from botocore.validate import ParamValidator

from tests.harness.jobs.server import Body, Job, Jobs, Line, Refused, Result, json_answer, parsed
from tests.harness.protocols import converse

_JOBS = "/model-invocation-jobs"
_JOB = re.compile(r"/model-invocation-job(?:/(arn:aws:bedrock:[^/]+/)?([a-z0-9]{12})(/stop)?)?")
_ARN = "arn:aws:bedrock:us-east-1:123456789012:model-invocation-job/"
_STATES = {
    "queued": "Validating", "running": "InProgress", "ended": "Completed", "failed": "Failed",
    "expired": "PartiallyCompleted", "cancelled": "Stopped",
}  # fmt: skip
_MODEL = botocore.session.Session().get_service_model("bedrock")


class BedrockBatches:
    def __init__(self, jobs: Jobs) -> None:
        self._jobs = jobs

    @staticmethod
    def error(refused: Refused) -> Body:
        return converse.error(refused.status, str(refused), None) | ({"__type": refused.code} if refused.code else {})

    async def answer(self, request: web.BaseRequest) -> web.StreamResponse | None:
        path = unquote(request.path)
        match = _JOB.fullmatch(path)
        if path != _JOBS and match is None:
            return None
        if not request.headers.get("Authorization", "").startswith("AWS4-HMAC-SHA256 "):
            raise Refused("Missing Authentication Token", status=403, code="MissingAuthenticationTokenException")
        if match is None:
            return self._list(request)
        if match[2] is None:
            return await self._create(orjson.loads(await request.read()))
        job = self._jobs.jobs.get(f"{_ARN}{match[2]}")
        if job is None:
            raise Refused("The requested job does not exist.", status=404, code="ResourceNotFoundException")
        if match[3]:
            if job.over(time.time()):
                raise Refused("The job is over.", status=409, code="ConflictException")
            job.cancelled = time.time()
            return json_answer({})
        if job.over(time.time()):
            await asyncio.to_thread(self._write_results, job)
        return json_answer(self._shown(job))

    async def _create(self, body: Body) -> web.Response:
        _check(body, "CreateModelInvocationJob")
        token = body.get("clientRequestToken") or uuid.uuid4().hex
        for job in self._jobs.jobs.values():
            if job.metadata.get("clientRequestToken") == token:
                if job.metadata["request"] == body:
                    return json_answer({"jobArn": job.id})
                raise Refused("The token was used with other parameters.", status=409, code="ConflictException")
            if job.metadata.get("jobName") == body["jobName"]:
                raise Refused("The job name is in use.", status=409, code="ConflictException")
        content = await asyncio.to_thread(self._content, body["inputDataConfig"]["s3InputDataConfig"]["s3Uri"])
        if body.get("modelInvocationType") != "Converse":
            raise Refused("This server knows Converse.", code="ValidationException")
        found = parsed(content)
        path = f"/model/{body['modelId']}/converse"
        lines = [
            Line(one["recordId"], one["modelInput"], path) for one in found if set(one) == {"recordId", "modelInput"}
        ]
        refusal = self._jobs.refusal_of(lines, len(content))
        if len(lines) < len(found):
            refusal = Refused("A record has other fields than recordId and modelInput.")
        if refusal is not None and refusal.status == 429:
            raise Refused("Too many jobs are in progress.", code="ServiceQuotaExceededException")
        about = {"clientRequestToken": token, "jobName": body["jobName"], "request": body}
        job = self._jobs.create(f"{_ARN}{uuid.uuid4().hex[:12]}", lines, about, refusal)
        if self._jobs.cuts_reply():
            raise ConnectionResetError
        return json_answer({"jobArn": job.id})

    def _list(self, request: web.BaseRequest) -> web.Response:
        size, begin = int(request.query.get("maxResults", "10")), int(request.query.get("nextToken") or 0)
        part = request.query.get("nameContains", "")
        jobs = [job for job in self._jobs.jobs.values() if part in job.metadata.get("jobName", "") and _is_ours(job)]
        page: Body = {"invocationJobSummaries": [self._shown(job) for job in jobs[begin : begin + size]]}
        if begin + size < len(jobs):
            page["nextToken"] = str(begin + size)
        return json_answer(page)

    def _shown(self, job: Job) -> Body:
        now = time.time()
        asked = job.metadata["request"]
        names = ("jobName", "modelId", "roleArn", "inputDataConfig", "outputDataConfig", "modelInvocationType")
        shown = {
            "jobArn": job.id, **{name: asked[name] for name in names}, "status": _STATES[job.state(now)],
            "clientRequestToken": job.metadata["clientRequestToken"], "submitTime": _time(job.created),
            "lastModifiedTime": _time(now), "jobExpirationTime": _time(job.created + 86_400),
            "totalRecordCount": len(job.lines), "successRecordCount": job.answered(now),
        }  # fmt: skip
        return {**shown, "message": str(job.refusal)} if job.refusal is not None else shown

    # The bucket: blocking ---------------------------------------------------------------------------------------------

    def _content(self, uri: str) -> bytes:
        bucket, key = _place(uri)
        s3 = self._jobs.client
        try:
            content: bytes = s3.get_object(Bucket=bucket, Key=key)["Body"].read()
        except s3.exceptions.NoSuchKey:
            raise Refused(f"{uri} does not exist.", code="ValidationException") from None
        return content

    def _write_results(self, job: Job) -> None:
        """Write the output once: by job, beside a manifest."""
        if job.metadata.get("written") or job.refusal is not None:
            return
        job.metadata["written"] = True
        request = job.metadata["request"]
        bucket, below = _place(request["outputDataConfig"]["s3OutputDataConfig"]["s3Uri"])
        name = request["inputDataConfig"]["s3InputDataConfig"]["s3Uri"].rpartition("/")[2]
        place = f"{below.rstrip('/')}/{job.id.rpartition('/')[2]}/"
        lines = [orjson.dumps(_record(result)) + b"\n" for result in self._jobs.results(job) if result.status]
        s3, manifest = self._jobs.client, orjson.dumps({"totalRecordCount": len(job.lines)})
        s3.put_object(Bucket=bucket, Key=f"{place}{name}.out", Body=b"".join(lines))
        s3.put_object(Bucket=bucket, Key=f"{place}manifest.json.out", Body=manifest)


def _check(body: Body, operation: str) -> None:
    """Raise Refused for what botocore's model of a request has not."""
    shape = _MODEL.operation_model(operation).input_shape
    report = ParamValidator().validate(body, shape)
    unknown = body.keys() - shape.members.keys()
    wrong = [
        name
        for name, member in shape.members.items()
        if name in body and (pattern := member.metadata.get("pattern")) and not re.fullmatch(pattern, body[name])
    ]
    if report.has_errors() or unknown or wrong:
        why = report.generate_report() or f"unknown fields {sorted(unknown)}, values of {wrong}"
        raise Refused(why, code="ValidationException")


def _is_ours(job: Job) -> bool:
    return job.id.startswith(_ARN)


def _record(result: Result) -> Body:
    record: Body = {"recordId": result.line.custom_id, "modelInput": result.line.body}
    if result.status == 200:
        return {**record, "modelOutput": result.body}
    return {**record, "error": {"errorCode": result.status, "errorMessage": result.body.get("message", "")}}


def _place(uri: str) -> tuple[str, str]:
    bucket, _, key = uri.removeprefix("s3://").partition("/")
    return bucket, key


def _time(seconds: float) -> str:
    return dt.datetime.fromtimestamp(seconds, dt.UTC).isoformat().replace("+00:00", "Z")
