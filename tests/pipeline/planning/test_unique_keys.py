"""Keys over the whole dataset: refused before anything is paid, in both partitions, whichever is published first."""

from __future__ import annotations

import uuid
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from pipeline.consume import scan
from pipeline.outputs.verify import unique_keys, verify
from pipeline.planning import concurrent_keys
from pipeline.planning.job import Job
from pipeline.sinks import key_buckets, outcomes
from pipeline.sinks.key_buckets import KeyBuckets
from pipeline.stores import LocalStore
from schemas import ids
from schemas.errors import ChecksFailed, SpecError
from schemas.manifest import BrokenCheck
from schemas.messages.partition import PartitionResult
from schemas.plan import Plan
from schemas.staging import OpenedPartition, Refusal
from tests.pipeline.jobs import Bench

IDS = {"name": "ids", "unique": "dataset"}


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    bench = Bench(tmp_path, LocalStore(tmp_path / "out"))
    bench.spec = {
        "source": {"path": "rows.parquet", "key": ["id"]},
        "partition": {"by": "column", "column": "place"},
        "checks": [IDS],
    }
    return bench


def write(bench: Bench, **places: list[int]) -> None:
    pairs = [(place, number) for place, numbers in places.items() for number in numbers]
    bench.write(
        pl.DataFrame(
            {
                "id": [number for _, number in pairs],
                "text": [f"text {number}" for _, number in pairs],
                "place": [place for place, _ in pairs],
            },
            schema={"id": pl.Int64, "text": pl.String, "place": pl.String},
        )
    )


def placed(bench: Bench) -> dict[str, set[int]]:
    """The published keys by partition."""
    rows = scan(bench.store).select("place", "id").collect().rows()
    return {place: {number for at, number in rows if at == place} for place, _ in rows}


async def refused(bench: Bench, **selected: Any) -> ChecksFailed:
    with pytest.raises(ChecksFailed) as caught:
        await bench.run(bench.job(), **selected)
    return caught.value


@pytest.mark.parametrize("order", ["a", "b"])
async def test_a_key_in_two_partitions_of_a_run_is_refused_in_both(bench: Bench, order: str) -> None:
    write(bench, a=[1, 2, 3], b=[3, 2, 4], c=[5])
    job = bench.job()
    plan = bench.plan(job)
    for partition in sorted(("place=a", "place=b"), reverse=order == "b"):
        with pytest.raises(ChecksFailed) as caught:
            bench.open(job, plan, partition)
        (check,) = caught.value.checks
        other = "place=b" if partition == "place=a" else "place=a"
        assert (check.name, check.severity, check.rows) == ("ids", "block", 2)
        assert (set(check.keys), set(check.others)) == ({"2", "3"}, {other})
        assert f"{partition}: check 'ids' (unique: dataset)" in caught.value.message
        assert other in caught.value.message
        assert "tandem run --prune" in caught.value.hint
    assert bench.open(job, plan, "place=c") is not None
    stored = [Refusal.model_validate_json(bench.store.get(key)) for key in bench.keys(ids.STAGING) if "refused" in key]
    assert [(one.counts.rows_in, one.counts.unfinished, one.counts.add_up) for one in stored] == [(3, 3, True)] * 2
    assert not bench.keys(ids.JOURNAL), "nothing was asked"


async def test_a_row_that_moves_within_a_run_is_in_one_partition(bench: Bench) -> None:
    write(bench, a=[1, 2], b=[3])
    await bench.run()
    write(bench, a=[1], b=[2, 3])
    assert len(await bench.run()) == 2
    assert placed(bench) == {"a": {1}, "b": {2, 3}}
    assert not verify(bench.store, unique=unique_keys(bench.job().spec)).problems


async def test_what_another_partition_has_published_counts_and_what_it_has_not_does_not(bench: Bench) -> None:
    """A row moved, and only its new partition is run: refused until both are."""
    write(bench, a=[1, 2], b=[3])
    await bench.run()
    write(bench, a=[1], b=[2, 3])
    found = await refused(bench, partitions=("place=b",))
    assert [(check.keys, check.others) for check in found.checks] == [(("2",), ("place=a",))]
    await bench.run(bench.job(), partitions=("place=a",))
    await bench.run(bench.job(), partitions=("place=b",))
    assert placed(bench) == {"a": {1}, "b": {2, 3}}


async def test_a_partition_that_is_gone_from_the_source_still_holds_its_keys(bench: Bench) -> None:
    write(bench, a=[1, 2])
    await bench.run()
    write(bench, b=[1, 2])
    found = await refused(bench)
    assert "another partition (as place=a) has 2 of its keys, too" in found.message
    assert set(await bench.run(bench.job(), prune=True)) == {"place=b"}, "the run retires the other"


async def test_a_file_that_is_renamed_shares_no_key_with_itself(bench: Bench) -> None:
    """Its former partition is retired by the run that publishes the new one."""
    bench.spec = {**bench.spec, "source": {"path": "*.parquet", "key": ["id"]}, "partition": {"by": "files"}}
    write(bench, a=[1, 2])
    await bench.run()
    (bench.base / "rows.parquet").rename(bench.base / "other.parquet")
    assert set(await bench.run()) == {"file=other.parquet"}


async def test_a_warning_is_published_and_written_down_and_verify_counts_it(bench: Bench) -> None:
    bench.spec = {**bench.spec, "checks": [{**IDS, "severity": "warn"}]}
    write(bench, a=[1, 2], b=[2, 3])
    out = await bench.run()
    for partition, other in (("place=a", "place=b"), ("place=b", "place=a")):
        manifest = out[partition].manifest
        assert manifest is not None
        (check,) = manifest.checks
        assert (check.severity, check.rows, check.keys, check.others) == ("warn", 1, ("2",), (other,))
        assert manifest.warnings == (
            f"check 'ids' (unique: dataset): another partition (as {other}) has 1 of its keys, too",
        )
    spec = bench.job().spec
    found = verify(bench.store, unique=unique_keys(spec))
    assert (found.duplicate_keys, found.problems) == (1, [])
    assert any("1 key is in two partitions: 2 in place=a and place=b" in note for note in found.notes)
    blocks = spec.model_copy(update={"checks": [spec.checks[0].model_copy(update={"severity": "block"})]})
    (problem,) = verify(bench.store, unique=unique_keys(blocks)).problems
    assert problem.kind == "keys"
    assert "2 in place=a and place=b" in problem.message
    assert verify(bench.store).duplicate_keys == 0, "a spec without the check does not ask"


async def test_two_runs_that_publish_a_key_at_once_are_told_by_the_one_that_ends_last(bench: Bench) -> None:
    """The row moves between the two plans, so that each run sees it in its own partition only."""

    async def enriched(run: str, partition: str) -> tuple[Job, Plan, OpenedPartition, list[str]]:
        job = bench.job()
        plan = bench.plan(job, run, partitions=(partition,))
        opened = bench.open(job, plan, partition)
        assert opened is not None
        return job, plan, opened, [done.receipt for done in await bench.enrich(job, plan, opened)]

    def end(job: Job, plan: Plan) -> list[BrokenCheck]:
        concurrent_keys.note_in_outcomes(bench.store, job.spec, plan.run, ids.plan(plan.run, plan.plan_id))
        (found,) = outcomes.outcomes(bench.store, plan.run)
        return list(found.checks)

    write(bench, a=[1, 2], b=[3])
    first = await enriched("first", "place=a")
    write(bench, a=[1], b=[2, 3])
    second = await enriched("second", "place=b")
    expected: list[Any] = [[], [("ids", ("2",), ("place=a",))]]
    for (job, plan, opened, receipts), told in zip((first, second), expected, strict=True):
        assert bench.publish(job, plan, opened, receipts).manifest is not None
        result = PartitionResult(partition=opened.partition, outcome="published")
        outcomes.write_outcome(bench.store, plan.run, result)
        for _ in range(2):  # its activity may be tried again
            found = end(job, plan)
            assert [(check.name, check.keys, check.others) for check in found] == told


async def test_it_needs_a_key_and_is_no_condition(bench: Bench) -> None:
    write(bench, a=[1])
    with pytest.raises(SpecError, match=r"needs source\.key"):
        bench.job(source={"path": "rows.parquet"})
    for check in ({"name": "x"}, {"name": "x", "unique": "dataset", "sql": "id > 1"}, {"name": "x", "unique": "sink"}):
        with pytest.raises(ValueError, match="dataset"):
            bench.job(checks=[check])


async def test_other_checks_hold_beside_it(bench: Bench) -> None:
    write(bench, a=[1], b=[2])
    out = await bench.run(bench.job(checks=[IDS, {"name": "small", "sql": "id < 2", "severity": "warn"}]))
    manifest = out["place=b"].manifest
    assert manifest is not None
    assert [(check.name, check.rows) for check in manifest.checks] == [("small", 1)]


def test_shared_identities_are_found_whatever_the_buckets(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Against the plain way, with what is held in memory smaller than the rows."""
    monkeypatch.setattr(key_buckets, "_HELD", 100)
    rows = {
        f"p{number}": [uuid.uuid5(uuid.NAMESPACE_OID, f"{n % (number + 300)}").hex for n in range(400)]
        for number in range(4)
    }
    buckets = KeyBuckets(tmp_path)
    for partition, identities in rows.items():
        for start in range(0, 400, 37):
            buckets.add(partition, identities[start : start + 37])
    wanted = {}
    for identity in set().union(*rows.values()):
        holders = sorted(partition for partition, identities in rows.items() if identity in identities)
        if len(holders) > 1:
            wanted[identity] = holders
    assert dict(buckets.shared()) == wanted
