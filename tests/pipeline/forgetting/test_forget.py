"""Rows that are forgotten are nowhere in the sink: 0 hits in all bytes, and the rest is as it was, for 0 calls."""

from __future__ import annotations

from pathlib import Path

import pytest

from pipeline.operations.forget import forget, look_for
from pipeline.outputs.verify import verify
from pipeline.sinks import commits
from schemas.errors import UsageError
from schemas.spec.sections import Spec
from tests.pipeline.forgetting.planted import (
    EACH,
    EQUAL,
    PLANTED,
    REJECTED,
    SPEC,
    TOKEN,
    Planted,
    hits,
    key_of,
    traces,
)


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
