"""What the providers' jobs have in common: lines that are answered by the server's rules, states that follow the clock,
and the count of what was submitted."""

from __future__ import annotations

import functools
import random
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, Protocol

import boto3
import orjson
from aiohttp import web

from tests.harness.ledger import Ledger
from tests.harness.openai_wire import Asked, error_reply, reply_to
from tests.harness.protocols import protocol_of
from tests.harness.script import JobScript, Rules, share

State = Literal["queued", "running", "ended", "failed", "expired", "cancelled"]
Body = dict[str, Any]


class Refused(Exception):
    """A job, or a file, is not taken. `line`: the one at fault, from 1."""

    def __init__(self, message: str, *, status: int = 400, code: str | None = None, line: int | None = None) -> None:
        super().__init__(message)
        self.status, self.code, self.line = status, code, line


@dataclass
class Line:
    """A request of a job, in the provider's own form, and the path of a live call of it."""

    custom_id: str
    body: Body
    path: str


@dataclass
class Result:
    """What became of a line. `status` 0: it was not worked on before the job ended."""

    line: Line
    status: int
    body: Any = None


@dataclass
class Job:
    """`times`: when it begins and when it ends, unless it is cancelled first; `share`: of its lines that are answered
    by then."""

    id: str
    lines: list[Line]
    created: float
    begins: float
    ends: float
    metadata: Body
    tokens: int = 0
    expires: bool = False
    fails: bool = False
    share: float = 1.0
    cancelled: float | None = None
    refusal: Refused | None = None
    results: list[Result] | None = None

    def state(self, now: float) -> State:
        if self.refusal is not None:
            return "failed"
        if self.cancelled is not None and self.cancelled < self.ends:
            return "cancelled"
        if now < self.begins:
            return "queued"
        if now < self.ends:
            return "running"
        if self.fails:
            return "failed"
        return "expired" if self.expires else "ended"

    def over(self, now: float) -> bool:
        return self.state(now) not in ("queued", "running")

    def answered(self, now: float) -> int:
        """The number of lines that are answered: the first ones."""
        if self.refusal is not None or self.fails:
            return 0
        until = min(now, self.ends, self.cancelled if self.cancelled is not None else self.ends)
        length = self.ends - self.begins
        progress = 1.0 if length <= 0 else max(0.0, min(1.0, (until - self.begins) / length))
        return int(len(self.lines) * progress * self.share)


@dataclass
class Jobs:
    """The jobs of all providers, in this process's memory, and files in a folder of its own."""

    script: JobScript = field(default_factory=JobScript)
    rules: Rules = field(default_factory=lambda: Rules(()))
    ledger: Ledger = field(default_factory=Ledger)
    jobs: dict[str, Job] = field(default_factory=dict)
    files: dict[str, Body] = field(default_factory=dict)
    sent: dict[str, float] = field(default_factory=dict)
    outputs: set[str] = field(default_factory=set)  # files of results that were named
    deleted: set[str] = field(default_factory=set)
    submitted: Counter[str] = field(default_factory=Counter)
    cut: int = 0
    base_url: str = ""
    s3: str = ""  # the address of the S3 server that Bedrock's files lie in
    bucket: str = ""
    _folder: tempfile.TemporaryDirectory[str] = field(default_factory=tempfile.TemporaryDirectory)

    def stats(self) -> Body:
        now = time.time()
        objects = self.objects() if self.s3 else []
        return {
            "jobs": [
                {"id": job.id, "state": job.state(now), "requests": len(job.lines), "metadata": job.metadata}
                for job in self.jobs.values()
            ],
            "files": len(self.files) + sum("/input/" in key for key in objects),
            "kept": sorted([*(self.files.keys() | self.outputs - self.deleted), *objects]),
            "submitted": sum(self.submitted.values()),
            "custom_ids": len(self.submitted),
            "most_submitted": max(self.submitted.values(), default=0),
        }

    @functools.cached_property
    def client(self) -> Any:
        """A client of the S3 server."""
        return boto3.client("s3", endpoint_url=self.s3)

    def objects(self) -> list[str]:
        """The keys of the objects in Bedrock's bucket."""
        return [item["Key"] for item in self.client.list_objects_v2(Bucket=self.bucket).get("Contents", ())]

    def check_key(self, request: web.BaseRequest) -> None:
        """Raise Refused for the key that the script refuses, on a path about jobs."""
        key = self.script.refuse_key
        sent = f"{request.headers.get('Authorization', '')}{request.headers.get('x-goog-api-key', '')}"
        if key and key in sent and any(word in request.path for word in ("batch", "files", "invocation")):
            raise Refused("invalid x-api-key", status=401)

    def new_file(self, name: str) -> Path:
        return Path(self._folder.name) / name.replace("/", "-")

    def is_ready(self, file: str) -> bool:
        """True if a file is taken in."""
        return time.time() >= self.sent.get(file, 0.0) + self.script.file_s

    def create(self, id: str, lines: list[Line], metadata: Body, refusal: Refused | None = None) -> Job:
        """Add a job. What is refused was not submitted."""
        now, script = time.time(), self.script
        tokens = sum(len(orjson.dumps(line.body)) // 4 for line in lines) if script.enqueued_tokens is not None else 0
        job = Job(
            id=id, lines=lines, created=now, begins=now + script.queue_s, ends=now + script.queue_s + script.run_s,
            metadata=metadata, tokens=tokens, refusal=refusal, expires=script.expire_share is not None,
            fails=script.fail,
            share=1.0 if script.expire_share is None else script.expire_share,
        )  # fmt: skip
        self.jobs[id] = job
        if refusal is None:
            self.submitted.update(line.custom_id for line in lines)
        return job

    def refusal_of(self, lines: list[Line], size: int) -> Refused | None:
        """The script's refusal of a whole job, if it has any: of its size, of a line, or of a full queue."""
        script = self.script
        if len(lines) > script.max_requests or size > script.max_bytes:
            return Refused("the batch is too large", status=413, code="batch_too_large")
        for number, line in enumerate(lines, 1):
            if script.refuse_line and script.refuse_line in orjson.dumps(line.body).decode():
                return Refused(f"Invalid value in request {number}.", code="invalid_request", line=number)
        if script.enqueued_tokens is not None:
            now = time.time()
            out = sum(job.tokens for job in self.jobs.values() if not job.over(now))
            mine = sum(len(orjson.dumps(line.body)) // 4 for line in lines)
            if out + mine > script.enqueued_tokens:
                text = f"Enqueued token limit reached. Limit: {script.enqueued_tokens:,} enqueued tokens."
                return Refused(text, status=429, code="token_limit_exceeded")
        return None

    def results(self, job: Job) -> list[Result]:
        """The results of a job that is over; each line is answered once."""
        if job.results is None:
            done = job.answered(time.time())
            found = [self._result(line) for line in job.lines[:done]]
            found += [Result(line, 0) for line in job.lines[done:]]
            job.results = list(self._spoilt(found))
        return job.results

    def _result(self, line: Line) -> Result:
        protocol = protocol_of(line.path)
        assert protocol is not None, line.path
        if self.script.error_rate and share(f"job:{line.custom_id}") < self.script.error_rate:
            reply = error_reply(self.script.error_status, None, {}, protocol=protocol)
            return Result(line, reply.status, orjson.loads(reply.pieces[0]))
        embedding = line.path.endswith("/embeddings")
        try:
            asked = Asked.parse(orjson.dumps(line.body), embedding=embedding, protocol=protocol, path=line.path)
        except (ValueError, KeyError, TypeError) as exc:
            return Result(line, 400, protocol.error(400, str(exc), None))
        call, repetition = self.ledger.open(asked.digest, asked.model, asked.message)
        rule = self.rules.choose(
            asked.message, asked.digest, repetition, asked.ends_with_user, asked.turns, asked.data.keys()
        )
        reply = reply_to(asked, rule)
        call.status, call.fault, call.answered = reply.status, reply.fault, True
        call.usage = {"prompt_tokens": reply.prompt_tokens, "completion_tokens": reply.completion_tokens}
        self.ledger.close(call)
        return Result(line, reply.status, orjson.loads(b"".join(reply.pieces)))

    def _spoilt(self, found: list[Result]) -> Iterator[Result]:
        """The results with the script's faults: some missing, some of requests that nobody made, in another order."""
        if self.script.shuffle:
            random.Random(7).shuffle(found)
        yield from found[self.script.missing :]
        for number in range(self.script.unknown if found else 0):
            stranger = Line(f"stranger-{number}", found[0].line.body, found[0].line.path)
            yield Result(stranger, found[0].status, found[0].body)

    def delete(self, file: str) -> None:
        """Delete a file that was sent, or one of results. Raises Refused."""
        if self.script.keep_files:
            raise Refused("The file is in use.", status=409)
        if file not in self.files and (file not in self.outputs or file in self.deleted):
            raise Refused(f"No such file: {file}", status=404)
        self.files.pop(file, None)
        self.deleted.add(file)

    def cuts_reply(self) -> bool:
        """True if the reply to this creation is to be lost."""
        self.cut += 1
        return self.cut <= self.script.cut_reply


class Provider(Protocol):
    """The endpoints of one provider. `error`: the body of a refusal."""

    @staticmethod
    def error(refused: Refused) -> Body: ...

    def __init__(self, jobs: Jobs) -> None: ...

    async def answer(self, request: web.BaseRequest) -> web.StreamResponse | None:
        """The answer to a request; None if it is not the provider's. Raises Refused, ConnectionResetError."""
        ...


def json_answer(data: object, status: int = 200, headers: dict[str, str] | None = None) -> web.Response:
    return web.Response(body=orjson.dumps(data), status=status, content_type="application/json", headers=headers)


async def lines_answer(request: web.BaseRequest, lines: Iterator[bytes]) -> web.StreamResponse:
    """A body of lines, written some at a time."""
    response = web.StreamResponse(headers={"Content-Type": "application/x-jsonl"})
    await response.prepare(request)
    held: list[bytes] = []
    for line in lines:
        held.append(line + b"\n")
        if len(held) == 1000:
            await response.write(b"".join(held))
            held = []
    await response.write(b"".join(held))
    await response.write_eof()
    return response


def parsed(content: bytes) -> list[Body]:
    """The objects of JSON lines. Raises Refused."""
    found = []
    for number, line in enumerate(content.splitlines(), 1):
        try:
            value = orjson.loads(line)
        except orjson.JSONDecodeError:
            value = None
        if not isinstance(value, dict):
            raise Refused("This line is not parseable as valid JSON.", code="invalid_json_line", line=number)
        found.append(value)
    return found
