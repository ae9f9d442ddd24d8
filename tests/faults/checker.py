"""The one judge of all fault tests. It trusts nothing that the program says of itself: it reads the store, the input,
the model server's own log, Temporal, and what a reader saw, and compares them with a fault-free run.

    I1  each due partition has one live generation, generations follow one another, no run publishes twice
    I2  every input row is exactly once in the output or in the rejects (or filtered, by count)
    I3  a reader that polled throughout saw no partial file, no missing file, no row twice
    I4  the output equals the fault-free run's: content, and order within a partition
    I5  paid calls are at most those of the fault-free run and the allowance
    I6  nothing is left running
    I7  the reports' usage.calls are at most what was billed, and that is at most usage.calls and usage.unknown; every
        answer in the journal was given by the model server
    I8  a plain glob over data/ finds the files of the live generations and no others: each row once

All violations are raised together, so that one failure shows its whole pattern.
"""

from __future__ import annotations

import hashlib
import io
import json
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.stores import Store
from schemas import ids
from schemas.errors import ObjectMissing
from stages.journal.records import CallRecord, Record, record_of
from stages.journal.segments import decode_segment
from tests.harness.ledger import Call


class Violated(AssertionError):
    """Which invariants do not hold, a sentence each."""

    def __init__(self, found: Sequence[str]) -> None:
        super().__init__("\n".join(["the invariants do not hold:", *found]))
        self.found = tuple(found)


@dataclass(frozen=True)
class Twin:
    """What the fault-free run of the same spec and input gave: per partition its rows, in order, and the keys of its
    rejects; and how many calls it paid for."""

    tables: Mapping[str, pl.DataFrame]
    rejects: Mapping[str, frozenset[str]]
    calls: int


@dataclass(frozen=True)
class Allowed:
    """`again`: calls that may be paid again, for the calls in flight at each kill and what a flush interval held.
    `untold`: billed calls of which no record can exist, as their process lost its spool, or was frozen when the report
    was written. `published`: how many generations are wanted. `warned`: the manifest may speak of a damaged journal."""

    again: int = 0
    untold: int = 0
    published: int = 1
    warned: bool = False
    due: bool = True  # everything had to be published


@dataclass(frozen=True)
class Seen:
    """What a polling reader saw, a sentence for each thing that must never be seen."""

    polls: int = 0
    partial: tuple[str, ...] = ()
    missing: tuple[str, ...] = ()
    duplicates: tuple[str, ...] = ()


@dataclass
class Observed:
    """A sink as it lies in its store."""

    commits: dict[str, dict[int, dict[str, Any]]] = field(default_factory=dict)  # partition → generation → manifest
    tables: dict[str, pl.DataFrame] = field(default_factory=dict)
    rejects: dict[str, list[str]] = field(default_factory=dict)
    reports: dict[str, dict[str, Any]] = field(default_factory=dict)
    records: list[Record] = field(default_factory=list)
    broken: list[str] = field(default_factory=list)  # "I3 …": what is wrong with the objects themselves
    globbed: set[str] = field(default_factory=set)  # the Parquet files under data/
    torn: int = 0

    @property
    def paid(self) -> dict[str, CallRecord]:
        """Answered calls of the journal, each once."""
        return {r.nonce: r for r in self.records if isinstance(r, CallRecord) and r.raw is not None}

    def current(self, partition: str) -> dict[str, Any] | None:
        generations = self.commits.get(partition)
        return generations[max(generations)] if generations else None

    @property
    def warnings(self) -> list[str]:
        return [said for key in self.commits for said in (self.current(key) or {}).get("warnings", ())]


def observe(store: Store) -> Observed:
    """Read a sink, with as little of the program's own code as possible."""
    seen = Observed()
    for info in store.list(ids.COMMITS):
        partition, _, name = info.key.removeprefix(ids.COMMITS).rpartition("/")
        seen.commits.setdefault(partition, {})[int(name.removesuffix(".json"))] = json.loads(store.get(info.key))
    for partition in seen.commits:
        manifest = seen.current(partition)
        assert manifest is not None
        seen.tables[partition] = _table(store, manifest["files"], seen.broken)
        rejects = _table(store, manifest["rejects"], seen.broken)
        seen.rejects[partition] = rejects["key"].to_list() if rejects.width else []
    seen.globbed = {info.key for info in store.list("data/") if info.key.endswith(".parquet")}
    for name in store.folders(ids.RUNS):
        try:
            seen.reports[name] = json.loads(store.get(f"{ids.RUNS}{name}/report.json"))
        except ObjectMissing:
            continue
    _read_journal(store, seen)
    return seen


def _table(store: Store, files: Iterable[Mapping[str, Any]], broken: list[str]) -> pl.DataFrame:
    found = []
    for file in files:
        try:
            data = store.get(file["key"])
        except ObjectMissing:
            broken.append(f"I3 {file['key']} is named by a manifest and is not there")
            continue
        if hashlib.sha256(data).hexdigest() != file["sha256"] or len(data) != file["size"]:
            broken.append(f"I3 {file['key']} has other bytes than its manifest says")
            continue
        found.append(pl.DataFrame(pq.read_table(io.BytesIO(data))))
        if found[-1].height != file["rows"]:
            broken.append(f"I3 {file['key']} has {found[-1].height} rows, its manifest says {file['rows']}")
    return pl.concat(found) if found else pl.DataFrame()


def _read_journal(store: Store, seen: Observed) -> None:
    for info in store.list(ids.JOURNAL):
        data = store.get(info.key)
        if info.key.endswith(".parquet"):
            try:
                bodies = pq.read_table(io.BytesIO(data), columns=["body"])["body"].to_pylist()
            except pa.ArrowInvalid:
                seen.torn += 1
                continue
            seen.records.extend(record for body in bodies if (record := record_of(body)) is not None)
        elif not data.startswith(b'{"tandem_journal":2'):
            segment = decode_segment(data)
            seen.torn += segment.torn
            seen.records.extend(segment.records)


def twin_of(store: Store, calls: Sequence[Call]) -> Twin:
    """A finished, fault-free run as the measure of others."""
    seen = observe(store)
    assert not seen.broken, seen.broken
    return Twin(
        tables=seen.tables,
        rejects={partition: frozenset(keys) for partition, keys in seen.rejects.items()},
        calls=billed(calls),
    )


def billed(calls: Iterable[Call]) -> int:
    """Answers that a provider would charge for."""
    return sum(call.answered and call.status == 200 for call in calls)


def check(
    store: Store,
    rows: pl.DataFrame,
    *,
    key: str,
    partition: str,
    twin: Twin,
    calls: Sequence[Call],
    running: Sequence[str] = (),
    reader: Seen | None = None,
    allowed: Allowed | None = None,
) -> Observed:
    """Raise Violated with all that does not hold. `rows` is the input, `key` its row identity, `partition` the column
    that deals it to partitions; `running` are the workflows that Temporal still runs."""
    allowed = allowed or Allowed()
    seen = observe(store)
    found = [
        *_generations(seen, rows, partition, allowed),
        *_rows(seen, rows, key, partition, allowed),
        *seen.broken,
        *(_read(reader) if reader is not None else ()),
        *_equal(seen, twin, allowed),
        *_paid(calls, twin, allowed),
        *(f"I6 {workflow} is left running" for workflow in running),
        *_usage(seen, calls, allowed),
        *_globbed(seen),
    ]
    if found:
        raise Violated(found)
    return seen


def _generations(seen: Observed, rows: pl.DataFrame, column: str, allowed: Allowed) -> Iterator[str]:
    due = {f"{column}={value}" for value in rows[column].unique().to_list()}
    for partition in sorted(due | set(seen.commits)):
        generations = seen.commits.get(partition, {})
        if partition not in due:
            yield f"I1 {partition} was published, and is not in the input"
        if sorted(generations) != list(range(1, len(generations) + 1)):
            yield f"I1 {partition} has the generations {sorted(generations)}"
        published = [m for m in generations.values() if m["kind"] == "published"]
        if allowed.due and len(published) != allowed.published:
            yield f"I1 {partition} was published {len(published)} times, not {allowed.published}"
        if allowed.due and (generations and generations[max(generations)]["kind"]) != "published":
            yield f"I1 {partition} has no live generation"
        for run, times in Counter(m["run"] for m in published).items():
            if times > 1:
                yield f"I1 {partition} was published {times} times by run {run}"


def _rows(seen: Observed, rows: pl.DataFrame, key: str, column: str, allowed: Allowed) -> Iterator[str]:
    for (value,), part in rows.group_by(column, maintain_order=True):
        partition = f"{column}={value}"
        manifest = seen.current(partition)
        if manifest is None or not manifest["files"]:
            if allowed.due:
                yield f"I2 {partition} has no output"
            continue
        counts = manifest["counts"]
        out = Counter(seen.tables[partition][key].to_list() if seen.tables[partition].width else [])
        rejected = Counter(json.loads(text)[key] for text in seen.rejects[partition])
        wanted = set(part[key].to_list())
        there = out + rejected
        twice = sorted(number for number, times in there.items() if times > 1)
        if twice:
            yield f"I2 {partition}: {len(twice)} rows are there more than once: {twice[:5]}"
        strange = sorted(set(there) - wanted)
        if strange:
            yield f"I2 {partition}: {len(strange)} rows that the input does not have: {strange[:5]}"
        absent = len(wanted - set(there))
        if absent != counts["filtered"]:
            lost = sorted(wanted - set(there))[:5]
            yield f"I2 {partition}: {absent} rows are nowhere, {counts['filtered']} were filtered: {lost}"
        total = sum(counts[name] for name in ("ok", "rejected", "filtered", "pending"))
        if not counts["rows_in"] == total == part.height:
            yield f"I2 {partition}: {part.height} rows in, but the manifest counts {counts}"


def _read(reader: Seen) -> Iterator[str]:
    if not reader.polls:
        yield "I3 the reader never polled"
    yield from (f"I3 the reader saw a partial file: {said}" for said in reader.partial)
    yield from (f"I3 the reader saw a missing file: {said}" for said in reader.missing)
    yield from (f"I3 the reader saw a row twice: {said}" for said in reader.duplicates)


def _equal(seen: Observed, twin: Twin, allowed: Allowed) -> Iterator[str]:
    for partition in sorted(set(twin.tables) | set(seen.tables)):
        table, wanted = seen.tables.get(partition), twin.tables.get(partition)
        if table is None or wanted is None or (table.width == 0 and not allowed.due):
            if allowed.due:
                yield f"I4 {partition} is {'absent' if table is None else 'not in the fault-free output'}"
            continue
        if not table.equals(wanted):
            yield f"I4 {partition} differs from the fault-free output: {_difference(table, wanted)}"
        rejects = frozenset(seen.rejects[partition])
        if rejects != twin.rejects.get(partition, frozenset()):
            yield f"I4 {partition}: {len(rejects)} rejects, the fault-free run has {len(twin.rejects[partition])}"


def _difference(table: pl.DataFrame, wanted: pl.DataFrame) -> str:
    if table.schema != wanted.schema:
        return f"columns {table.schema}, not {wanted.schema}"
    if table.height != wanted.height:
        return f"{table.height} rows, not {wanted.height}"
    for at, (one, other) in enumerate(zip(table.iter_rows(named=True), wanted.iter_rows(named=True), strict=True)):
        if one != other:
            names = [name for name in one if one[name] != other[name]]
            return f"row {at}, columns {names}: {[one[n] for n in names]}, not {[other[n] for n in names]}"
    return "nulls or types"


def _paid(calls: Sequence[Call], twin: Twin, allowed: Allowed) -> Iterator[str]:
    paid = billed(calls)
    if paid > twin.calls + allowed.again:
        yield f"I5 {paid} calls were billed; the fault-free run needs {twin.calls}, and {allowed.again} may be repaid"


def _usage(seen: Observed, calls: Sequence[Call], allowed: Allowed) -> Iterator[str]:
    paid = billed(calls)
    usage = [report["totals"]["usage"] for report in seen.reports.values()]
    told, unknown = sum(u["calls"] for u in usage), sum(u["unknown"] for u in usage)
    if usage and not told <= paid <= told + unknown + allowed.untold:
        told_of = f"{told}, and {unknown} unknown (untold: {allowed.untold})"
        yield f"I7 {paid} calls were billed; the reports tell of {told_of}"
    given = {f"req-{call.n}-{call.digest[:12]}" for call in calls if call.status == 200}
    invented = [r.request_id for r in seen.paid.values() if r.request_id not in given]
    if invented:
        yield f"I7 {len(invented)} answers in the journal were never given, for example {invented[0]}"
    if seen.torn and not allowed.warned:
        yield f"I7 {seen.torn} torn records in the journal"


def _globbed(seen: Observed) -> Iterator[str]:
    live = {file["key"] for key in seen.commits for file in (seen.current(key) or {}).get("files", ())}
    if extra := sorted(seen.globbed - live):
        yield f"I8 a glob reads {len(extra)} files that belong to no live generation: {extra[:3]}"
    if absent := sorted(live - seen.globbed):
        yield f"I8 a glob does not find {len(absent)} files of live generations: {absent[:3]}"
