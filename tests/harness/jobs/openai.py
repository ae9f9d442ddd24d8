"""OpenAI's Files and Batches, as strict as the real ones where that is known."""

from __future__ import annotations

import hashlib
import re
import time
import uuid
from collections.abc import Iterator

import orjson
from aiohttp import BodyPartReader, web

from tests.harness.jobs.server import Body, Job, Jobs, Line, Refused, Result, json_answer, lines_answer, parsed
from tests.harness.protocols import CHAT as PROTOCOL

_ENDPOINTS = ("/v1/chat/completions", "/v1/responses", "/v1/embeddings", "/chat/completions", "/embeddings")
_STATES = {"queued": "validating", "running": "in_progress", "ended": "completed"}
_FILE = re.compile(r"/v1/files/(file-[\w-]+)(/content)?")
_BATCH = re.compile(r"/v1/batches/(batch_\w+)(/cancel)?")
_LINE = frozenset(("custom_id", "method", "url", "body"))


class OpenAIBatches:
    def __init__(self, jobs: Jobs) -> None:
        self._jobs = jobs

    @staticmethod
    def error(refused: Refused) -> Body:
        return PROTOCOL.error(refused.status, str(refused), refused.code)

    async def answer(self, request: web.BaseRequest) -> web.StreamResponse | None:
        if "x-goog-api-key" in request.headers:  # Gemini's paths are alike
            return None
        if request.path == "/v1/files":
            return await self._files(request)
        if (match := _FILE.fullmatch(request.path)) is not None:
            return await self._file(request, match[1], content=bool(match[2]))
        if request.path == "/v1/batches":
            return self._list(request) if request.method == "GET" else self._create(orjson.loads(await request.read()))
        if (match := _BATCH.fullmatch(request.path)) is not None:
            return self._batch(match[1], cancel=bool(match[2]))
        return None

    async def _files(self, request: web.BaseRequest) -> web.StreamResponse:
        if request.method == "GET":
            data = list(self._jobs.files.values())
            return json_answer({"object": "list", "data": data, "has_more": False})
        fields: dict[str, str] = {}
        id = f"file-{uuid.uuid4().hex[:24]}"
        path = self._jobs.new_file(id)
        async for part in await request.multipart():
            assert isinstance(part, BodyPartReader)
            if part.name != "file":
                fields[str(part.name)] = await part.text()
                continue
            fields["filename"] = part.filename or ""
            with path.open("wb") as out:
                while block := await part.read_chunk(2**20):
                    out.write(block)
        if fields.get("purpose") != "batch":
            raise Refused("purpose: must be batch")
        if not fields["filename"].endswith(".jsonl"):
            raise Refused("Invalid file format for Batch API. Must be .jsonl")
        self._jobs.files[id] = {
            "id": id, "object": "file", "bytes": path.stat().st_size, "created_at": int(time.time()),
            "filename": fields["filename"], "purpose": "batch", "status": "processed",
        }  # fmt: skip
        self._jobs.sent[id] = time.time()
        return json_answer(self._shown_file(id))

    def _shown_file(self, id: str) -> Body:
        return {**self._jobs.files[id], "status": "processed" if self._jobs.is_ready(id) else "pending"}

    async def _file(self, request: web.BaseRequest, id: str, *, content: bool) -> web.StreamResponse:
        job = self._jobs.jobs.get(id.removeprefix("file-out-").removeprefix("file-err-"))
        if request.method == "DELETE":
            self._jobs.delete(id)
            return json_answer({"id": id, "object": "file", "deleted": True})
        if content and job is not None and id not in self._jobs.deleted:
            return await lines_answer(request, self._results(job, errors=id.startswith("file-err-")))
        if id not in self._jobs.files:
            raise Refused(f"No such File object: {id}", status=404)
        if content:
            return web.Response(body=self._jobs.new_file(id).read_bytes())
        return json_answer(self._shown_file(id))

    def _results(self, job: Job, *, errors: bool) -> Iterator[bytes]:
        expired = job.state(time.time()) == "expired"
        for result in self._jobs.results(job):
            if (result.status != 200) == errors:
                yield orjson.dumps(_line(result, "batch_expired" if expired else "batch_cancelled"))

    def _list(self, request: web.BaseRequest) -> web.Response:
        """The newest first, a page at a time."""
        limit, after = int(request.query.get("limit", "20")), request.query.get("after")
        jobs = [job for job in reversed(self._jobs.jobs.values()) if job.id.startswith("batch_")]
        begin = next((index + 1 for index, job in enumerate(jobs) if job.id == after), 0)
        page = [self._shown(job) for job in jobs[begin : begin + limit]]
        edges = {"first_id": page[0]["id"], "last_id": page[-1]["id"]} if page else {}
        return json_answer({"object": "list", "data": page, "has_more": begin + limit < len(jobs), **edges})

    def _create(self, body: Body) -> web.Response:
        file, endpoint = body["input_file_id"], body["endpoint"]
        if body["completion_window"] != "24h" or endpoint not in _ENDPOINTS:
            raise Refused(f"Invalid value: {endpoint!r}.")
        metadata = body.get("metadata") or {}
        if len(metadata) > 16 or any(len(name) > 64 or len(text) > 512 for name, text in metadata.items()):
            raise Refused("metadata: too long")
        if file not in self._jobs.files or not self._jobs.is_ready(file):
            raise Refused(f"Invalid input_file_id: {file}")
        content = self._jobs.new_file(file).read_bytes()
        about = {"file": file, "endpoint": endpoint, **metadata}
        id = f"batch_{uuid.uuid4().hex}"
        lines: list[Line] = []
        try:
            lines = _checked(parsed(content), endpoint)
            refusal = self._jobs.refusal_of(lines, len(content))
        except Refused as exc:
            refusal = exc
        job = self._jobs.create(id, lines, about, refusal)
        if self._jobs.cuts_reply():
            raise ConnectionResetError
        return json_answer(self._shown(job))

    def _batch(self, id: str, *, cancel: bool) -> web.Response:
        job = self._jobs.jobs.get(id)
        if job is None:
            raise Refused(f"No batch found with id '{id}'.", status=404)
        if cancel:
            if job.over(time.time()):
                raise Refused("Cannot cancel a batch that is over.", status=409)
            job.cancelled = time.time()
        return json_answer(self._shown(job))

    def _shown(self, job: Job) -> Body:
        now = time.time()
        state = job.state(now)
        metadata = {name: text for name, text in job.metadata.items() if name not in ("file", "endpoint")}
        shown: Body = {
            "id": job.id, "object": "batch", "endpoint": job.metadata["endpoint"], "completion_window": "24h",
            "input_file_id": job.metadata["file"], "status": _STATES.get(state, state),
            "created_at": int(job.created), "expires_at": int(job.created) + 86_400, "metadata": metadata,
            "errors": None, "output_file_id": None, "error_file_id": None,
            "request_counts": {"total": len(job.lines), "completed": job.answered(now), "failed": 0},
        }  # fmt: skip
        if job.refusal is not None:
            error = {"code": job.refusal.code, "message": str(job.refusal), "line": job.refusal.line, "param": None}
            return {**shown, "errors": {"object": "list", "data": [error]}}
        if job.over(now) and not job.fails:
            results = self._jobs.results(job)
            good = sum(result.status == 200 for result in results)
            shown["output_file_id"] = f"file-out-{job.id}" if good else None
            shown["error_file_id"] = f"file-err-{job.id}" if good < len(results) else None
            self._jobs.outputs.update(filter(None, (shown["output_file_id"], shown["error_file_id"])))
            shown["request_counts"] |= {
                "completed": good,
                "failed": sum(result.status > 0 for result in results) - good,
            }
        return shown


def _checked(found: list[Body], endpoint: str) -> list[Line]:
    seen: set[str] = set()
    models: set[str] = set()
    lines = []
    for number, one in enumerate(found, 1):
        if set(one) != _LINE or one["method"] != "POST" or one["url"] != endpoint:
            raise Refused("The line is not of this endpoint.", code="invalid_url", line=number)
        if one["custom_id"] in seen:
            raise Refused("The custom_id is not unique.", code="duplicate_custom_id", line=number)
        seen.add(one["custom_id"])
        models.add(one["body"].get("model"))
        if len(models) > 1:
            raise Refused("The model of this line differs.", code="mismatched_model", line=number)
        path = endpoint if endpoint.startswith("/v1") else f"/v1{endpoint}"
        lines.append(Line(one["custom_id"], one["body"], path))
    if not lines:
        raise Refused("The file is empty.", code="empty_file")
    return lines


def _line(result: Result, reason: str) -> Body:
    mark = hashlib.sha256(result.line.custom_id.encode()).hexdigest()  # the same each time
    head = {"id": f"batch_req_{mark}", "custom_id": result.line.custom_id}
    if result.status == 0:
        return {**head, "response": None, "error": {"code": reason, "message": "This request was not executed."}}
    response = {"status_code": result.status, "request_id": f"req-{mark[:12]}", "body": result.body}
    return {**head, "response": response, "error": None}
