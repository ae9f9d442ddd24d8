"""Jobs at OpenAI, Azure OpenAI, and servers that speak their protocol."""

from collections.abc import AsyncIterator, Collection, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from langchain_core.outputs import ChatResult

from pipeline.provider_jobs.base import Content, WireAnswers
from pipeline.provider_jobs.providers.http import JSON_S, Connection, answers_in, until_ready
from schemas.jobs import Intent
from stages.models.embeddings.answers import OpenAICompatibleEmbeddings, vectors_in
from stages.models.wires.jobs import openai
from stages.models.wires.jobs.form import Framing, JobAnswer, JobLimits, JobStatus
from stages.models.wires.transport import ProviderChatModel

_PAGE = "100"
_SKEW_S = 3600.0  # between our clock and the provider's


@dataclass
class OpenAIJobs(WireAnswers):
    """Content goes up as a file, then a job is created of it. `azure`: lines name a deployment, and a shorter path."""

    model: ProviderChatModel
    azure: bool = False
    limits: JobLimits = openai.LIMITS
    framing: Framing = openai.FRAMING
    create_s: float = JSON_S
    _http: Connection = field(init=False)

    def __post_init__(self) -> None:
        self._http = Connection(self.model)
        self._embeds = isinstance(self.model, OpenAICompatibleEmbeddings)
        path = "embeddings" if self._embeds else self.model.wire.path(self.model.model)
        self._endpoint = f"/{path}" if self.azure and path != "responses" else f"/v1/{path}"

    def line(self, custom_id: str, body: dict[str, Any]) -> bytes:
        sent = {name: value for name, value in body.items() if name != "stream"}
        if self.model.batch_deployment:
            sent["model"] = self.model.batch_deployment
        return openai.line(custom_id, self._endpoint, sent)

    def result(self, answer: JobAnswer) -> ChatResult:
        assert answer.body is not None
        if self._embeds:
            return vectors_in(answer.body, [1], answer.request_id)[0]
        return self.model.wire.result(answer.body, _headers(answer), self.model.model)

    def failure(self, answer: JobAnswer) -> tuple[int, str] | None:
        return None if self._embeds or answer.body is None else self.model.wire.failure(answer.body)

    async def upload(self, intent: Intent, content: Content) -> str:
        answer = await self._http.send_form("files", {"purpose": "batch"}, content.path, f"tandem-{intent.job}.jsonl")
        file = str(answer["id"])

        async def ready() -> bool:
            return (await self._http.json("GET", f"files/{file}")).get("status") not in openai.UNREADY

        if answer.get("status") in openai.UNREADY:
            await until_ready(ready, f"the file {file}")
        return file

    async def withdraw(self, file: str) -> None:
        await self._http.delete(f"files/{file}")

    async def create(self, intent: Intent, content: Content, file: str) -> str:
        answer = await self._http.json("POST", "batches", openai.create_body(intent, file, self._endpoint))
        return str(answer["id"])

    async def find(self, intent: Intent, others: Collection[str] = ()) -> str | None:
        """Return the job by its metadata. The newest come first, so the search ends at those before the intent."""
        query = {"limit": _PAGE}
        while True:
            page = await self._http.json("GET", "batches", query=query)
            batches = page.get("data") or []
            for batch in batches:
                if openai.is_of(batch, intent):
                    return str(batch["id"])
            if not batches or not page.get("has_more") or batches[-1].get("created_at", 0) < intent.at - _SKEW_S:
                return None
            query = {"limit": _PAGE, "after": batches[-1]["id"]}

    async def status(self, id: str) -> JobStatus:
        return openai.status_of(await self._http.json("GET", f"batches/{id}"))

    async def results(self, id: str, folder: Path) -> AsyncIterator[JobAnswer]:
        status = await self.status(id)
        for kind, file in status.files.items():
            path = folder / f"{kind}.jsonl"
            await self._http.download(f"files/{file}/content", path)
            async for answer in answers_in(path, openai.answer_of):
                yield answer
            path.unlink(missing_ok=True)

    async def cancel(self, id: str) -> None:
        if (await self.status(id)).state in ("queued", "running"):
            await self._http.json("POST", f"batches/{id}/cancel")


def _headers(answer: JobAnswer) -> Mapping[str, str]:
    return {"x-request-id": answer.request_id} if answer.request_id else {}
