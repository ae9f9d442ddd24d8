"""Anthropic's Message Batches. They have no name of ours: one that was perhaps created is known by its custom ids,
which it shows when it has ended."""

from collections.abc import AsyncIterator, Collection
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pipeline.provider_jobs.base import Content, Undecided, WireAnswers
from pipeline.provider_jobs.providers.http import Connection, answers_in
from schemas.errors import RowError
from schemas.jobs import Intent
from stages.models.wires.jobs import anthropic
from stages.models.wires.jobs.form import Framing, JobAnswer, JobLimits, JobStatus, LineRefusal
from stages.models.wires.transport import ProviderChatModel

_BATCHES = "v1/messages/batches"
_PAGE = "100"
_SKEW_S = 300.0  # between our clock and the provider's


@dataclass
class AnthropicJobs(WireAnswers):
    """A job is created with all of its content in one request."""

    model: ProviderChatModel
    limits: JobLimits = anthropic.LIMITS
    framing: Framing = anthropic.FRAMING
    create_s: float = 900.0
    _http: Connection = field(init=False)

    def __post_init__(self) -> None:
        self._http = Connection(self.model)

    def line(self, custom_id: str, body: dict[str, Any]) -> bytes:
        return anthropic.line(custom_id, {name: value for name, value in body.items() if name != "stream"})

    def refusal(self, error: RowError) -> LineRefusal:
        return anthropic.refusal_of(error.message)

    async def upload(self, intent: Intent, content: Content) -> str:
        return ""

    async def withdraw(self, file: str) -> None: ...

    async def create(self, intent: Intent, content: Content, file: str) -> str:
        answer = await self._http.send_file(_BATCHES, content.path, {}, timeout_s=self.create_s)
        return str(answer.body["id"])

    async def find(self, intent: Intent, others: Collection[str] = ()) -> str | None:
        """Return the job among those of this size that were created since the intent, when it has ended."""
        undecided = []
        for batch in await self._created_since(intent.at - _SKEW_S):
            if batch["id"] in others or anthropic.total_of(batch) != intent.requests:
                continue
            if batch["processing_status"] != "ended":
                undecided.append(batch["id"])
            elif await self._is_of(batch, intent):
                return str(batch["id"])
        if undecided:
            raise Undecided(f"one of {', '.join(undecided)} may be the job {intent.job}; it shows when they end")
        return None

    async def _created_since(self, at: float) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = []
        query = {"limit": _PAGE}
        while True:
            page = await self._http.json("GET", _BATCHES, query=query)
            batches = page.get("data") or []
            found += [batch for batch in batches if anthropic.created_at(batch) >= at]
            if not page.get("has_more") or not batches or anthropic.created_at(batches[-1]) < at:
                return found
            query = {"limit": _PAGE, "after_id": page["last_id"]}

    async def _is_of(self, batch: dict[str, Any], intent: Intent) -> bool:
        first = await self._http.first_line(f"{_BATCHES}/{batch['id']}/results")
        return str(first.get("custom_id", "")).startswith(intent.prefix)

    async def status(self, id: str) -> JobStatus:
        return anthropic.status_of(await self._http.json("GET", f"{_BATCHES}/{id}"))

    async def results(self, id: str, folder: Path) -> AsyncIterator[JobAnswer]:
        path = folder / "results.jsonl"
        await self._http.download(f"{_BATCHES}/{id}/results", path)
        async for answer in answers_in(path, anthropic.answer_of):
            yield answer
        path.unlink(missing_ok=True)

    async def cancel(self, id: str) -> None:
        if (await self.status(id)).state == "running":
            await self._http.json("POST", f"{_BATCHES}/{id}/cancel")
