"""A sink with planted rows: a random text that is nowhere else in it, and a search for it in all of its bytes."""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.consume import scan
from pipeline.planning.job import Job
from pipeline.publishing.publish import Published
from pipeline.runs import finalise, report
from pipeline.runs.html import report as html_report
from pipeline.runs.statistics import document
from pipeline.runs.statistics.totals import collect
from pipeline.sinks import outcomes
from pipeline.stores import LocalStore, Store
from schemas import ids
from schemas.messages.base import RunRef
from schemas.messages.partition import PartitionResult
from schemas.messages.run import FinaliseRequest, Totals
from stages.journal.fingerprints import row_ids
from tests.pipeline.jobs import EXTRACT, Bench

DAYS = [dt.datetime.fromisoformat(f"2026-11-0{day}T10:00") for day in (1, 2, 3)]
EACH = 14  # rows of a day
PLANTED = [*range(7), *range(EACH, EACH + 7), *range(2 * EACH, 2 * EACH + 6)]
REJECTED = (1, EACH + 1)  # of the planted ones, after an answer
EQUAL = {0: 10, EACH: EACH + 10}  # planted → a row that stays and reads the same
TOKEN = "zq7vxplantedkw93"
SPEC: dict[str, Any] = {
    "source": {"path": "rows.csv", "key": ["id"]},
    "partition": {"by": "time", "column": "at", "every": "day"},
    "stages": [
        {**EXTRACT, "system": "You sort what customers write. This one begins: {{ text | truncate(40) }}"},
        {"name": "sane", "uses": "checks",
         "with": {"rules": [{"name": "no refusal", "sql": "summary not like '%refuse%'"}]}},
    ],
    "limits": {"max_reject_rate": 0.5},
}  # fmt: skip


def key_of(number: int) -> str:
    return f"person-{number:03d}@example.org"


def source(*, without: tuple[int, ...] = (), edition: int = 1) -> pl.DataFrame:
    """Rows of three days, mixed. Planted ones have the token, in the text but for those that are equal to another row,
    and in a column that no stage reads. Another edition has other texts in some rows of each day."""
    rows = []
    for number in sorted(range(3 * EACH), key=lambda number: number % EACH):
        secret = f" {TOKEN}{number:03d}" if number in PLANTED else ""
        text = f"Invoice {number} is wrong{secret}, and the customer is angry."
        if number in EQUAL or number in EQUAL.values():
            same = next(a for a, b in EQUAL.items() if number in (a, b))
            text = f"The parcel of day {same} never came."
        if number in REJECTED:
            text = f"I refuse{secret} to pay invoice {number}."
        if number % EACH == 12 or number % EACH == 3:
            text = f"{text} Edition {edition}."
        if number not in without:
            at = DAYS[number // EACH] + dt.timedelta(minutes=number)
            rows.append({"id": key_of(number), "text": text, "at": at, "note": f"said{secret}"})
    return pl.DataFrame(rows, schema_overrides={"at": pl.Datetime("us")})


@dataclass
class Planted:
    """A sink that was published twice, so that it has a history."""

    bench: Bench

    @classmethod
    async def published(cls, base: Path, store: Store | None = None) -> Planted:
        bench = Bench(base, store or LocalStore(base / "out"), SPEC)
        planted = cls(bench)
        for edition in (1, 2):
            planted.write(edition=edition)
            await planted.run(f"run-{edition}")
        return planted

    @property
    def store(self) -> Store:
        return self.bench.store

    @property
    def keys(self) -> list[str]:
        return [key_of(number) for number in PLANTED]

    def write(self, *, without: tuple[int, ...] = (), edition: int = 2) -> None:
        """Write the source: text, which is split into the sink."""
        source(without=without, edition=edition).write_csv(self.bench.base / "rows.csv")

    async def run(self, name: str, **selected: Any) -> dict[str, Published]:
        """Run what is due, to the report and its page, as a worker does."""
        job = self.bench.job()
        done = await self.bench.run(job, name, **selected)
        self._report(job, name, done)
        return done

    def _report(self, job: Job, name: str, done: dict[str, Published]) -> None:
        totals = Totals(total=len(done))
        for partition, one in done.items():
            assert one.manifest is not None
            result = PartitionResult(
                partition=partition, outcome="published", generation=one.manifest.generation, counts=one.counts,
                usage=one.manifest.usage,
            )  # fmt: skip
            outcomes.write_outcome(self.store, name, result)
        plan = next(info.key for info in self.store.list(ids.run_folder(name)) if info.key.endswith("/plan.json"))
        ref = RunRef(pipeline=job.spec.name, run=name, sink=self.store.uri)
        now = dt.datetime.now(dt.UTC)
        finalise.finalise(
            self.store, FinaliseRequest(ref=ref, plan=plan, state="completed", totals=totals, started_at=now)
        )
        made = report.load_report(self.store, name)
        assert made is not None
        story = collect(self.store, made)
        document.save(self.store, name, story)
        self.store.put(ids.report_page(name), html_report.page(made, story).encode())

    def rows(self) -> list[tuple[Any, ...]]:
        """The published rows, sorted."""
        frame = scan(self.store).collect()
        return sorted(frame.select(sorted(frame.columns)).rows())


# Searching all bytes -----------------------------------------------------------------------------------------------


def hits(store: Store, *texts: str) -> set[str]:
    """The objects that have one of these texts: in their bytes, in a decoded column, in the name, or in Parquet's
    metadata; for a folder also files that are no objects, such as those of interrupted writes."""
    found = set()
    for name, data in _everything(store):
        sought = [text.encode() for text in texts]
        data += name.encode() + (_decoded(data) if data[:4] == b"PAR1" else b"")
        if any(text in data for text in sought):
            found.add(name)
    return found


def _everything(store: Store) -> Iterator[tuple[str, bytes]]:
    if isinstance(store, LocalStore):
        for path in store.root.rglob("*"):
            if path.is_file():
                yield str(path.relative_to(store.root)), path.read_bytes()
        return
    for info in store.list(""):
        yield info.key, store.get(info.key)


def _decoded(data: bytes) -> bytes:
    with pq.ParquetFile(pa.BufferReader(data)) as parquet:
        table, schema = parquet.read(), parquet.schema_arrow
    return repr(table.to_pylist()).encode() + repr(schema.metadata).encode()


def traces(planted: Planted) -> list[str]:
    """What would name a planted row: the token, its key, its identity."""
    frame = pl.DataFrame({"id": planted.keys})
    return [TOKEN, *planted.keys, *row_ids(frame, ["id"])]
