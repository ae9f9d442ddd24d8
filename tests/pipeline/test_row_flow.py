"""Whoever carries rows through the stages sees the same rows: what a run publishes, what a trial shows, and the rows of
which a count says that they arrive."""

import asyncio
import datetime as dt
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import polars as pl
import pyarrow as pa
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.enrichment.attempt import BatchAttempt
from pipeline.enrichment.context import batch_context
from pipeline.enrichment.trial import Trial
from pipeline.estimates.call_count import StageCount, count_calls
from pipeline.planning.builder import decisions
from pipeline.planning.job import Job
from pipeline.stores.parquet import table_of
from schemas.manifest import Manifest
from schemas.plan import Selection
from schemas.staging import PlannedBatch
from schemas.tables import stored_schema
from stages.contract import ROW
from stages.execution.equal_rows.single_flight import Shared
from stages.journal.fingerprints import fingerprints
from tests.pipeline.jobs import Bench

Stage = dict[str, Any]
NUMBERS = st.integers(0, 9)
REJECTS = st.sampled_from(["drop", "null"])


@st.composite
def sources(draw: st.DrawFn) -> pl.DataFrame:
    """Few values, so that rows are equal in what a stage reads; a type that is not stored as it is read."""
    rows = draw(st.lists(st.tuples(NUMBERS, st.lists(st.sampled_from("abc"), max_size=3)), min_size=3, max_size=12))
    days = [dt.datetime.fromisoformat(f"2026-11-{1 + at:02}") for at in range(len(rows))]
    return pl.DataFrame(
        {
            "id": range(len(rows)),
            "n": [n for n, _ in rows],
            "text": [f"text number {n}" for n, _ in rows],
            "parts": [parts for _, parts in rows],
            "at": days,
        },
        schema={"id": pl.Int32, "n": pl.Int64, "text": pl.String, "parts": pl.List(pl.String), "at": pl.Datetime("ms")},
    )


@dataclass
class Pipelines:
    """Draws stages one after the other, each over the columns that those before leave."""

    draw: st.DrawFn
    reads: dict[str, str] = field(default_factory=lambda: {"n": "n"})
    droppable: list[str] = field(default_factory=lambda: ["at"])
    exploded: bool = False

    def rejecting(self, name: str, stage: Mapping[str, Any]) -> Stage:
        drops: bool = self.draw(st.booleans())
        drop = [self.droppable.pop()] if drops and self.droppable else []
        return {"name": name, "on_reject": self.draw(REJECTS), "drop": drop, **stage}

    def graph(self, name: str) -> Stage:
        stage = self.rejecting(name, {"uses": "tests.stages.scripted:graph", "inputs": dict(self.reads)})
        outputs = {f"{name}_word": "word", f"{name}_score": "score"}
        self.droppable.append(f"{name}_word")
        output = {f"{name}_word": "str", f"{name}_score": "int"}
        return {**stage, "output": output, "outputs": outputs, "context": {"seed": self.draw(NUMBERS)}}

    def checks(self, name: str) -> Stage:
        rules = [
            {"name": f"rule{at}", "sql": f"n % 4 <> {rest}", "action": action}
            for at, (rest, action) in enumerate(
                self.draw(
                    st.lists(
                        st.tuples(st.integers(0, 3), st.sampled_from(["reject", "reject", "filter"])),
                        min_size=1,
                        max_size=2,
                    )
                )
            )
        ]
        return self.rejecting(name, {"uses": "checks", "with": {"rules": rules}})

    def sql(self, name: str) -> Stage:
        query = f"SELECT *, n + 1 AS {name}_more, text AS {name}_text FROM rows WHERE n <> {self.draw(NUMBERS)}"
        return {"name": name, "uses": "sql", "query": query}

    def sample(self, name: str) -> Stage:
        return {"name": name, "uses": "sample", "with": {"rate": 0.7, "by": ["id"]}}

    def explode(self, name: str) -> Stage:
        into, self.exploded = f"{name}_part", True
        self.reads = {"n": "n", "part": into}
        options = {"column": "parts", "into": into, "keep_empty": self.draw(st.booleans())}
        return {"name": name, "uses": "explode", "with": options}

    def whole(self, name: str) -> Stage:
        """A stage over the whole partition that keeps rows apart."""
        kept: Stage = {"uses": "dedupe", "with": {"on": ["text"], "duplicate": f"{name}_twin", "threshold": 1.0}}
        kinds: list[Stage] = [
            kept,
            {**kept, "with": {**kept["with"], "keep": "first"}},
            {
                "uses": "sql",
                "scope": "partition",
                "query": f"SELECT *, SUM(n) OVER (PARTITION BY text) AS {name} FROM rows",
            },
        ]
        if not self.exploded:
            kinds.append({"uses": "sample", "scope": "partition", "with": {"rows": 3, "by": ["id"]}})
        return {"name": name, **self.draw(st.sampled_from(kinds))}


@st.composite
def pipelines(draw: st.DrawFn) -> tuple[list[Stage], list[Stage], dict[str, str]]:
    """Stages over batches, stages over the partition, and what a graph may read behind the first."""
    make = Pipelines(draw)
    kinds = st.sampled_from([make.graph, make.checks, make.graph, make.checks, make.explode, make.sql, make.sample])
    batch = [kind(f"s{at}") for at, kind in enumerate(draw(st.lists(kinds, min_size=2, max_size=5)))]
    partition = [make.whole(f"p{at}") for at in range(draw(st.integers(0, 2)))]
    sums: bool = draw(st.booleans())
    if partition and sums:
        partition.append({"name": "sum", "uses": "aggregate", "with": {"by": ["n"], "columns": {"many": "count(*)"}}})
    return batch, partition, make.reads


async def tried(bench: Bench, job: Job) -> Trial:
    (partition,) = job.snapshot.partitions
    rows = job.snapshot.read(partition, list(job.snapshot.entry(partition).ranges))
    attempt = BatchAttempt(job, bench.store, "try", "elsewhere=1", 0, PlannedBatch(rows=rows.height, ranges=()))
    context = await batch_context(attempt, Shared(), asyncio.Event())
    trial = Trial(job, rows, context)
    try:
        await trial.through()
    finally:
        await context.journal.close()
    return trial


def published(bench: Bench, manifest: Manifest, job: Job) -> pa.Table:
    tables = [table_of(bench.store.get(file.key)).select(job.columns.names) for file in manifest.files]
    return pa.concat_tables([table.cast(stored_schema(job.columns)) for table in tables])


def counts_of(trial: Trial) -> dict[str, int]:
    """Source rows by what became of them, from the paths alone."""
    found: dict[str, set[int]] = {"rejected": set(), "pending": set()}
    for path in (*trial.paths, *trial.ended):
        for made in path["stages"].values():
            found.get(made["status"], set()).add(path["row"])
    rejected = found["rejected"] - found["pending"]
    ok = {path["row"] for path in trial.paths} - rejected - found["pending"]
    return {"ok": len(ok), "rejected": len(rejected), "pending": len(found["pending"])}


def counted(bench: Bench, stages: list[Stage]) -> list[StageCount]:
    job = bench.job(stages=stages)
    return count_calls(
        job, bench.store, list(decisions(job, bench.store, Selection(new_version=True), bench.now()))
    ).stages


async def agree(
    base: Path, source: pl.DataFrame, stages: tuple[list[Stage], list[Stage], dict[str, str]], size: int
) -> None:
    batch, partition, reads = stages
    limits = {"batch_rows": size, "max_reject_rate": 1.0}
    bench = Bench(base, spec={"source": {"path": "rows.parquet", "key": ["id"]}, "limits": limits})
    bench.write(source)
    job = bench.job(stages=[*batch, *partition])
    manifest = await bench.one(job)
    out = pl.DataFrame(published(bench, manifest, job))
    trial = await tried(bench, job)
    if trial.tables:
        assert trial.tables["sum"] == out.to_dicts()
    else:
        assert trial.table.frame.drop(ROW).schema == out.schema
        assert trial.table.frame.drop(ROW).equals(out)
        assert trial.table.positions == [path["row"] for path in trial.paths]
        counts = manifest.counts
        assert counts_of(trial) == {"ok": counts.ok, "rejected": counts.rejected, "pending": counts.pending}
    reached = (await tried(bench, bench.job(stages=batch))).table.frame if partition else out
    last = {
        "name": "last",
        "uses": "tests.stages.scripted:graph",
        "output": {"last": "str"},
        "outputs": {"last": "word"},
    }
    *before, counted_last = counted(bench, [*batch, {**last, "inputs": reads, "context": {"seed": 1}}])
    assert [(count.least, count.most) for count in before] == [(0, 0)] * len(before), "all of it is known"
    arriving = len(set(fingerprints(reached, sorted(set(reads.values())))))
    assert (counted_last.least, counted_last.most) == (arriving, arriving)


@settings(max_examples=50, deadline=None, derandomize=True)
@given(sources(), pipelines(), st.sampled_from([2, 100]))
def test_a_run_a_trial_and_a_count_see_the_same_rows(
    source: pl.DataFrame, stages: tuple[list[Stage], list[Stage], dict[str, str]], size: int
) -> None:
    with tempfile.TemporaryDirectory() as folder:
        asyncio.run(agree(Path(folder), source, stages, size))
