"""Summary of a run's calls: by second, by latency, by model, and the slowest and dearest rows. From the journal's
records, each read once, as frames; in memory that does not grow with them."""

import datetime as dt
import math
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

import polars as pl

from pipeline.runs.statistics.document import CostlyRow, LatencyBucket, ModelUsage, TimeBucket
from stages.journal.records import TOOL

COLUMNS = ("kind", "key", "stage", "nonce", "body")  # of records in the compacted form
_MOST_RECORDS = 500_000
_MOST_ROWS = 10_000  # held at a time, to find the slowest and dearest
_TOP = 10
_MOMENTS = 60
_STEP = math.log(1.05)  # latencies are kept to five per cent
_BARS = 24

_TOKENS = pl.Struct({"input": pl.Int64, "output": pl.Int64})
_BY = pl.Struct({"tier": pl.String, "stage": pl.String, "job": pl.String})
_CALL = pl.Struct(
    {"id": pl.String, "model": pl.String, "raw": pl.String, "usage": _TOKENS, "cost_usd": pl.Float64,
     "latency_ms": pl.Int64, "at": pl.Float64, "carried": pl.Boolean, "by": _BY}
)  # fmt: skip
_cost, _second = pl.col("cost_usd").fill_null(0.0), pl.col("at").cast(pl.Int64)
_USED_BY = (pl.col("model"), *(pl.col("by").struct.field(name).fill_null("") for name in ("tier", "stage")))
_ROWS = pl.Schema(
    {"partition": pl.String, "row": pl.String, "model": pl.String, "calls": pl.Int64, "ms": pl.Int64,
     "cost_usd": pl.Float64}
)  # fmt: skip
_USED = ("calls", "input_tokens", "output_tokens", "cost_usd")


@dataclass
class CallSummary:
    """Counts by second, latencies by class, usage by model, a few rows."""

    rows: Counter[int] = field(default_factory=Counter)
    calls: Counter[int] = field(default_factory=Counter)
    cost: dict[int, float] = field(default_factory=dict)
    latency: Counter[int] = field(default_factory=Counter)
    read: int = 0
    _dear: pl.DataFrame = field(default_factory=lambda: pl.DataFrame(schema=_ROWS))
    _used: list[pl.DataFrame] = field(default_factory=list)
    # Of the records that were read, as a record may come twice while a journal is compacted. Hashes, as the keys of a
    # large partition take tens of MB.
    _answered: set[int] = field(default_factory=set)
    _nonces: set[int] = field(default_factory=set)

    @property
    def full(self) -> bool:
        return self.read >= _MOST_RECORDS

    def add_all(self, chunks: Iterable[pl.DataFrame]) -> None:
        """Add all records of some partitions, or as many as are read at most."""
        for chunk in chunks:
            self.add(chunk)
            if self.full:
                return
        self._answered.clear()
        self._nonces.clear()

    def add(self, records: pl.DataFrame) -> None:
        """Add records, with their `partition`; those of a row that is told have to come soon after each other."""
        self.read += records.height
        keys = pl.struct("partition", "stage", "key").hash()
        answers = _new(records.filter(pl.col("kind").is_in(["row", "pending"])), keys, self._answered)
        decided = answers.select(pl.col("body").cast(pl.String).str.json_decode(pl.Struct({"at": pl.Float64})))
        self.rows.update(decided.unnest("body").select(_second).to_series().to_list())
        self._add_calls(records.filter(pl.col("kind") == "call"))

    def _add_calls(self, records: pl.DataFrame) -> None:
        fields = records.select("partition", "nonce", pl.col("body").cast(pl.String).str.json_decode(_CALL))
        answered = fields.unnest("body").filter(pl.col("raw").is_not_null() & ~pl.col("carried").fill_null(value=False))
        calls = _new(answered, pl.col("nonce").hash(), self._nonces)
        if not calls.height:
            return
        for second, number, cost in calls.group_by(_second).agg(pl.len(), _cost.sum()).iter_rows():
            self.calls[second] += number
            self.cost[second] = self.cost.get(second, 0.0) + cost
        # A provider batch job says nothing of the time of one call.
        timed = calls.filter(pl.col("by").struct.field("job").is_null())
        step = (pl.col("latency_ms").clip(1).log() / _STEP).round().cast(pl.Int64)
        self.latency.update(timed.select(step).to_series().to_list())
        tokens = (pl.col("usage").struct.field(name).fill_null(0).sum() for name in ("input", "output"))
        self._used.append(calls.group_by(_USED_BY).agg(pl.len(), *tokens, _cost.sum()))
        self._add_rows(calls)

    def _add_rows(self, calls: pl.DataFrame) -> None:
        mine = calls.group_by("partition", pl.col("id").alias("row"), maintain_order=True).agg(
            pl.col("model").last(), pl.len().cast(pl.Int64).alias("calls"), pl.col("latency_ms").sum().alias("ms"),
            _cost.sum(),
        )  # fmt: skip
        both = pl.concat([self._dear, mine]).group_by("partition", "row", maintain_order=True)
        self._dear = both.agg(pl.col("model").last(), pl.col("calls", "ms", "cost_usd").sum())
        if self._dear.height > _MOST_ROWS:
            self._dear = pl.concat([self._top("ms"), self._top("cost_usd")]).unique(["partition", "row"])

    def _top(self, by: str) -> pl.DataFrame:
        return self._dear.filter(pl.col(by) > 0).sort(by, descending=True, maintain_order=True).head(_TOP)

    @property
    def slowest(self) -> list[CostlyRow]:
        return [CostlyRow(**row) for row in self._top("ms").iter_rows(named=True)]

    @property
    def dearest(self) -> list[CostlyRow]:
        return [CostlyRow(**row) for row in self._top("cost_usd").iter_rows(named=True)]

    def models(self) -> list[ModelUsage]:
        """Return the models, the most expensive first; tools are none."""
        if not self._used:
            return []
        named = [frame.rename(dict(zip(frame.columns[3:], _USED, strict=True))) for frame in self._used]
        summed = pl.concat(named).group_by("model", "tier", "stage").agg(pl.col(*_USED).sum())
        models = summed.filter(~pl.col("model").str.starts_with(TOOL))
        ordered = models.sort("cost_usd", "model", "tier", "stage", descending=[True, False, False, False])
        return [ModelUsage(**model) for model in ordered.iter_rows(named=True)]

    def moments(self) -> Iterator[TimeBucket]:
        """Yield at most _MOMENTS equal parts, from the first to the last."""
        seconds = self.rows.keys() | self.calls.keys()
        if not seconds:
            return
        first, last = min(seconds), max(seconds)
        width = max(1, math.ceil((last - first + 1) / _MOMENTS))
        for start in range(first, last + 1, width):
            within = range(start, start + width)
            yield TimeBucket(
                at=dt.datetime.fromtimestamp(start, dt.UTC),
                seconds=width,
                rows=sum(self.rows[second] for second in within),
                calls=sum(self.calls[second] for second in within),
                cost_usd=sum(self.cost.get(second, 0.0) for second in within),
            )

    def bars(self) -> Iterator[LatencyBucket]:
        if not self.latency:
            return
        first, last = min(self.latency), max(self.latency)
        width = max(1, math.ceil((last - first + 1) / _BARS))
        for start in range(first, last + 1, width):
            calls = sum(self.latency[step] for step in range(start, start + width))
            yield LatencyBucket(
                least_ms=round(math.exp((start - 0.5) * _STEP), 1),
                most_ms=round(math.exp((start + width - 0.5) * _STEP), 1),
                calls=calls,
            )

    def percentile(self, share: float) -> float:
        remaining = share * self.latency.total()
        for step in sorted(self.latency):
            remaining -= self.latency[step]
            if remaining <= 0:
                return round(math.exp(step * _STEP), 1)
        return 0.0


def _new(records: pl.DataFrame, identity: pl.Expr, known: set[int]) -> pl.DataFrame:
    """Return the records whose identity is not known yet, and note it."""
    fresh = []
    for one in records.select(identity).to_series().to_list():
        fresh.append(one not in known)
        known.add(one)
    return records.filter(pl.Series(fresh, dtype=pl.Boolean))
