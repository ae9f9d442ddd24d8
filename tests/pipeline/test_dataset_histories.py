"""Random histories of a dataset: whatever becomes of its rows and files, each content is paid for once.

Rows are added, removed, edited and moved between files, files are split, merged and renamed, runs are killed half-way,
partitions are retired and come back. Before each run the plan says how many calls it takes; after it, the dataset is
the source.
"""

from __future__ import annotations

import asyncio
import tempfile
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pipeline.estimates.call_count import count_calls
from pipeline.planning import builder
from pipeline.planning.job import Job
from pipeline.process_state import COMMAND
from pipeline.publishing.retire import retire_planned
from pipeline.sinks import commits
from schemas import ids
from schemas.messages.base import RunRef
from schemas.plan import Plan, Selection
from stages.contract import graph_stages
from stages.journal.fingerprints import fingerprints, row_ids
from stages.journal.records import CallRecord, RowRecord
from stages.journal.segments import decode_segment
from tests.pipeline.jobs import Bench

Files = dict[str, list[tuple[int, str]]]  # of a source: (id, text) of each row
NAMES, TEXTS = "abcd", [f"Invoice {number} is wrong." for number in range(9)]
EDITS = ("add", "remove", "edit", "move", "split", "merge", "rename", "delete", "restore")
STAGE: dict[str, Any] = {
    "name": "s", "uses": "extract", "model": "offline:lexical", "prompt": "{{ text }}", "output": {"word": "str"},
}  # fmt: skip


class Dataset:
    """A source that is edited, its sink, and the contents that were answered."""

    def __init__(self, base: Path, partition: dict[str, Any]) -> None:
        self.bench = Bench(base, spec={
            "source": {"path": "in/*.parquet", "key": ["id"]}, "partition": {**partition, "gone": "retire"},
            "stages": [STAGE],
        })  # fmt: skip
        self.folder = base / "in"
        self.folder.mkdir()
        self.files: Files = {"a": [(0, TEXTS[0])]}
        self.removed: Files = {}
        self.next_id = 1
        self.answered: set[str] = set()

    def edit(self, kind: str, at: int, text: str) -> None:
        """Change the source. What cannot be done as it is changes nothing."""
        names = sorted(self.files)
        name = names[at % len(names)]
        rows, free = self.files[name], next((one for one in NAMES if one not in self.files), None)
        if kind == "add":
            rows.insert(at % (len(rows) + 1), (self.next_id, text))
            self.next_id += 1
        elif kind == "edit" and rows:
            rows[at % len(rows)] = rows[at % len(rows)][0], text
        elif kind == "remove" and len(rows) > 1:
            del rows[at % len(rows)]
        elif kind == "move" and len(rows) > 1:
            self.files[names[(at + 1) % len(names)]].append(rows.pop(at % len(rows)))
        elif kind == "split" and free and len(rows) > 1:
            self.files[free], self.files[name] = rows[len(rows) // 2 :], rows[: len(rows) // 2]
        elif kind == "merge" and len(names) > 1:
            self.files[names[(at + 1) % len(names)]] += self.files.pop(name)
        elif kind == "rename" and free:
            self.files[free] = self.files.pop(name)
        elif kind == "delete" and len(names) > 1:
            self.removed = {name: self.files.pop(name)}
        elif kind == "restore":
            self.files |= {one: found for one, found in self.removed.items() if one not in self.files}
            self.removed = {}

    def write(self) -> None:
        for path in self.folder.glob("*"):
            path.unlink()
        for name, rows in self.files.items():
            frame = pl.DataFrame(rows, schema={"id": pl.Int64, "text": pl.String}, orient="row")
            frame.write_parquet(self.folder / f"{name}.parquet")

    def calls(self) -> int:
        """Return the calls that are paid for so far: their records, each once."""
        nonces = set()
        for info in self.bench.store.list(ids.JOURNAL):
            if info.key.endswith(".jsonl"):
                for record in decode_segment(self.bench.store.get(info.key)).records:
                    if isinstance(record, CallRecord) and not record.carried:
                        nonces.add(record.nonce)
        return len(nonces)

    def published(self) -> list[tuple[int, str]]:
        found = []
        partitions = {parsed[0] for key in self.bench.keys(ids.COMMITS) if (parsed := ids.parse_commit(key))}
        for partition in partitions:
            manifest = commits.current(self.bench.store, partition)
            for file in manifest.files if manifest is not None and manifest.present else ():
                found += pl.read_parquet(self.bench.store.get(file.key)).select("id", "text").rows()
        return sorted(found)

    async def run(self, killed_after: int | None) -> None:
        """Run what is due; with `killed_after`, no partition after that number is published, though its rows are
        answered, and nothing is retired."""
        self.write()
        job = self.bench.job()
        before = self.calls()
        decided = list(builder.decisions(job, self.bench.store, Selection(), self.bench.now()))
        planned = count_calls(job, self.bench.store, decided).calls
        plan = self.bench.plan(job, f"run-{uuid.uuid4().hex[:8]}")
        asked = await self._work(job, plan, killed_after)
        new = asked - self.answered
        assert self.calls() - before == len(new), "each content is paid for once"
        self.answered |= asked
        if killed_after is None:
            assert planned == (len(new), len(new)), "the plan is the bill"
            ref = RunRef(pipeline=job.spec.name, run=plan.run, sink=self.bench.store.uri)
            retire_planned(
                job.spec, self.bench.base, self.bench.store, ref, ids.plan(plan.run, plan.plan_id), "completed"
            )
            assert self.published() == sorted(row for rows in self.files.values() for row in rows)
            self._check_each_is_whole(job)

    def _check_each_is_whole(self, job: Job) -> None:
        """Each partition's own journal has the answers of its rows, under their identities."""
        (stage,) = graph_stages(job.stages)
        for partition in job.snapshot.partitions:
            rows = job.snapshot.read(partition, job.snapshot.entry(partition).ranges)
            known = {
                (record.row, record.id)
                for info in self.bench.store.list(ids.journal_segments(partition))
                for record in decode_segment(self.bench.store.get(info.key)).records
                if isinstance(record, RowRecord) and record.stage == stage.fingerprint
            }
            present = dict.fromkeys(row_ids(rows, ["id"]))
            kept = {row for row, id in known if id in present}
            assert set(fingerprints(rows, stage.reads)) <= kept, f"{partition}: compaction keeps these"

    async def _work(self, job: Job, plan: Plan, killed_after: int | None) -> set[str]:
        """Returns the contents of the partitions that were worked on."""
        asked = set[str]()
        for number, partition in enumerate(self.bench.planned(plan)):
            opened = self.bench.open(job, plan, partition)
            if opened is None:
                continue
            asked.update(job.snapshot.read(partition, job.snapshot.entry(partition).ranges)["text"])
            receipts = [found.receipt for found in await self.bench.enrich(job, plan, opened)]
            if killed_after is not None and number >= killed_after:
                return asked
            manifest = self.bench.publish(job, plan, opened, receipts).manifest
            assert manifest is not None
            self.bench.settle(job, manifest)
        return asked


@contextmanager
def another_command() -> Iterator[None]:
    """Work as a new process does: what the one before had in memory is gone."""
    before, COMMAND.name = COMMAND.name, uuid.uuid4().hex
    try:
        yield
    finally:
        COMMAND.name = before


edits = st.tuples(st.sampled_from(EDITS), st.integers(0, 11), st.sampled_from(TEXTS))
histories = st.lists(st.tuples(st.lists(edits, min_size=1, max_size=4), st.none() | st.integers(0, 2)), max_size=7)


@pytest.mark.parametrize("partition", [{"by": "files"}, {"by": "rows", "rows": 3}], ids=["files", "rows"])
@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(history=histories)
def test_each_content_is_paid_for_once_and_the_dataset_is_the_source(
    history: list[tuple[list[tuple[str, int, str]], int | None]], partition: dict[str, Any]
) -> None:
    with tempfile.TemporaryDirectory() as base:
        dataset = Dataset(Path(base), partition)
        for changes, killed_after in [([], None), *history, ([], None)]:
            for change in changes:
                dataset.edit(*change)
            with another_command():
                asyncio.run(dataset.run(killed_after))
