"""The checker itself is proved: a sound world passes, and each planted bug is found and named."""

from __future__ import annotations

import datetime as dt
import hashlib
import io
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import orjson
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipeline.sinks.row_files import REJECTS
from pipeline.stores import MemoryStore
from schemas import ids
from schemas.manifest import Counts, DataFile, Manifest, Usage
from stages.journal.records import CallRecord
from stages.journal.segments import encode_segment
from tests.faults.checker import Allowed, Observed, Seen, Twin, Violated, check, twin_of
from tests.faults.reader import Reader
from tests.harness.ledger import Call

NOW = dt.datetime(2026, 11, 2, tzinfo=dt.UTC)
PART = "part=a"


class World:
    """Ten rows, of which one was rejected, published by one run that paid for ten calls."""

    def __init__(self) -> None:
        self.store = MemoryStore()
        self.input = pl.DataFrame({"id": range(10), "part": ["a"] * 10, "body": [f"text {n}" for n in range(10)]})
        self.output = pl.DataFrame({"id": range(9), "mood": ["good"] * 9})
        self.calls = [self.call(n) for n in range(1, 11)]
        self.running: list[str] = []
        self.reader = Seen(polls=10)
        self.publish(self.output)
        self.report(calls=10)
        self.store.put(
            ids.journal_segment(PART, "run", 0, "n"), encode_segment([self.record(call) for call in self.calls])
        )
        self.twin = twin_of(self.store, self.calls)

    @staticmethod
    def call(n: int) -> Call:
        return Call(n, f"{n:064x}", "m", f"text {n}", 1, 0.0, 1.0, 200, None, True, False, {})

    @staticmethod
    def record(call: Call) -> CallRecord:
        return CallRecord(
            request=call.digest, ordinal=0, id=str(call.n), model="m", raw="{}", error=None, usage={}, cost_usd=0.0,
            request_id=f"req-{call.n}-{call.digest[:12]}", latency_ms=1, run="run", batch=0, at=1.0, nonce=str(call.n),
        )  # fmt: skip

    def file(self, folder: str, table: pl.DataFrame | pa.Table, generation: int) -> DataFile:
        sink = io.BytesIO()
        pq.write_table(table if isinstance(table, pa.Table) else table.to_arrow(), sink)
        data = sink.getvalue()
        content = hashlib.sha256(data).hexdigest()
        key = ids.part_file(folder, 0, generation, content)
        self.store.put(key, data)
        return DataFile(key=key, size=len(data), sha256=content, rows=table.shape[0])

    def publish(self, table: pl.DataFrame, generation: int = 1, **changed: Any) -> Manifest:
        reject = dict.fromkeys(REJECTS.names) | {
            "key": '{"id":9}',
            "row_id": "9",
            "stage": "s",
            "attempts": 1,
        }
        rejects = pa.Table.from_pylist([reject], schema=REJECTS)
        said: dict[str, Any] = {
            "kind": "published", "pipeline": "p", "partition": PART, "generation": generation, "parent": None,
            "files": (self.file(ids.data_folder(PART), table, generation),),
            "rejects": (self.file(ids.rejects_folder(PART), rejects, generation),),
            "counts": Counts(rows_in=10, ok=9, rejected=1, out=9), "run": "run", "nonce": "n", "started_at": NOW,
            "committed_at": NOW, **changed,
        }  # fmt: skip
        manifest = Manifest(**said)
        self.store.put(ids.commit(PART, generation), manifest.model_dump_json().encode())
        return manifest

    def report(self, *, calls: int, unknown: int = 0) -> None:
        usage = Usage(calls=calls, unknown=unknown).model_dump()
        self.store.put(ids.report("run"), orjson.dumps({"totals": {"usage": usage}}))

    def check(self, **allowed: Any) -> Observed:
        return check(
            self.store, self.input, key="id", partition="part", twin=self.twin, calls=self.calls,
            running=self.running, reader=self.reader, allowed=Allowed(**allowed),
        )  # fmt: skip

    def data_file(self) -> str:
        return next(info.key for info in self.store.list("data/"))


def drops_a_row(world: World) -> None:
    world.publish(world.output.head(8))


def repeats_a_row(world: World) -> None:
    world.publish(pl.concat([world.output.head(8), world.output.head(1)]))


def tampers(world: World) -> None:
    world.publish(world.output.with_columns(mood=pl.when(pl.col("id") == 3).then(pl.lit("bad")).otherwise("mood")))


def swaps_two_rows(world: World) -> None:
    world.publish(world.output.sort("id", descending=True))


def loses_a_file(world: World) -> None:
    world.store.delete([world.data_file()])


def cuts_a_file(world: World) -> None:
    world.store.put(world.data_file(), world.store.get(world.data_file())[:-10])


def pays_twice(world: World) -> None:
    world.calls.append(World.call(11))
    world.report(calls=11)


def commits_twice(world: World) -> None:
    world.publish(world.output, generation=2)


def skips_a_generation(world: World) -> None:
    world.publish(world.output, generation=3, run="other")


def leaves_only_a_tombstone(world: World) -> None:
    world.publish(world.output, generation=2, kind="tombstone", run="other")


def leaves_a_workflow(world: World) -> None:
    world.running.append("tandem/p/run")


def reports_too_little(world: World) -> None:
    world.report(calls=8, unknown=1)


def reports_too_much(world: World) -> None:
    world.report(calls=11)


def invents_an_answer(world: World) -> None:
    stray = replace(World.record(World.call(12)), nonce="stray")
    world.store.put(ids.journal_segment(PART, "run", 0, "m"), encode_segment([stray]))


def forgets_a_reject(world: World) -> None:
    world.publish(world.output, rejects=())


def leaves_a_former_file(world: World) -> None:
    world.store.put(ids.part_file(ids.data_folder(PART), 0, 0, "former"), b"PAR1")


def saw_a_partial_file(world: World) -> None:
    world.reader = Seen(polls=3, partial=("part-0",))


def saw_nothing_at_all(world: World) -> None:
    world.reader = Seen()


def test_a_sound_world_passes() -> None:
    assert World().check().warnings == []


@pytest.mark.parametrize(
    ("plant", "found"),
    [
        (drops_a_row, r"I2 part=a: 1 rows are nowhere.*\[8\]"),
        (repeats_a_row, r"I2 part=a: 1 rows are there more than once: \[0\]"),
        (tampers, r"I4 part=a differs .* row 3, columns \['mood'\]: \['bad'\], not \['good'\]"),
        (swaps_two_rows, r"I4 part=a differs"),
        (loses_a_file, r"I3 data/part=a/part-00000-g1-\w+.parquet is named by a manifest and is not there"),
        (cuts_a_file, r"I3 .* has other bytes"),
        (pays_twice, r"I5 11 calls were billed; the fault-free run needs 10"),
        (commits_twice, r"I1 part=a was published 2 times by run run"),
        (skips_a_generation, r"I1 part=a has the generations \[1, 3\]"),
        (leaves_only_a_tombstone, r"I1 part=a has no live generation"),
        (leaves_a_workflow, r"I6 tandem/p/run is left running"),
        (reports_too_little, r"I7 10 calls were billed; the reports tell of 8, and 1 unknown"),
        (reports_too_much, r"I7 10 calls were billed; the reports tell of 11"),
        (invents_an_answer, r"I7 1 answers in the journal were never given"),
        (forgets_a_reject, r"I2 part=a: 1 rows are nowhere.*\[9\]"),
        (
            leaves_a_former_file,
            r"I8 a glob reads 1 files that belong to no live generation: .*part-00000-g0",
        ),
        (saw_a_partial_file, r"I3 the reader saw a partial file"),
        (saw_nothing_at_all, r"I3 the reader never polled"),
    ],
)
def test_a_planted_bug_is_found(plant: Callable[[World], None], found: str) -> None:
    world = World()
    plant(world)
    with pytest.raises(Violated, match=found):
        world.check()


def test_all_violations_are_told_together() -> None:
    world = World()
    for plant in (drops_a_row, leaves_a_workflow, reports_too_much):
        plant(world)
    with pytest.raises(Violated) as caught:
        world.check()
    assert {said[:2] for said in caught.value.found} == {"I2", "I4", "I6", "I7", "I8"}


def test_what_is_allowed_is_no_violation() -> None:
    world = World()
    pays_twice(world)
    assert world.check(again=1)
    world.report(calls=10)
    with pytest.raises(Violated, match="I7"):
        world.check(again=1)
    assert world.check(again=1, untold=1)


def test_nothing_due_means_that_nothing_needs_to_be_there() -> None:
    world = World()
    world.store.delete([ids.commit(PART, 1), world.data_file()])
    assert world.check(due=False)
    with pytest.raises(Violated, match="I1"):
        world.check()
    assert isinstance(world.twin, Twin)


# The reader ----------------------------------------------------------------------------------------------------------


def test_a_reader_sees_files_that_are_missing_cut_or_double() -> None:
    for plant, what in ((loses_a_file, "missing"), (cuts_a_file, "partial"), (repeats_a_row, "duplicates")):
        world = World()
        plant(world)
        reader = Reader(world.store, "id")
        reader.poll()
        reader.poll()
        seen = reader.seen
        assert seen.polls == 2
        assert getattr(seen, what), what


def test_a_reader_sees_a_file_go_that_was_there() -> None:
    world = World()
    reader = Reader(world.store, "id")
    reader.poll()
    assert reader.seen == Seen(polls=1)
    loses_a_file(world)
    reader.poll()
    assert "is gone" in reader.seen.missing[0]


def test_a_reader_sees_a_file_that_was_written_after_its_manifest() -> None:
    world = World()
    data = world.store.get(world.data_file())
    loses_a_file(world)
    reader = Reader(world.store, "id")
    reader.poll()
    world.store.put(Manifest.model_validate_json(world.store.get(ids.commit(PART, 1))).files[0].key, data)
    reader.poll()
    assert "is not there" in reader.seen.missing[0]
