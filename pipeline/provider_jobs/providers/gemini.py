"""Gemini's batches in AI Studio, from files."""

import asyncio
from collections.abc import AsyncIterator, Collection
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import orjson

from pipeline.provider_jobs.base import Content, WireAnswers
from pipeline.provider_jobs.providers.http import JSON_S, Connection, answers_in, until_ready
from schemas.errors import NoAnswer
from schemas.jobs import Intent
from stages.models.wires.jobs import gemini
from stages.models.wires.jobs.form import Framing, JobAnswer, JobLimits, JobStatus
from stages.models.wires.transport import ProviderChatModel

_PAGE = "100"


@dataclass
class GeminiJobs(WireAnswers):
    """Content goes up as a file, then a job is created of it; it is found by its display name."""

    model: ProviderChatModel
    limits: JobLimits = gemini.LIMITS
    framing: Framing = gemini.FRAMING
    create_s: float = JSON_S
    _http: Connection = field(init=False)

    def __post_init__(self) -> None:
        self._http = Connection(self.model)
        self._version = self.model.wire.path("").partition("/")[0]  # that of live calls

    def line(self, custom_id: str, body: dict[str, Any]) -> bytes:
        return gemini.line(custom_id, body)

    async def upload(self, intent: Intent, content: Content) -> str:
        """Send the content in one piece of a resumable upload."""
        size = str(content.bytes)
        start = {
            "X-Goog-Upload-Protocol": "resumable", "X-Goog-Upload-Command": "start",
            "X-Goog-Upload-Header-Content-Length": size, "X-Goog-Upload-Header-Content-Type": gemini.MIME,
            "Content-Type": "application/json",
        }  # fmt: skip
        about = orjson.dumps({"file": {"displayName": gemini.display_name(intent), "mimeType": gemini.MIME}})
        url = self._http.at_base(f"{self.model.base_url.rstrip('/')}/upload/{self._version}/files")
        reply = await self._http.send("POST", url, about, start)
        target = reply.headers.get("X-Goog-Upload-URL")
        if target is None:
            raise NoAnswer("the provider names no address for the upload", kind="malformed_response", billed=False)
        command = {"X-Goog-Upload-Command": "upload, finalize", "X-Goog-Upload-Offset": "0"}
        sent = await self._http.send_file(self._http.at_base(target), content.path, command)
        file = sent.body["file"]

        async def ready() -> bool:
            return (await self._http.json("GET", f"{self._version}/{file['name']}")).get("state") != gemini.UNREADY

        if file.get("state") == gemini.UNREADY:
            await until_ready(ready, f"the file {file['name']}")
        return str(file["name"])

    async def withdraw(self, file: str) -> None:
        await self._http.delete(f"{self._version}/{file}", gone=(403, 404))  # which it does not tell apart

    async def create(self, intent: Intent, content: Content, file: str) -> str:
        path = self.model.wire.path(self.model.model).partition(":")[0]
        answer = await self._http.json("POST", f"{path}:batchGenerateContent", gemini.create_body(intent, file))
        return str(answer["name"])

    async def find(self, intent: Intent, others: Collection[str] = ()) -> str | None:
        query = {"pageSize": _PAGE}
        while True:
            page = await self._http.json("GET", f"{self._version}/batches", query=query)
            for operation in page.get("operations") or ():
                if gemini.is_of(operation, intent):
                    return str(operation["name"])
            if not page.get("nextPageToken"):
                return None
            query = {"pageSize": _PAGE, "pageToken": page["nextPageToken"]}

    async def status(self, id: str) -> JobStatus:
        return gemini.status_of(await self._http.json("GET", f"{self._version}/{id}"))

    async def results(self, id: str, folder: Path) -> AsyncIterator[JobAnswer]:
        file = (await self.status(id)).files.get("responsesFile")
        if file is None:
            return
        path = folder / "responses.jsonl"
        await self._http.download(f"{self._version}/{file}:download", path, {"alt": "media"})
        async for answer in answers_in(path, gemini.answer_of):
            yield answer
        await asyncio.to_thread(path.unlink)

    async def cancel(self, id: str) -> None:
        if (await self.status(id)).state in ("queued", "running"):
            await self._http.json("POST", f"{self._version}/{id}:cancel", {})
