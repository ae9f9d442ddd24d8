"""Rows that are forgotten are nowhere in the sink: 0 hits in all bytes, and the rest is as it was, for 0 calls."""

from __future__ import annotations

import contextlib
import datetime as dt
from pathlib import Path

import polars as pl
import pytest

from pipeline.journal.spool import Spools
from pipeline.operations.forget import forget, look_for
from pipeline.outputs.verify import verify
from pipeline.review.answering import answer_all, open_questions
from pipeline.sinks import catalogue, commits
from pipeline.sinks.outcomes import write_outcome
from pipeline.sinks.table_formats.follow import lake_of
from pipeline.stores import LocalStore, open_store
from schemas import ids
from schemas.errors import UsageError
from schemas.messages.partition import PartitionResult
from schemas.spec.sections import Spec
from stages.journal.records import encode_record
from stages.journal.segments import decode_segment, line_of
from tests.harness.servers import SeaweedS3
from tests.pipeline.forgetting.planted import (
    DAYS,
    EACH,
    EQUAL,
    PLANTED,
    REJECTED,
    SPEC,
    TOKEN,
    Planted,
    hits,
    key_of,
    source,
    traces,
)
from tests.pipeline.jobs import Bench


def spec(**changed: object) -> Spec:
    return Spec.model_validate({"name": "tests", "sink": {"path": "out"}, **SPEC, **changed})


async def test_a_planted_text_has_no_hit_in_all_bytes_of_the_sink(tmp_path: Path) -> None:
    planted = await Planted.published(tmp_path)
    places = {name.removeprefix("_tandem/").partition("/")[0] for name in hits(planted.store, TOKEN)}
    assert places >= {"data", "rejects", "history", "journal", "snapshots", "staging"}
    assert any(name.endswith("report.html") for name in hits(planted.store, *traces(planted)))
    before = planted.rows()
    found = look_for(spec(), tmp_path, planted.store, planted.keys)
    assert found.unknown == ()
    done = forget(found)
    assert hits(planted.store, *traces(planted)) == set()
    assert planted.rows() == [row for row in before if not any(TOKEN in str(value) for value in row)]
    assert verify(planted.store).problems == []
    assert len(done.receipt.rows) == len(PLANTED)
    assert done.receipt.kept_answers == len(EQUAL)
    assert done.receipt.removed["rejects"] == len(REJECTED)
    manifest = commits.current(planted.store, "day=2026-11-01")
    assert manifest is not None
    assert (manifest.counts.rows_in, manifest.counts.ok, manifest.counts.rejected) == (EACH - 7, EACH - 7, 0)


async def test_a_run_without_the_rows_in_the_source_makes_no_call_and_changes_nothing(tmp_path: Path) -> None:
    planted = await Planted.published(tmp_path)
    forget(look_for(spec(), tmp_path, planted.store, planted.keys))
    before = planted.rows()
    planted.write(without=tuple(PLANTED))
    published = await planted.run("run-3")
    assert len(published) == 3
    assert [one.manifest.usage.calls for one in published.values() if one.manifest] == [0, 0, 0]
    assert planted.rows() == before
    assert hits(planted.store, *traces(planted)) == set()


async def test_an_unchanged_source_does_not_bring_the_rows_back(tmp_path: Path) -> None:
    """The next run finds each partition up to date; the input that it splits again is what the receipt warns of."""
    planted = await Planted.published(tmp_path)
    forget(look_for(spec(), tmp_path, planted.store, planted.keys))
    before = planted.rows()
    assert await planted.run("run-3") == {}
    assert planted.rows() == before


async def test_giving_it_again_is_no_error(tmp_path: Path) -> None:
    planted = await Planted.published(tmp_path)
    forget(look_for(spec(), tmp_path, planted.store, planted.keys))
    again = look_for(spec(), tmp_path, planted.store, planted.keys)
    assert again.is_empty
    assert list(again.unknown) == planted.keys


async def test_without_a_key_it_is_refused(tmp_path: Path) -> None:
    planted = await Planted.published(tmp_path)
    with pytest.raises(UsageError, match=r"source\.key is absent"):
        look_for(spec(source={"path": "rows.csv"}), tmp_path, planted.store, [key_of(0)])


async def test_an_open_run_is_named(tmp_path: Path) -> None:
    planted = await Planted.published(tmp_path)
    planted.write(edition=3)
    await planted.bench.run(None, "run-3")
    with pytest.raises(UsageError, match="run-3"):
        look_for(spec(), tmp_path, planted.store, [key_of(0)])


async def test_rows_that_are_equal_to_others_leave_their_answers(tmp_path: Path) -> None:
    """Answers recorded under a forgotten row's name go on under the name of the row that shares them."""
    planted = await Planted.published(tmp_path)
    done = forget(look_for(spec(), tmp_path, planted.store, [key_of(0), key_of(EACH)]))
    assert done.receipt.kept_answers == 2
    planted.write(without=(0, EACH))
    published = await planted.run("run-3")
    assert sum(one.manifest.usage.calls for one in published.values() if one.manifest) == 0


async def test_the_same_on_s3(tmp_path: Path, seaweed: SeaweedS3, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in seaweed.env().items():
        monkeypatch.setenv(name, value)
    store = open_store(f"s3://{seaweed.bucket('forget')}/some/where")
    planted = await Planted.published(tmp_path, store)
    assert len(hits(store, TOKEN)) > 10
    before = planted.rows()
    forget(look_for(spec(sink={"path": store.uri}), tmp_path, store, planted.keys))
    assert hits(store, *traces(planted)) == set()
    assert planted.rows() == [row for row in before if not any(TOKEN in str(value) for value in row)]
    assert verify(store).problems == []


async def test_records_of_killed_processes_do_not_bring_a_row_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What a killed process had not stored yet is stored first, and then removed with the rest."""
    monkeypatch.setenv("TANDEM_SPOOL", str(tmp_path / "spool"))
    planted = await Planted.published(tmp_path)
    partition = "day=2026-11-01"
    segments = [planted.store.get(info.key) for info in planted.store.list(ids.journal_segments(partition))]
    everything = [record for segment in segments for record in decode_segment(segment).records]
    records = [record for record in everything if TOKEN in repr(record)]
    spool = Spools(tmp_path / "spool").open(planted.store.uri, "run-2", partition, 0)
    for record in records:
        spool.write(line_of(encode_record(record)))
    spool.close(whole=False)
    forget(look_for(spec(), tmp_path, planted.store, planted.keys))
    assert records
    assert list((tmp_path / "spool").glob("*.jsonl")) == []
    assert hits(planted.store, *traces(planted)) == set()


async def test_an_equal_row_that_is_gone_leaves_nothing_to_carry_over(tmp_path: Path) -> None:
    """The journal of another day has the answer under the name of a twin, whom the source has no more."""
    planted = await Planted.published(tmp_path)
    twin = source().filter(pl.col("id") == key_of(2)).with_columns(id=pl.lit("twin"), at=pl.lit(DAYS[2]))
    pl.concat([source(), twin]).write_csv(tmp_path / "rows.csv")
    await planted.run("run-3")
    planted.write()
    await planted.run("run-4")
    assert any("2026-11-03" in name for name in hits(planted.store, f"{TOKEN}002") if "journal" in name)
    forget(look_for(spec(), tmp_path, planted.store, [key_of(2)]))
    (left,) = hits(planted.store, f"{TOKEN}002")
    assert left.startswith("_tandem/history/day=2026-11-03/")  # a row of its own, which nobody has named


async def test_other_rows_answers_and_history_stay_in_partitions_without_the_rows(tmp_path: Path) -> None:
    planted = await Planted.published(tmp_path)
    kept = {info.key for info in planted.store.list("") if "2026-11-02" in info.key and "staging" not in info.key}
    done = forget(look_for(spec(), tmp_path, planted.store, [key_of(2)]))
    assert done.receipt.partitions == ("day=2026-11-01",)
    assert kept <= {info.key for info in planted.store.list("")}


async def test_published_columns_without_the_key_are_refused_until_the_source_lacks_the_row(tmp_path: Path) -> None:
    drop = {"name": "drop", "uses": "sql", "query": "SELECT text, at, summary FROM rows"}
    changed = {"stages": [*SPEC["stages"], drop]}
    planted = Planted(Bench(tmp_path, LocalStore(tmp_path / "out"), {**SPEC, **changed}))
    planted.write()
    await planted.run("run-1")
    with pytest.raises(UsageError, match="published columns do not have id"):
        look_for(spec(**changed), tmp_path, planted.store, planted.keys)
    planted.write(without=tuple(PLANTED))
    await planted.run("run-2")
    forget(look_for(spec(**changed), tmp_path, planted.store, planted.keys))
    assert hits(planted.store, *traces(planted)) == set()


async def test_messages_and_examples_of_runs_do_not_name_the_row(tmp_path: Path) -> None:
    """Outcomes, reports, pages and manifests repeat keys as examples of broken checks, and messages of failures."""
    polite = {"name": "polite", "sql": "summary not like '%Invoice%'", "severity": "warn"}
    checks = [polite, {"name": "ids", "unique": "dataset", "severity": "warn"}]
    planted = Planted(Bench(tmp_path, LocalStore(tmp_path / "out"), {**SPEC, "checks": checks}))
    twice = source().filter(pl.col("id") == key_of(0)).with_columns(at=pl.lit(DAYS[2]))
    pl.concat([source(), twice]).write_csv(tmp_path / "rows.csv")
    done = await planted.run("run-1")
    assert any("shared-keys" in name for name in hits(planted.store, key_of(0)))
    assert any(check.keys for one in done.values() if one.manifest for check in one.manifest.checks)
    failed = PartitionResult(
        partition="day=2026-11-01", outcome="failed", error="DuplicateKeys", message=f"two rows have id='{key_of(0)}'"
    )
    write_outcome(planted.store, "run-1", failed)
    catalogue.update(planted.store, dt.datetime.now(dt.UTC))
    assert any("catalogue" in name for name in hits(planted.store, key_of(0)))
    forget(look_for(spec(checks=checks), tmp_path, planted.store, planted.keys))
    assert hits(planted.store, *traces(planted)) == set()


@pytest.mark.parametrize("form", ["delta", "iceberg"])
async def test_tables_follow(tmp_path: Path, form: str) -> None:
    sink = {"sink": {"path": "out", "format": form}}
    planted = Planted(Bench(tmp_path, LocalStore(tmp_path / "out"), {**SPEC, **sink}))
    planted.write()
    await planted.run("run-1")
    done = forget(look_for(spec(**sink), tmp_path, planted.store, planted.keys))
    assert any(form in place.lower() for place in done.receipt.not_reached)
    assert hits(planted.store, *traces(planted)) == set()
    lake = lake_of(spec(**sink), tmp_path, planted.store)
    assert lake is not None
    with contextlib.closing(lake):
        assert verify(planted.store, lake=lake).problems == []


async def test_questions_and_peoples_answers_go_too(tmp_path: Path) -> None:
    """Row 0 waits for a person, row 1 was answered, row 2 asks the same as row 0 and stays."""
    ask = {"name": "ask", "uses": "tests.stages.asking:some", "model": "offline:lexical", "output": {"word": "str"}}
    settings = {"source": {"path": "rows.parquet", "key": ["id"]}, "stages": [ask]}
    bench = Bench(tmp_path, LocalStore(tmp_path / "out"), settings)
    texts = ["ask the same", f"ask about {TOKEN}", "ask the same", "text"]
    bench.write(pl.DataFrame({"id": range(4), "text": texts, "note": [TOKEN, TOKEN, "", ""]}))
    await bench.one(run="run-1")
    (question,) = [one for one in open_questions(bench.store) if one.key["id"] == 1]
    answer_all(bench.store, [(question, f"yes, {TOKEN}")])
    before = await bench.one(run="run-2")
    for run in ("run-1", "run-2"):
        bench.store.put(ids.report(run), b"{}")
    assert any("_review" in name for name in hits(bench.store, TOKEN))
    plain = Spec.model_validate({"name": "tests", "sink": {"path": "out"}, **settings})
    done = forget(look_for(plain, tmp_path, bench.store, ["0", "1"]))
    assert hits(bench.store, TOKEN) == set()
    assert done.receipt.kept_answers == 1
    manifest = commits.current(bench.store, before.partition)
    assert manifest is not None
    assert (before.counts.pending, before.counts.ok) == (2, 2)
    assert (manifest.counts.pending, manifest.counts.ok, manifest.counts.rows_in) == (1, 1, 2)
    assert [one.key["id"] for one in open_questions(bench.store)] == [2]
    bench.write(pl.DataFrame({"id": [2, 3], "text": texts[2:], "note": ["", ""]}))
    assert (await bench.one(run="run-3")).usage.calls == 0
    assert verify(bench.store).problems == []


async def test_a_publication_that_was_abandoned_goes_with_its_rows(tmp_path: Path) -> None:
    planted = await Planted.published(tmp_path)
    manifest = commits.current(planted.store, "day=2026-11-01")
    assert manifest is not None
    (file,) = manifest.files
    planted.store.copy(file.key, ids.part_file(ids.data_folder(manifest.partition), 0, 9, file.sha256))
    forget(look_for(spec(), tmp_path, planted.store, planted.keys))
    assert hits(planted.store, *traces(planted)) == set()


async def test_a_process_that_knows_the_split_input_makes_it_again(tmp_path: Path) -> None:
    """A worker keeps inputs in memory; after their files were removed, it must not read them."""
    planted = await Planted.published(tmp_path)
    forget(look_for(spec(), tmp_path, planted.store, [key_of(0)]))
    assert len(await planted.run("run-3", reprocess="all")) == 3
