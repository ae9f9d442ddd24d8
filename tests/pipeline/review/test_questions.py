"""Rows that wait for a person: left out and counted, answered for nothing, and the next generation has them."""

from __future__ import annotations

import asyncio
import csv
import datetime as dt
import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import orjson
import polars as pl
import pytest

from pipeline.journal.compaction import GRACE
from pipeline.review import questions
from pipeline.review.answer_files import export_file, import_file
from pipeline.review.answering import (
    ReviewQuestion,
    answer_all,
    mismatch,
    open_questions,
    questions_of_row,
    single_question,
)
from schemas import ids
from schemas.errors import UsageError
from schemas.manifest import Manifest
from tests.pipeline.jobs import EXTRACT, Bench

ASK: dict[str, Any] = {
    "name": "ask", "uses": "tests.stages.asking:some", "model": "offline:lexical", "output": {"word": "str"},
}  # fmt: skip
FILE = "file=rows.parquet"


def texts(count: int, asked: int) -> pl.DataFrame:
    """Rows of which the first `asked` are for a person."""
    said = [f"ask about {at}" if at < asked else f"text {at}" for at in range(count)]
    return pl.DataFrame({"id": range(count), "text": said})


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    bench = Bench(
        tmp_path,
        spec={"limits": {"batch_rows": 10}, "stages": [ASK], "source": {"path": "rows.parquet", "key": ["id"]}},
    )
    bench.write(texts(25, 4))
    return bench


def published(bench: Bench, manifest: Manifest) -> pl.DataFrame:
    assert manifest.files
    frames = [pl.read_parquet(bench.store.get(file.key)) for file in manifest.files]
    return pl.concat(frames).sort("id")


def reply(bench: Bench, value: Any = "yes", *rows: int) -> int:
    """Answer the questions of these rows, or of all."""
    found = [asked for asked in open_questions(bench.store) if not rows or asked.key["id"] in rows]
    return sum(answer_all(bench.store, [(asked, value) for asked in found]).values())


def due(bench: Bench, **selected: Any) -> set[str]:
    return set(bench.planned(bench.plan(bench.job(), f"look-{len(bench.keys())}", **selected)))


@pytest.mark.parametrize(
    ("count", "asked", "batch"), [(300, 20, 50), pytest.param(10_000, 200, 1_000, marks=pytest.mark.prove)]
)
async def test_rows_that_wait_are_left_out_and_the_next_generation_has_them_for_the_calls_that_were_missing(
    bench: Bench, tmp_path: Path, count: int, asked: int, batch: int
) -> None:
    bench.write(texts(count, asked))
    bench.spec = {**bench.spec, "limits": {"batch_rows": batch}}
    job = bench.job()
    first = await bench.one(job)
    assert (first.counts.rows_in, first.counts.ok, first.counts.pending, first.counts.out) == (
        count, count - asked, asked, count - asked,
    )  # fmt: skip
    assert first.usage.calls == count
    assert due(bench) == set(), "questions alone make nothing stale"

    file = tmp_path / "questions.csv"
    export_file(file, open_questions(bench.store))
    lines = list(csv.reader(file.read_text().splitlines()))
    answered = [lines[0], *([*line[:-1], f"said {line[3]}"] for line in lines[1:])]
    with file.open("w", newline="") as out:
        csv.writer(out).writerows(answered)
    answers, blank = import_file(file, open_questions(bench.store))
    assert (len(answers), blank) == (asked, 0)
    answer_all(bench.store, answers)
    assert due(bench) == {FILE}

    second = await bench.one(job)
    assert (second.counts.ok, second.counts.pending, second.generation) == (count, 0, 2)
    assert second.usage.calls == asked, "one call a row came after its question"
    assert published(bench, second)["word"].to_list()[: asked + 1] == [f"said {at}" for at in range(asked)] + [
        "by itself"
    ]
    assert open_questions(bench.store) == []
    assert due(bench) == set()


async def test_some_answers_make_some_rows(bench: Bench) -> None:
    await bench.one()
    assert reply(bench, "fine", 0, 2) == 2
    plan = bench.plan(bench.job(), "look")
    assert bench.planned(plan) == {FILE: 25}
    second = await bench.one()
    assert (second.counts.ok, second.counts.pending, second.usage.calls) == (23, 2, 2)
    assert [asked.key["id"] for asked in open_questions(bench.store)] == [1, 3]


async def test_a_row_that_a_person_refused_is_a_reject_and_others_are_not_held_up(bench: Bench) -> None:
    await bench.one()
    reply(bench, "no", 1)
    reply(bench, "yes", 0, 2, 3)
    second = await bench.one()
    assert (second.counts.ok, second.counts.rejected, second.counts.pending) == (24, 1, 0)


async def test_a_changed_stage_asks_anew_and_forgets_what_the_old_one_asked(bench: Bench) -> None:
    await bench.one()
    before = {asked.id for asked in open_questions(bench.store)}
    reply(bench, "old", 0)
    second = await bench.one(bench.job(stages=[{**ASK, "version": 2}]))
    assert (second.counts.pending, second.counts.ok) == (4, 21)
    assert second.usage.calls == 0, "the same calls are known"
    assert not before & {asked.id for asked in open_questions(bench.store)}
    third = await bench.one(reprocess="all")
    assert (third.counts.pending, third.usage.calls) == (3, 1), "back again, with what was said then"


async def test_answers_outlast_compaction_and_hold_for_fresh_answers_of_models(bench: Bench) -> None:
    bench.now = lambda: dt.datetime.now(dt.UTC) + 3 * GRACE
    await bench.one()
    reply(bench, "kept", 0, 1)
    await bench.one()
    for _ in range(2):
        await bench.one(reprocess="all")
    assert len(questions.read_answers(bench.store, FILE)) == 2
    fresh = await bench.one(reprocess="all", fresh=True)
    assert (fresh.counts.ok, fresh.counts.pending, fresh.usage.calls) == (23, 2, 27)
    assert published(bench, fresh)["word"].to_list()[:2] == ["kept", "kept"]


async def test_equal_rows_ask_once_and_take_one_answer(bench: Bench) -> None:
    frame = texts(8, 2)
    bench.write(pl.concat([frame, frame.with_columns(id=pl.col("id") + 100)]))
    calls = []
    for size in (4, 100):  # equal rows in batches of their own, and in one
        first = await bench.one(bench.job(limits={"batch_rows": size}), reprocess="all")
        assert (first.counts.pending, first.counts.ok) == (4, 12)
        assert [len(asked.rows) for asked in open_questions(bench.store)] == [2, 2]
        calls.append(first.usage.calls)
    assert reply(bench) == 2
    for size in (4, 100):
        second = await bench.one(bench.job(limits={"batch_rows": size}), reprocess="all")
        assert (second.counts.ok, second.counts.pending) == (16, 0)
        calls.append(second.usage.calls)
    assert calls == [8, 0, 2, 0]


async def test_a_row_is_rejected_by_one_stage_and_waits_in_the_next_and_is_counted_once(bench: Bench) -> None:
    bench.write(pl.DataFrame({"id": range(6), "text": ["ask a", None, "b", "ask c", None, "d"]}))
    first = {**EXTRACT, "prompt": "{{ text }}", "when_empty": "reject", "on_reject": "null"}
    later = {**ASK, "inputs": {"text": "text"}}
    both = {
        **later,
        "name": "always",
        "output": {"said": "str"},
        "outputs": {"said": "word"},
        "uses": "tests.stages.asking:blank",
    }
    manifest = await bench.one(bench.job(stages=[first, later, both]))
    counts = manifest.counts
    assert counts.add_up
    assert (counts.ok, counts.rejected, counts.pending, counts.out) == (2, 0, 4, 2)
    assert manifest.rejects == (), "what waits is in no reject file"
    reply(bench, "said")
    counts = (await bench.one(bench.job(stages=[first, later, both]))).counts
    assert (counts.ok, counts.rejected, counts.pending, counts.out) == (4, 2, 0, 6)


async def test_an_aborted_question_of_a_partition_that_was_published_since_is_not_shown(bench: Bench) -> None:
    manifest = await bench.one()
    rows = questions.of_generation(bench.store, manifest)
    questions.put_waiting(bench.store, FILE, rows.head(1), base=manifest.generation)
    assert [asked.generation for asked in open_questions(bench.store)] == [None]
    await bench.one(reprocess="all")
    assert [asked.generation for asked in open_questions(bench.store)] == [2] * 4
    questions.remove_waiting(bench.store, FILE)
    assert open_questions(bench.store, "file=other.parquet") == []


# Meaning rows, and files -------------------------------------------------------------------------------------------


async def test_which_question_is_meant(bench: Bench) -> None:
    await bench.one()
    found = open_questions(bench.store)
    asked = found[2]
    for row in ("2", asked.id, asked.row_id, '{"id":2}'):
        assert single_question(found, row) == asked
    assert questions_of_row(found, "2")[0].as_json()["question"] == "What of: ask about 2"
    with pytest.raises(UsageError, match="no row with this id or key waits"):
        single_question(found, "17")
    with pytest.raises(UsageError, match="this matches 2 questions"):
        single_question([*found, asked], "2")


def with_line(line: dict[str, Any]) -> Callable[[list[dict[str, Any]]], Any]:
    return lambda lines: [*lines, line]


@pytest.mark.parametrize("ending", ["json", "csv"])
@pytest.mark.parametrize(
    ("change", "said"),
    [
        (
            lambda lines: [{k: v for k, v in line.items() if k != "answer"} for line in lines],
            "column answer is missing",
        ),
        (
            lambda lines: [{k: v for k, v in line.items() if not k.endswith("id")} for line in lines],
            "column id .* is missing",
        ),
        (lambda lines: [{**line, "id": "nobody"} for line in lines], "'nobody' is not waiting"),
        (lambda lines: [lines[0], {**lines[0], "answer": "else"}], "has another answer to the same question"),
        (lambda lines: [{**line, "partition": "file=other"} for line in lines], "is not waiting"),
    ],
)
async def test_a_wrong_file_is_refused_whole(
    bench: Bench, tmp_path: Path, ending: str, change: Callable[[Any], Any], said: str
) -> None:
    await bench.one()
    file = tmp_path / f"answers.{ending}"
    found = open_questions(bench.store)
    lines = [{"id": q.id, "partition": q.partition, "row_id": q.row_id, "answer": "x"} for q in found]
    write(file, change(lines))
    with pytest.raises(UsageError, match=said):
        import_file(file, found)
    write(file, [{"row_id": line["row_id"], "answer": line["answer"]} for line in lines])
    assert import_file(file, found) == ([(asked, "x") for asked in found], 0), "a row's id is enough"


def write(file: Path, lines: list[dict[str, Any]]) -> None:
    if file.suffix == ".json":
        file.write_bytes(orjson.dumps(lines))
        return
    with file.open("w", newline="", encoding="utf-8-sig") as out:  # as spreadsheets save it
        writer = csv.DictWriter(out, list(lines[0]), delimiter=";")
        writer.writeheader()
        writer.writerows(lines)


def test_a_file_that_is_none(tmp_path: Path) -> None:
    for name, content, said in (
        ("a.json", "[", "is not JSON"), ("b.json", '{"id": 1}', "not a list of objects"),
        ("c.txt", "", "end in .json or"), ("d.csv", "id,answer\nx\n", "its number of columns differs"),
        ("gone.csv", None, "cannot be read"),
    ):  # fmt: skip
        if content is not None:
            (tmp_path / name).write_text(content)
        with pytest.raises(UsageError, match=said):
            import_file(tmp_path / name, [])


async def test_a_spreadsheet_takes_no_question_for_a_formula(tmp_path: Path) -> None:
    asked = ReviewQuestion(
        "p", 1, "q", ("s", "r", "d", 0), (("row", {"id": "=1+1"}),), "ask", "@cmd\n-2 or\n fine", {}, None, None,
        dt.datetime.now(dt.UTC), None,
    )  # fmt: skip
    await asyncio.to_thread(export_file, tmp_path / "q.csv", [asked])
    line = list(csv.reader(io.StringIO((tmp_path / "q.csv").read_text())))[1]
    assert line == ["q", "p", "row", "'=1+1", "ask", "'@cmd\n'-2 or\n fine", ""]


def test_what_plainly_does_not_fit_is_refused_before_it_is_written() -> None:
    label = {"enum": ["good", "bad"]}
    schema = {"type": "object", "required": ["label"], "properties": {"label": label, "n": {"type": "integer"}}}
    assert mismatch({"label": "good", "n": 1}, schema) is None
    for value, why in (
        ("good", "is not of type object"), ({}, "'label' is missing"), ({"label": "so so"}, "label: so so is not"),
        ({"label": "bad", "n": True}, "n: true is not of type integer"),
    ):  # fmt: skip
        assert why in (mismatch(value, schema) or "")


def test_answers_are_where_no_run_writes() -> None:
    key = ids.journal_answer(FILE, "0" * 32)
    assert key.startswith(ids.journal_segments(FILE))
    assert not ids.RUN_NAME.match(key.removeprefix(ids.journal_segments(FILE)).split("/")[0])
