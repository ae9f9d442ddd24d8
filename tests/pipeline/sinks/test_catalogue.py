"""The catalogue is derived: whatever of it is gone, stale or broken, commits and outcomes are told as they are."""

from __future__ import annotations

import datetime as dt
import uuid
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipeline.planning.builder import decisions
from pipeline.sinks import catalogue
from pipeline.sinks.commits import commit
from pipeline.sinks.outcomes import write_outcome
from pipeline.stores import MemoryStore
from schemas import ids
from schemas.manifest import Counts, DataFile, Manifest
from schemas.messages.base import Outcome
from schemas.messages.partition import PartitionResult
from schemas.plan import Selection
from tests.pipeline.jobs import Bench, rows

NOW = dt.datetime(2026, 11, 18, 12, 30, tzinfo=dt.UTC)


class Clocked(MemoryStore):
    """A store whose objects are a minute apart, and that remembers what it was asked for."""

    def __init__(self) -> None:
        self.clock = NOW
        self.got: list[str] = []
        super().__init__(uuid.uuid4().hex, now=self._tick)

    def _tick(self) -> dt.datetime:
        self.clock += dt.timedelta(minutes=1)
        return self.clock

    def get(self, key: str) -> bytes:
        self.got.append(key)
        return super().get(key)

    def read(self) -> list[str]:
        """Commits and outcomes read since it was last asked."""
        found = [key for key in self.got if key.startswith(ids.COMMITS) or "/outcomes/" in key]
        self.got.clear()
        return found


def put(store: MemoryStore, partition: str, generation: int, **given: Any) -> Manifest:
    file = DataFile(key=f"data/{partition}/x.parquet", size=70, sha256="0", rows=7)
    manifest = Manifest.model_validate(
        {
            "kind": "published", "pipeline": "p", "partition": partition, "generation": generation, "parent": None,
            "stage_fingerprints": {"a": "1"}, "counts": Counts(rows_in=7, ok=7, out=7), "files": (file,), "run": "r",
            "nonce": f"{partition}-{generation}", "started_at": NOW, "committed_at": NOW, **given,
        }
    )  # fmt: skip
    return commit(store, manifest).manifest


def ended(store: MemoryStore, run: str, partition: str, outcome: Outcome, error: str = "") -> None:
    write_outcome(store, run, PartitionResult(partition=partition, outcome=outcome, error=error))


def report(store: MemoryStore, run: str, state: str) -> None:
    store.put(ids.report(run), f'{{"state": "{state}"}}'.encode())


def seen(store: MemoryStore) -> dict[str, int]:
    return dict(catalogue.published(store).select("partition", "generation").iter_rows())


def failed(store: MemoryStore) -> dict[str, str]:
    return catalogue.failed(catalogue.attempts(store))


def test_only_newer_commits_are_read_and_a_listing_tells_which() -> None:
    store = Clocked()
    for day in range(30):
        put(store, f"day={day:02d}", 1)
    assert seen(store) == {f"day={day:02d}": 1 for day in range(30)}
    assert len(store.read()) == 30
    catalogue.update(store, store.clock)
    store.read()
    put(store, "day=05", 2)
    put(store, "day=30", 1)
    assert seen(store) == {**{f"day={day:02d}": 1 for day in range(31)}, "day=05": 2}
    assert store.read() == [ids.commit("day=05", 2), ids.commit("day=30", 1)]


@pytest.mark.parametrize("harm", ["deleted", "older", "torn", "of another version", "of other texts"])
def test_a_catalogue_is_never_believed_against_the_commits(harm: str) -> None:
    store = Clocked()
    for day in range(25):
        put(store, f"day={day:02d}", 1)
        ended(store, "a", f"day={day:02d}", "published")
    catalogue.update(store, store.clock)
    old = {info.key: store.get(info.key) for info in store.list(ids.CATALOGUE)}
    put(store, "day=03", 2, kind="tombstone")
    ended(store, "b", "day=03", "cancelled", "Cancelled")
    catalogue.update(store, store.clock)
    if harm == "deleted":
        store.delete([info.key for info in list(store.list(ids.CATALOGUE))])
    elif harm == "older":
        store.delete([info.key for info in list(store.list(ids.CATALOGUE)) if info.key not in old])
    elif harm == "of other texts":
        (key,) = [info.key for info in store.list(ids.CATALOGUE) if info.key not in old and "commits-" in info.key]
        table = pq.read_table(pa.BufferReader(store.get(key)))
        texts = pa.array(["{"] * table.num_rows, table.schema.field("manifest").type)
        sink = pa.BufferOutputStream()
        pq.write_table(table.set_column(table.schema.get_field_index("manifest"), "manifest", texts), sink)
        store.put(key, sink.getvalue().to_pybytes())
    else:
        for info in list(store.list(ids.CATALOGUE)):
            data = store.get(info.key)
            store.put(
                info.key, data[:100] if harm == "torn" else data.replace(b"tandem_catalogue", b"tandem_cat4logue")
            )
    assert seen(store)["day=03"] == 2
    assert failed(store) == {"day=03": "was cancelled"}
    catalogue.update(store, store.clock)
    store.read()
    assert seen(store)["day=03"] == 2
    assert store.read() == [], "it was made anew"


def test_a_row_of_it_is_the_manifest_without_its_files() -> None:
    store = Clocked()
    file = DataFile(key="index/x.parquet", size=9, sha256="1", rows=7)
    put(store, "day=01", 1, index=file, input_columns=("a", "b"), stage_aspects={"a": {"prompt": "x"}}, pending=(file,))
    manifest = put(store, "day=01", 2, index=file, input_columns=("a", "b"), stage_aspects={"a": {"prompt": "x"}})
    put(store, "day=02", 1, kind="partial", counts=Counts())
    found = catalogue.published(store)
    first, second = catalogue.manifests(found)
    left_out = {"files": (), "content_digest": "", "nonce": "", "started_at": first.committed_at}
    assert first == manifest.model_copy(update=left_out)
    assert (second.kind, second.counts, second.index, second.present) == ("partial", Counts(), None, True)
    assert found["bytes"].to_list() == [70, 70]
    catalogue.update(store, store.clock)
    assert list(catalogue.manifests(catalogue.published(store))) == [first, second]


def test_the_last_attempt_of_a_partition_counts_whatever_run_made_it() -> None:
    store = Clocked()
    ended(store, "b", "d=1", "failed", "Bug")
    ended(store, "a", "d=1", "published")
    ended(store, "a", "d=2", "published")
    ended(store, "c", "d=2", "cancelled", "Cancelled")
    ended(store, "d", "d=1", "not_run")  # a canary's
    report(store, "a", "completed")
    report(store, "c", "cancelled")
    assert failed(store) == {"d=2": "was cancelled"}
    catalogue.update(store, store.clock)
    store.read()
    ended(store, "c", "d=2", "published")
    ended(store, "c", "d=3", "failed", "ChecksFailed")
    assert failed(store) == {"d=3": "failed (ChecksFailed)"}
    again = store.read()
    assert not [key for key in again if key.startswith(ids.outcomes("a"))], "a completed run is not read again"
    assert {ids.outcome("c", "d=2"), ids.outcome("c", "d=3")} <= set(again)


def test_older_indexes_go_once_their_readers_had_their_time() -> None:
    store = Clocked()
    for day in range(3):
        put(store, f"day={day:02d}", 1)
        catalogue.update(store, store.clock)
    assert len(list(store.list(f"{ids.CATALOGUE}commits-"))) == 3
    put(store, "day=09", 1)
    store.clock += dt.timedelta(hours=1)
    catalogue.update(store, store.clock)
    catalogue.update(store, store.clock)
    assert len(list(store.list(f"{ids.CATALOGUE}commits-"))) == 1
    assert len(seen(store)) == 4


async def test_decisions_are_the_same_with_and_without_it(tmp_path: Path) -> None:
    bench = Bench(tmp_path, spec={"partition": {"by": "rows", "rows": 2}})
    bench.write(rows(60))
    await bench.run()

    def decided(**selected: Any) -> list[tuple[str, bool, str]]:
        job = bench.job()
        found = decisions(job, bench.store, Selection(**selected), bench.now())
        return [(decision.partition, decision.run, decision.reason) for decision in found]

    bench.write(rows(64))
    ended(bench.store, "z", "block=000003", "failed", "ChecksFailed")  # type: ignore[arg-type]
    before = decided()
    assert len(before) == 32
    assert before[3] == ("block=000003", True, "last attempt failed (ChecksFailed)")
    assert [line for line in before if line[1]] == [before[3], before[30], before[31]]
    catalogue.update(bench.store, bench.now())
    assert decided() == before
    assert decided(partitions=("block=000003",)) == [before[3]]
