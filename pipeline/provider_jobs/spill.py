"""The results of a job in a local file, found by custom id: they come in any order, and may be larger than memory."""

import asyncio
from collections.abc import AsyncIterator, Iterable
from dataclasses import dataclass, field
from pathlib import Path

import orjson

from schemas.job_requests import AskedKey
from stages.models.wires.jobs.form import JobAnswer

_TOGETHER = 256  # answers a write


@dataclass
class Spill:
    """Results by custom id. `unknown`: results of requests that are not ours, and second ones of one request."""

    path: Path
    unknown: int = 0
    _places: dict[AskedKey, tuple[int, int]] = field(default_factory=dict)

    async def fill(self, answers: AsyncIterator[JobAnswer], prefix: str, ours: Iterable[AskedKey]) -> None:
        """Keep the results of our requests."""
        known = {f"{asked}-{ordinal}": (asked, ordinal) for asked, ordinal in ours}
        held: list[tuple[AskedKey, bytes]] = []
        await asyncio.to_thread(self.path.touch)
        async for answer in answers:
            key = known.pop(answer.custom_id.removeprefix(prefix), None)
            if key is None or not answer.custom_id.startswith(prefix):
                self.unknown += 1
                continue
            held.append((key, orjson.dumps(answer)))
            if len(held) >= _TOGETHER:
                await asyncio.to_thread(self._write, held)
                held = []
        await asyncio.to_thread(self._write, held)

    def _write(self, held: list[tuple[AskedKey, bytes]]) -> None:
        with self.path.open("ab") as out:
            for key, line in held:
                self._places[key] = out.tell(), len(line)
                out.write(line)

    def get(self, key: AskedKey) -> tuple[JobAnswer | None, int]:
        """Return the result of a request, None if there is none, and its size in bytes."""
        place = self._places.get(key)
        if place is None:
            return None, 0
        with self.path.open("rb") as source:
            source.seek(place[0])
            return JobAnswer(**orjson.loads(source.read(place[1]))), place[1]
