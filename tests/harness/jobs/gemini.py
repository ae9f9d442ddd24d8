"""Gemini's batches from files, and the part of its Files that they need, as strict as the real ones where known."""

from __future__ import annotations

import datetime as dt
import re
import time
import uuid
from collections.abc import Iterator

import orjson
from aiohttp import web

from tests.harness.jobs.server import Body, Job, Jobs, Line, Refused, Result, json_answer, lines_answer, parsed
from tests.harness.protocols import gemini

_CREATE = re.compile(r"/v1(?:beta)?/models/([^/]+):batchGenerateContent")
_BATCHES = re.compile(r"/v1(?:beta)?/batches")
_BATCH = re.compile(r"/v1(?:beta)?/(batches/\w+)(:cancel)?")
_UPLOAD = re.compile(r"/upload/v1(?:beta)?/files")
_FILE = re.compile(r"/v1(?:beta)?/(files/[\w-]+)(:download)?")
_STATES = {"queued": "PENDING", "running": "RUNNING", "ended": "SUCCEEDED"}


class GeminiBatches:
    def __init__(self, jobs: Jobs) -> None:
        self._jobs = jobs

    @staticmethod
    def error(refused: Refused) -> Body:
        return gemini.error(refused.status, str(refused), refused.code)

    async def answer(self, request: web.BaseRequest) -> web.StreamResponse | None:
        path = request.path
        if _UPLOAD.fullmatch(path):
            return await self._upload(request)
        if (match := _CREATE.fullmatch(path)) is not None:
            return self._create(match[1], orjson.loads(await request.read()))
        if _BATCHES.fullmatch(path):
            return self._list(request)
        if (match := _BATCH.fullmatch(path)) is not None:
            return self._batch(match[1], cancel=bool(match[2]))
        if (match := _FILE.fullmatch(path)) is not None:
            return await self._file(request, match[1], content=bool(match[2]))
        return None

    async def _upload(self, request: web.BaseRequest) -> web.StreamResponse:
        command = request.headers.get("X-Goog-Upload-Command")
        if command == "start":
            if request.headers.get("X-Goog-Upload-Protocol") != "resumable":
                raise Refused("Unknown upload protocol.")
            about = gemini.spelled(orjson.loads(await request.read() or b"{}").get("file") or {})
            name = f"files/{uuid.uuid4().hex[:12]}"
            length = int(request.headers["X-Goog-Upload-Header-Content-Length"])
            mime = request.headers["X-Goog-Upload-Header-Content-Type"]
            file = {"name": name, "sizeBytes": str(length), "state": "PROCESSING", "mimeType": mime, **_shown_of(about)}
            self._jobs.files[name] = file
            url = f"{self._jobs.base_url}{request.path}?upload_id={name}"
            return json_answer({}, headers={"X-Goog-Upload-URL": url, "X-Goog-Upload-Status": "active"})
        name = request.query["upload_id"]
        file = self._jobs.files[name]
        path = self._jobs.new_file(name)
        with path.open("ab") as out:
            if int(request.headers["X-Goog-Upload-Offset"]) != out.tell():
                raise Refused("The offset is wrong.")
            async for block in request.content.iter_chunked(2**20):
                out.write(block)
        if "finalize" not in str(command):
            return json_answer({}, headers={"X-Goog-Upload-Status": "active"})
        if path.stat().st_size != int(file["sizeBytes"]):
            raise Refused("The size is not as it was declared.")
        file |= {"state": "ACTIVE", "createTime": _time(time.time()), "uri": f"{self._jobs.base_url}/v1/{name}"}
        self._jobs.sent[name] = time.time()
        return json_answer({"file": self._shown_file(name)}, headers={"X-Goog-Upload-Status": "final"})

    async def _file(self, request: web.BaseRequest, name: str, *, content: bool) -> web.StreamResponse:
        job = self._jobs.jobs.get(f"batches/{name.removeprefix('files/batch-')}")
        if request.method == "DELETE":
            self._jobs.delete(name)
            return json_answer({})
        if content and job is not None and name not in self._jobs.deleted and request.query.get("alt") == "media":
            return await lines_answer(request, self._results(job))
        if name not in self._jobs.files:
            raise Refused(f"You do not have permission to access the File {name} or it may not exist.", status=403)
        return json_answer(self._shown_file(name))

    def _shown_file(self, name: str) -> Body:
        ready = self._jobs.is_ready(name)
        return self._jobs.files[name] if ready else {**self._jobs.files[name], "state": "PROCESSING"}

    def _create(self, model: str, body: Body) -> web.Response:
        batch = body["batch"]
        if not batch.get("displayName"):
            raise Refused("batch.display_name: must not be empty")
        file = batch["inputConfig"]["fileName"]
        if self._jobs.files.get(file, {}).get("state") != "ACTIVE" or not self._jobs.is_ready(file):
            raise Refused(f"The file {file} does not exist.")
        content = self._jobs.new_file(file).read_bytes()
        path = f"/v1/models/{model}:generateContent"
        found = parsed(content)
        for number, one in enumerate(found, 1):
            if set(one) != {"key", "request"}:
                raise Refused(f"Line {number} of the file has unknown fields.")
        lines = [Line(one["key"], one["request"], path) for one in found]
        refusal = self._jobs.refusal_of(lines, len(content))
        if refusal is not None and refusal.status in (413, 429):
            raise refusal
        about = {"displayName": batch["displayName"], "model": f"models/{model}", "file": file}
        job = self._jobs.create(f"batches/{uuid.uuid4().hex}", lines, about, refusal)
        if self._jobs.cuts_reply():
            raise ConnectionResetError
        return json_answer(self._shown(job))

    def _list(self, request: web.BaseRequest) -> web.Response:
        size, begin = int(request.query.get("pageSize", "50")), int(request.query.get("pageToken") or 0)
        jobs = [job for job in self._jobs.jobs.values() if job.id.startswith("batches/")]
        page: Body = {"operations": [self._shown(job) for job in jobs[begin : begin + size]]}
        if begin + size < len(jobs):
            page["nextPageToken"] = str(begin + size)
        return json_answer(page)

    def _batch(self, name: str, *, cancel: bool) -> web.Response:
        job = self._jobs.jobs.get(name)
        if job is None:
            raise Refused(f"{name} is not found.", status=404)
        if cancel:
            if job.over(time.time()):
                raise Refused("The batch is over.", status=400)
            job.cancelled = time.time()
            return json_answer({})
        return json_answer(self._shown(job))

    def _shown(self, job: Job) -> Body:
        now = time.time()
        state = job.state(now)
        word = f"BATCH_STATE_{_STATES.get(state, state.upper())}"
        batch: Body = {
            "@type": "type.googleapis.com/google.ai.generativelanguage.v1main.GenerateContentBatch",
            "name": job.id, "model": job.metadata["model"], "displayName": job.metadata["displayName"],
            "inputConfig": {"fileName": job.metadata["file"]}, "state": word,
            "createTime": _time(job.created), "updateTime": _time(now),
            "batchStats": {"requestCount": str(len(job.lines)), "successfulRequestCount": str(job.answered(now))},
        }  # fmt: skip
        shown: Body = {"name": job.id, "metadata": batch}
        if state == "failed":
            return {**shown, "done": True, "error": {"code": 3, "message": str(job.refusal)}}
        if state in ("ended", "cancelled"):
            batch["output"] = {"responsesFile": f"files/batch-{job.id.removeprefix('batches/')}"}
            self._jobs.outputs.add(batch["output"]["responsesFile"])
            batch["endTime"] = _time(job.ends)
            shown |= {"done": True, "response": batch["output"]}
        return shown

    def _results(self, job: Job) -> Iterator[bytes]:
        for result in self._jobs.results(job):
            yield orjson.dumps({"key": result.line.custom_id, **_outcome(result)})


def _shown_of(about: Body) -> Body:
    return {name: about[name] for name in ("displayName",) if name in about}


def _outcome(result: Result) -> Body:
    if result.status == 200:
        return {"response": result.body}
    if result.status == 0:
        return {"error": {"code": 1, "message": "The request was cancelled."}}
    return {"error": {"code": {400: 3, 404: 5, 429: 8, 500: 13}.get(result.status, 2), **_message(result.body)}}


def _message(body: Body) -> Body:
    error = body.get("error") or {}
    return {"message": error.get("message", ""), "status": error.get("status", "")}


def _time(seconds: float) -> str:
    return dt.datetime.fromtimestamp(seconds, dt.UTC).isoformat().replace("+00:00", "Z")
