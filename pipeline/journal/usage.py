"""Usage that a run paid for, summed from its call records."""

from collections import Counter, defaultdict

import polars as pl

from pipeline.journal.compacted import listed, read_compacted
from pipeline.journal.segments import Reading, read_bodies
from pipeline.stores import Store
from schemas.manifest import TierUsage, Usage
from stages.journal.records import TOOL, CallRecord, Record, record_of
from stages.limits.budget import NANOS

_CALL = b'{"k":"call"'
LISTINGS = 3  # a reader lists again if a listed object is gone


def usage_of_run(store: Store, partition: str, run: str) -> Usage:
    """Sum the usage of a run in a partition from its call records: all attempts and zombies, each once."""
    total = _Sum()  # damage was reported by `pipeline.journal.join`
    for _ in range(LISTINGS):
        reading = Reading()
        segments, merged = listed(store, partition, run)
        for chunk in read_compacted(
            store, merged, ["kind", "run", "body"], reading, accept=lambda footer: run in footer.runs
        ):
            mine = chunk.filter((pl.col("kind") == "call") & (pl.col("run") == run))
            for body in mine["body"].to_list():
                total.add(record_of(body))
        for bodies in read_bodies(store, segments, reading):
            for body in bodies:
                if body.startswith(_CALL):  # two thirds are others, and a record takes a while to parse
                    record = record_of(body)
                    total.add(record if record is not None and record.run == run else None)
        if not reading.gone:
            break
    return total.usage()


class _Sum:
    """A running sum over calls; of each it keeps two digests, not the answer."""

    def __init__(self) -> None:
        self._seen: set[int] = set()
        self._unknown: set[int] = set()
        self._calls: set[int] = set()
        self._numbers: Counter[str] = Counter()
        self._cost = 0.0
        self._tier_calls: Counter[str] = Counter()
        self._tier_cost: defaultdict[str, float] = defaultdict(float)
        self._tier_tokens: Counter[str] = Counter()
        self._saved_nanos = 0

    def add(self, record: Record | None) -> None:
        if not isinstance(record, CallRecord) or record.carried or record.model.startswith(TOOL):
            return
        nonce = int(record.nonce[:16], 16)
        if record.raw is None:
            self._unknown.add(nonce)  # replaced if its answer is found after all
            return
        if nonce in self._seen:
            return
        self._seen.add(nonce)
        call = hash((*record.key, record.id))
        self._numbers["repaid"] += call in self._calls
        self._calls.add(call)
        self._numbers["calls"] += 1
        self._numbers["unpriced_calls"] += record.cost_usd is None
        self._cost += record.cost_usd or 0.0
        tier = tier_of(record)
        self._tier_calls[tier] += 1
        self._tier_cost[tier] += record.cost_usd or 0.0
        self._tier_tokens[tier] += record.usage.get("input", 0) + record.usage.get("output", 0)
        self._saved_nanos += record.usage.get("cache_saved", 0)
        for ours, theirs in _TOKENS.items():
            self._numbers[ours] += record.usage.get(theirs, 0)

    def usage(self) -> Usage:
        return Usage(
            **self._numbers,
            cost_usd=self._cost,
            cache_saved_usd=self._saved_nanos / NANOS,
            unknown=len(self._unknown - self._seen),
            by_tier={
                tier: TierUsage(calls=calls, cost_usd=self._tier_cost[tier], tokens=self._tier_tokens[tier])
                for tier, calls in self._tier_calls.items()
            },
        )


def tier_of(record: CallRecord) -> str:
    """Return the price tier of a call: what its answer calls default, auto or nothing is standard."""
    named = (record.by or {}).get("tier", "")
    return named if named in ("batch", "flex", "priority") else "standard"


_TOKENS = {
    "input_tokens": "input",
    "output_tokens": "output",
    "cached_input_tokens": "cached_input",
    "cache_write_tokens": "cache_write",
    "reasoning_tokens": "reasoning",
    "web_searches": "web_searches",
}
