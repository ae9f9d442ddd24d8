"""Statistics of earlier calls of a pipeline's stages: tokens and seconds, from the journals of some partitions."""

import itertools
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

import polars as pl

from pipeline.journal import compacted, segments
from pipeline.stores import Store
from stages.contract import GraphStage
from stages.journal.records import CallRecord, RowRecord, record_of
from stages.limits.prices import WEB_SEARCHES
from stages.models.settings.choice import models_of

_PARTITIONS = 4
_RECORDS = 500
_COLUMNS = ("kind", "key", "stage", "body")


@dataclass(frozen=True)
class Range:
    """Bounds of the mean of some calls."""

    low: float
    high: float


@dataclass
class CallStats:
    """Numbers of calls that were made. `alike`: by this very stage, rather than by its model for another prompt."""

    alike: bool
    input: list[int] = field(default_factory=list)
    output: list[int] = field(default_factory=list)
    seconds: list[float] = field(default_factory=list)
    searches: list[int] = field(default_factory=list)

    def add(self, call: CallRecord) -> None:
        self.searches.append(call.usage.get(WEB_SEARCHES, 0))
        self.input.append(call.usage.get("input", 0))
        self.output.append(call.usage.get("output", 0))
        if "job" not in (call.by or {}):  # a provider batch job says nothing of the time of one call
            self.seconds.append(call.latency_ms / 1000)


def around(numbers: Sequence[float], calls: int) -> Range:
    """Return the bounds of the mean of so many further calls, if they are like these."""
    mean = sum(numbers) / len(numbers)
    variance = sum((number - mean) ** 2 for number in numbers) / len(numbers)
    spread = 0.15 * mean + 2 * math.sqrt(variance / max(1, min(calls, len(numbers))))
    return Range(max(min(numbers), mean - spread), mean + spread)


def call_stats(store: Store, stages: Iterable[GraphStage], partitions: Sequence[str]) -> dict[str, CallStats]:
    """Collect statistics by stage, from a few partitions over the whole list. Stages without calls are left out."""
    calling = [stage for stage in stages if stage.spec.model]
    found: dict[str, CallStats] = {}
    step = max(1, len(partitions) // _PARTITIONS)
    for partition in partitions[::step][:_PARTITIONS] if calling else ():
        reading = segments.Reading()
        for chunk in itertools.islice(compacted.everything(store, partition, _COLUMNS, reading), 1):
            for stage in calling:
                _add(found, stage, chunk)
    return found


def _add(found: dict[str, CallStats], stage: GraphStage, chunk: pl.DataFrame) -> None:
    calls = chunk.filter(pl.col("kind") == "call")
    rows = chunk.filter((pl.col("kind") == "row") & (pl.col("stage") == stage.fingerprint))["body"].head(_RECORDS)
    named = {call for body in rows for call in _calls_of(body)}
    if named:
        mine = calls.filter(pl.col("key").is_in({request for request, _ in named}))["body"].head(2 * _RECORDS)
        records = [record for record in map(record_of, mine) if isinstance(record, CallRecord) and record.key in named]
    else:
        names = {choice.name for choice in models_of(stage.spec)}
        records = [
            record
            for record in map(record_of, calls["body"].head(_RECORDS))
            if isinstance(record, CallRecord) and record.model in names
        ]
    answered = [record for record in records if record.raw is not None]
    known = found.get(stage.name)
    if not answered or (known is not None and known.alike and not named):
        return
    if known is None or known.alike != bool(named):
        known = found[stage.name] = CallStats(alike=bool(named))
    for record in answered:
        known.add(record)


def _calls_of(body: bytes) -> tuple[tuple[str, int], ...]:
    record = record_of(body)
    return record.calls if isinstance(record, RowRecord) else ()
