"""The rows of one attempt of one batch as spans, which rows are kept, and the span of each row over its stages."""

import time
import zlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

import orjson

from pipeline.telemetry.traces.gen_ai import CHAT, EMBEDDINGS
from pipeline.telemetry.traces.place import Place
from pipeline.telemetry.traces.row_spans import RowSpans
from pipeline.telemetry.traces.tracer import Span, Tracer
from schemas.messages.base import RunRef
from stages.observer import RowObserver, RowOutcome

_ALL = 1 << 32


@dataclass(frozen=True)
class Kept:
    """Which rows are kept: a `share` of them, the same in every process of a run; with the texts of rows, prompts and
    answers if `content`. Rejected and slow rows are kept all the same."""

    share: float
    content: bool

    def sampled(self, run: str, row: str) -> bool:
        return zlib.crc32(row.encode(), _salt(run)) < self.share * _ALL


@lru_cache
def _salt(run: str) -> int:
    """Return a number of the run, so that its rows are not those that other runs sample."""
    return zlib.crc32(run.encode())


@dataclass
class BatchSpans:
    """One attempt of a batch. `times` are those of kept rows, from their first stage to their last, in nanoseconds."""

    tracer: Tracer
    ref: RunRef
    place: Place
    kept: Kept
    attempt: int = 1
    began: int = field(default_factory=time.time_ns)
    times: dict[str, tuple[int, int]] = field(default_factory=dict)
    values: dict[str, Mapping[str, Any]] = field(default_factory=dict)

    def row_began(self, stage: str, uses: str, id: str, values: Mapping[str, Any]) -> RowObserver:
        operation = EMBEDDINGS if uses == "embed" else CHAT
        sampled = self.kept.sampled(self.ref.run, id)
        return RowSpans(self, stage, operation, id, sampled, values if self.kept.content else None)

    @property
    def content(self) -> bool:
        return self.kept.content

    def row_place(self, id: str) -> Place:
        return self.place.below("row", id)

    def keep(self, id: str, began: int, ended: int, values: Mapping[str, Any] | None) -> None:
        first, _ = self.times.get(id, (began, ended))
        self.times[id] = first, ended
        if values is not None:
            self.values[id] = {**self.values.get(id, {}), **values}

    def rows_ended(self, outcomes: Iterable[RowOutcome]) -> None:
        now = time.time_ns()
        for outcome in outcomes:
            rejected, known = outcome.status == "rejected", outcome.id in self.times
            if known or rejected or self.kept.sampled(self.ref.run, outcome.id):
                began, ended = self.times.get(outcome.id, (self.began, now))
                self._emit(outcome, began, ended)

    def _emit(self, outcome: RowOutcome, began: int, ended: int) -> None:
        values = self.values.get(outcome.id)
        self.tracer.emit(
            Span(
                name="row",
                parent=self.place,
                place=self.row_place(outcome.id),
                began=began,
                ended=ended,
                attributes={
                    "tandem.row.id": outcome.id,
                    "tandem.row.outcome": outcome.status,
                    "tandem.stage": outcome.stage or None,
                    "tandem.attempt": self.attempt,
                    "tandem.row.values": orjson.dumps(values, default=str).decode() if values else None,
                },
                error=outcome.error,
            )
        )
