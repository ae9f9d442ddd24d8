"""Anthropic's Message Batches, as strict as the real ones where that is known."""

from __future__ import annotations

import datetime as dt
import re
import time
import uuid
from collections import Counter
from collections.abc import Iterator

import orjson
from aiohttp import web

from tests.harness.jobs.server import Body, Job, Jobs, Line, Refused, Result, json_answer, lines_answer
from tests.harness.protocols import anthropic

_BATCHES = "/v1/messages/batches"
_BATCH = re.compile(_BATCHES + r"/(msgbatch_\w+)(/cancel|/results)?")
_CUSTOM_ID = re.compile(r"[a-zA-Z0-9_-]{1,64}")
_NAMES = {"ended": "succeeded", "expired": "expired", "cancelled": "canceled"}


class AnthropicBatches:
    def __init__(self, jobs: Jobs) -> None:
        self._jobs = jobs

    @staticmethod
    def error(refused: Refused) -> Body:
        return anthropic.error(refused.status, str(refused), refused.code)

    async def answer(self, request: web.BaseRequest) -> web.StreamResponse | None:
        if request.path == _BATCHES:
            return self._list(request) if request.method == "GET" else self._create(await request.read())
        match = _BATCH.fullmatch(request.path)
        if match is None:
            return None
        job = self._jobs.jobs.get(match[1])
        if job is None:
            raise Refused(f"No such batch: {match[1]}", status=404)
        if match[2] == "/results":
            if not job.over(time.time()):
                raise Refused("The batch has not ended.", status=400)
            return await lines_answer(request, self._results(job))
        if match[2] == "/cancel":
            if job.over(time.time()):
                raise Refused("The batch has ended already.", status=400)
            job.cancelled = time.time()
        return json_answer(self._shown(job))

    def _create(self, content: bytes) -> web.Response:
        body = orjson.loads(content)
        if set(body) != {"requests"} or not body["requests"]:
            raise Refused("requests: Field required")
        seen: set[str] = set()
        lines = []
        for number, one in enumerate(body["requests"]):
            if set(one) != {"custom_id", "params"} or not _CUSTOM_ID.fullmatch(one["custom_id"]):
                raise Refused(f"requests.{number}.custom_id: String should match pattern")
            if one["custom_id"] in seen:
                raise Refused(f"requests.{number}.custom_id: must be unique")
            seen.add(one["custom_id"])
            lines.append(Line(one["custom_id"], one["params"], "/v1/messages"))
        refusal = self._jobs.refusal_of(lines, len(content))
        if refusal is not None:
            place = f"requests.{refusal.line - 1}: " if refusal.line is not None else ""
            raise Refused(f"{place}{refusal}", status=refusal.status)
        job = self._jobs.create(f"msgbatch_{uuid.uuid4().hex}", lines, {})
        if self._jobs.cuts_reply():
            raise ConnectionResetError
        return json_answer(self._shown(job))

    def _list(self, request: web.BaseRequest) -> web.Response:
        """The newest first, a page at a time."""
        limit, after = int(request.query.get("limit", "20")), request.query.get("after_id")
        jobs = [job for job in reversed(self._jobs.jobs.values()) if job.id.startswith("msgbatch_")]
        begin = next((index + 1 for index, job in enumerate(jobs) if job.id == after), 0)
        page = [self._shown(job) for job in jobs[begin : begin + limit]]
        first, last = (page[0]["id"], page[-1]["id"]) if page else (None, None)
        return json_answer(
            {"data": page, "has_more": begin + limit < len(jobs), "first_id": first, "last_id": last}
        )  # fmt: skip

    def _shown(self, job: Job) -> Body:
        now = time.time()
        over = job.over(now)
        counts = dict.fromkeys(("processing", "succeeded", "errored", "canceled", "expired"), 0)
        if over:
            name = _NAMES[job.state(now)]
            kinds = Counter(_kind(result, name) for result in self._jobs.results(job))
            counts |= {kind: kinds[kind] for kind in counts}
            # Sums always match, whatever a file of results lacks.
            counts["succeeded"] += len(job.lines) - sum(counts.values())
        else:
            counts["processing"] = len(job.lines)
        status = "ended" if over else "in_progress"
        return {
            "id": job.id, "type": "message_batch", "processing_status": status, "request_counts": counts,
            "created_at": _time(job.created), "expires_at": _time(job.created + 86_400), "archived_at": None,
            "ended_at": _time(job.ends) if over else None,
            "cancel_initiated_at": _time(job.cancelled) if job.cancelled is not None else None,
            "results_url": f"{self._jobs.base_url}{_BATCHES}/{job.id}/results" if over else None,
        }  # fmt: skip

    def _results(self, job: Job) -> Iterator[bytes]:
        name = _NAMES[job.state(time.time())]
        for result in self._jobs.results(job):
            kind = _kind(result, name)
            body = {"succeeded": {"message": result.body}, "errored": {"error": result.body}}.get(kind, {})
            yield orjson.dumps({"custom_id": result.line.custom_id, "result": {"type": kind, **body}})


def _kind(result: Result, not_run: str) -> str:
    if result.status == 0:
        return not_run
    return "succeeded" if result.status == 200 else "errored"


def _time(seconds: float) -> str:
    return dt.datetime.fromtimestamp(seconds, dt.UTC).isoformat().replace("+00:00", "Z")
