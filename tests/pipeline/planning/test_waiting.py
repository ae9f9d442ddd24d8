"""Files that wait: what a run leaves alone, what a firing remembers, and that nothing published is lost meanwhile."""

from __future__ import annotations

import datetime as dt
import os
import time
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from pipeline.client.schedules import save_spec
from pipeline.planning import builder
from pipeline.planning.scheduled_request import request_of_firing
from pipeline.runs.requests import load_request
from pipeline.sinks import commits
from schemas.messages.base import RunRef
from schemas.messages.schedule import FiringDecision, FiringRequest
from schemas.plan import Decision, Selection
from schemas.spec.sections import Spec
from stages.models.settings.choice import ModelServices
from tests.pipeline.jobs import EXTRACT, Bench, rows

DAYS: dict[str, Any] = {"by": "time", "column": "at"}
SOURCE = {"path": "in", "settle": "1h"}


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    (tmp_path / "in").mkdir()
    return Bench(tmp_path, spec={"source": SOURCE})


def put(bench: Bench, name: str, frame: pl.DataFrame, *, still: bool) -> None:
    """Write a file that has stood still for long, or is being written."""
    path = bench.base / "in" / name
    frame.write_parquet(path)
    changed = time.time() - (7200 if still else 0)
    os.utime(path, (changed, changed))


def decided(bench: Bench, **changed: Any) -> dict[str, Decision]:
    job = bench.job(**changed)
    found = builder.decisions(job, bench.store, Selection(), dt.datetime.now(dt.UTC))
    return {decision.partition: decision for decision in found}


def decide(bench: Bench, **selected: Any) -> list[Decision]:
    return list(builder.decisions(bench.job(), bench.store, Selection(**selected), dt.datetime.now(dt.UTC)))


def out(bench: Bench) -> dict[str, int]:
    """Published rows by partition."""
    current = {key: commits.current(bench.store, key) for key in decided(bench)}
    return {key: found.counts.out for key, found in current.items() if found is not None}


# Partitions that wait -------------------------------------------------------------------------------------------------


async def test_a_partition_waits_for_its_file_and_the_others_run(bench: Bench) -> None:
    put(bench, "a.parquet", rows(3), still=True)
    put(bench, "b.parquet", rows(4), still=False)
    assert set(await bench.run()) == {"file=a.parquet"}
    found = decided(bench)
    assert {key: decision.run for key, decision in found.items()} == {"file=a.parquet": False, "file=b.parquet": False}
    assert "b.parquet changed at" in found["file=b.parquet"].reason
    assert "waits until it has stood still for 1h" in found["file=b.parquet"].reason
    put(bench, "b.parquet", rows(4), still=True)
    assert set(await bench.run()) == {"file=b.parquet"}
    put(bench, "a.parquet", rows(9), still=False)
    assert await bench.run() == {}
    assert out(bench) == {"file=a.parquet": 3, "file=b.parquet": 4}


async def test_a_file_that_grows_takes_no_published_row_away(bench: Bench) -> None:
    """By time: partitions that may hold its rows wait, those of before it and new ones run."""
    put(bench, "1.parquet", rows(3), still=True)
    await bench.run(bench.job(partition=DAYS))
    put(bench, "2.parquet", rows(4, day="2026-11-02"), still=True)
    put(bench, "1.parquet", rows(5), still=True)
    await bench.run(bench.job(partition=DAYS))
    put(bench, "2.parquet", rows(6, day="2026-11-02"), still=False)
    put(bench, "3.parquet", pl.concat([rows(2, day="2026-11-02"), rows(2, day="2026-11-03")]), still=True)
    found = decided(bench, partition=DAYS)
    assert {key: decision.run for key, decision in found.items()} == {
        "day=2026-11-01": False, "day=2026-11-02": False, "day=2026-11-03": True,
    }  # fmt: skip
    assert found["day=2026-11-01"].reason == "up to date"
    assert found["day=2026-11-02"].reason.endswith("it may hold rows of this partition")
    assert set(await bench.run(bench.job(partition=DAYS))) == {"day=2026-11-03"}
    put(bench, "2.parquet", rows(6, day="2026-11-02"), still=True)
    await bench.run(bench.job(partition=DAYS))
    assert out(Bench(bench.base, bench.store, {**bench.spec, "partition": DAYS})) == {
        "day=2026-11-01": 5, "day=2026-11-02": 8, "day=2026-11-03": 2,
    }  # fmt: skip


async def test_a_new_file_that_waits_holds_no_published_partition(bench: Bench) -> None:
    put(bench, "1.parquet", rows(3), still=True)
    await bench.run(bench.job(partition=DAYS))
    put(bench, "2.parquet", rows(4), still=False)
    put(bench, "3.parquet", rows(2), still=True)
    assert decided(bench, partition=DAYS)["day=2026-11-01"].run


async def test_a_run_of_which_nothing_is_known_may_have_read_the_file(bench: Bench) -> None:
    put(bench, "1.parquet", rows(3), still=True)
    await bench.run(bench.job(partition=DAYS))
    bench.store.delete([key for key in bench.keys("_tandem/runs/") if key.endswith("/plan.json")])
    put(bench, "2.parquet", rows(4), still=False)
    put(bench, "3.parquet", rows(2), still=True)
    assert not decided(bench, partition=DAYS)["day=2026-11-01"].run


async def test_staged_snapshots_know_their_files_too(bench: Bench) -> None:
    """Text is staged, so that its snapshot's ranges point to no file of the source."""
    (bench.base / "in/1.csv").write_text("text,at\nhello,2026-11-01T10:00:00\n")
    (bench.base / "in/2.csv").write_text("text,at\nworld,2026-11-02T10:00:00\n")
    for name in ("1.csv", "2.csv"):
        os.utime(bench.base / "in" / name, (1e9, 1e9))
    await bench.run(bench.job(partition=DAYS))
    (bench.base / "in/2.csv").write_text("text,at\nworld,2026-11-02T10:00:00\nwide,2026-11-0")
    (bench.base / "in/3.csv").write_text("text,at\nthere,2026-11-02T10:00:00\n")
    os.utime(bench.base / "in/3.csv", (1e9, 1e9))
    found = decided(bench, partition=DAYS)
    assert {key: decision.run for key, decision in found.items()} == {"day=2026-11-01": False, "day=2026-11-02": False}
    assert "2.csv changed at" in found["day=2026-11-02"].reason


@pytest.mark.parametrize("partition", [{"by": "rows", "rows": 2}, {"by": "files", "files": 2}])
async def test_what_is_cut_by_position_waits_as_a_whole(bench: Bench, partition: dict[str, Any]) -> None:
    put(bench, "1.parquet", rows(3), still=True)
    put(bench, "2.parquet", rows(3), still=False)
    found = decided(bench, partition=partition)
    assert found
    assert not any(decision.run for decision in found.values())
    assert all("2.parquet changed at" in decision.reason for decision in found.values())


async def test_a_folder_of_a_hive_waits_for_all_its_files(bench: Bench) -> None:
    for folder in ("k=1", "k=2"):
        (bench.base / "in" / folder).mkdir()
    put(bench, "k=1/a.parquet", rows(2), still=True)
    put(bench, "k=1/b.parquet", rows(2), still=False)
    put(bench, "k=2/c.parquet", rows(2), still=True)
    found = decided(bench, partition={"by": "hive"})
    assert {key: decision.run for key, decision in found.items()} == {"k=1": False, "k=2": True}


async def test_nothing_is_retired_while_a_file_waits(bench: Bench) -> None:
    """What is in a file that waits looks as if it were gone from the source."""
    for name in ("a.parquet", "b.parquet", "c.parquet"):
        put(bench, name, rows(3), still=True)
    await bench.run()
    (bench.base / "in/b.parquet").unlink()
    put(bench, "c.parquet", rows(5), still=False)
    found = {one.partition: one for one in decide(bench, prune=True)}
    assert {key: (one.run, one.retire) for key, one in found.items()} == {
        "file=a.parquet": (False, False), "file=c.parquet": (False, False),
    }  # fmt: skip
    (named,) = decide(bench, prune=True, partitions=("file=c.parquet",))
    assert "c.parquet changed at" in named.reason
    put(bench, "c.parquet", rows(5), still=True)
    assert [one.partition for one in decide(bench, prune=True) if one.retire] == ["file=b.parquet"]


# Firings -------------------------------------------------------------------------------------------------------------


def fire(bench: Bench, *, seen: str = "", minute: int = 0, source: Any = None) -> FiringDecision:
    """The decision of a firing of `--when new-files`."""
    spec = Spec.model_validate(
        {
            "name": "tests", "source": source or {"path": "in"}, "stages": [EXTRACT], "sink": {"path": "out"},
        }
    )  # fmt: skip
    request = FiringRequest(
        ref=RunRef(pipeline="tests", run="", sink=bench.store.uri),
        spec=save_spec(bench.store, spec),
        base=str(bench.base),
        at=dt.datetime(2026, 11, 1, 10, minute, tzinfo=dt.UTC),
        since=None,
        lookback="7d",
        when="new-files",
        seen=seen,
    )
    return request_of_firing(bench.store, request, ModelServices(), lambda rows: None)


def test_a_firing_leaves_a_file_that_is_being_written_to_a_later_one(bench: Bench) -> None:
    put(bench, "a.parquet", rows(3), still=False)
    first = fire(bench)
    assert (first.run, first.listing) == ("", "")
    assert "no file is ready: a.parquet changed at" in first.note
    assert "stood still for 10s" in first.note, "by default"
    put(bench, "a.parquet", rows(3), still=True)
    put(bench, "b.parquet", rows(3), still=False)
    second = fire(bench, minute=1, seen=first.listing)
    assert second.run
    assert second.note.startswith("b.parquet changed at")
    again = fire(bench, minute=2, seen=second.listing)
    assert (again.run, again.listing) == ("", second.listing)
    assert again.note.startswith("no file is new or changed; b.parquet changed at")
    put(bench, "b.parquet", rows(3), still=True)
    third = fire(bench, minute=3, seen=again.listing)
    assert third.run
    assert third.note == ""
    request = load_request(bench.store, third.run)
    assert request is not None
    assert request.selection.due is not None


async def test_a_firing_whose_only_new_file_waits_makes_no_run(bench: Bench) -> None:
    put(bench, "a.parquet", rows(3), still=True)
    await bench.run(bench.job(source={"path": "in"}))
    seen = fire(bench).listing
    put(bench, "a.parquet", rows(5), still=False)
    put(bench, "b.parquet", rows(5), still=True)
    assert fire(bench, minute=1, seen=seen).run, "b is new"
    await bench.run(bench.job(source={"path": "in", "settle": "10s"}))
    later = fire(bench, minute=2)
    assert (later.run, later.note.split(";")[0]) == ("", "everything that is due is published")


def test_a_file_may_be_taken_at_once(bench: Bench) -> None:
    put(bench, "a.parquet", rows(3), still=False)
    assert fire(bench, source={"path": "in", "settle": "0s"}).run


def test_a_marker_that_comes_anew_is_no_lost_firing(bench: Bench) -> None:
    """The run of the firing may have found the marker gone, so that it left the file alone."""
    source = {"path": "in", "done": "*.ok"}
    put(bench, "a.parquet", rows(3), still=True)
    (bench.base / "in/a.ok").touch()
    first = fire(bench, source=source)
    assert first.run
    assert not fire(bench, minute=1, source=source, seen=first.listing).run
    (bench.base / "in/a.ok").unlink()
    assert "waits for its marker a.ok or a.parquet.ok" in fire(bench, minute=2, source=source, seen=first.listing).note
    (bench.base / "in/a.ok").touch()
    assert fire(bench, minute=3, source=source, seen=first.listing).run
