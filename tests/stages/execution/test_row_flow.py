"""One step of the rows' way: which rows come out of a stage, from which each came, and why the others left."""

import datetime as dt
from typing import Any

import polars as pl
import pyarrow as pa
import pytest

from schemas.errors import PartitionError
from stages.contract import REJECTED, ROW, GraphStage, TableStage
from stages.execution.row_flow import RowAnswer, RowTable, Step, apply_stage, apply_to_file, take_answers
from tests.stages.support import an_extract, built

COLUMNS = pa.schema([pa.field("text", pa.string()), pa.field("parts", pa.list_(pa.string()))])
ROWS = pl.DataFrame({"text": ["a", "b", "c"], "parts": [["x", "y"], [], ["z"]]})
OK = RowAnswer({"word": "w", "level": 1})


def table() -> RowTable:
    return RowTable.of_source(ROWS, COLUMNS)


def a_table_stage(**stage: Any) -> TableStage:
    (found,) = built(stage, columns=COLUMNS)
    assert isinstance(found, TableStage)
    return found


def exploded() -> RowTable:
    """Rows of the positions 0, 0, 1, 2."""
    return apply_stage(a_table_stage(uses="explode", **{"with": {"column": "parts", "into": "part"}}), table()).table


def an_extract_over(columns: pa.Schema, **changed: Any) -> GraphStage:
    return an_extract(columns=columns, **changed)


def seen(step: Step) -> tuple[list[int], list[int], dict[int, str]]:
    return step.table.positions, step.origins, dict(step.left)


def test_rejected_rows_leave_or_stay_with_null_outputs() -> None:
    answers = [OK, RowAnswer(), OK]
    step = take_answers(an_extract_over(COLUMNS), table(), answers)
    assert seen(step) == ([0, 2], [0, 2], {1: "rejected"})
    step = take_answers(an_extract_over(COLUMNS, on_reject="null"), table(), answers)
    assert seen(step) == ([0, 1, 2], [0, 1, 2], {})
    assert [reject.place for reject in step.rejected] == [1]
    assert step.table.frame["word"].to_list() == ["w", None, "w"]


def test_with_a_pending_part_all_parts_of_its_source_row_leave() -> None:
    """Whether they were answered or rejected; a rejected one is one all the same."""
    before = exploded()
    stage = an_extract_over(before.columns, on_reject="null")
    step = take_answers(stage, before, [RowAnswer(pending=True), RowAnswer(), OK, OK])
    assert seen(step) == ([1, 2], [2, 3], {0: "pending", 1: "pending"})
    assert [reject.place for reject in step.rejected] == [1]


def test_nothing_is_left_of_a_table_whose_rows_all_leave_but_its_columns() -> None:
    step = take_answers(an_extract_over(COLUMNS, drop=["parts"]), table(), [RowAnswer()] * 3)
    assert step.table.frame.height == 0
    assert step.table.to_arrow().schema == step.table.columns
    assert step.table.columns.names == ["text", "word", "level"]


def test_a_check_tells_its_reason_and_what_it_looks_at_and_a_filter_none() -> None:
    rules = [{"name": "not_a", "sql": "text <> 'a'"}, {"name": "not_b", "sql": "text <> 'b'", "action": "filter"}]
    dropping = a_table_stage(uses="checks", **{"with": {"rules": rules}})
    step = apply_stage(dropping, table())
    assert seen(step) == ([2], [2], {0: "rejected", 1: "filtered"})
    (reject,) = step.rejected
    assert (reject.place, reject.reason, reject.columns) == (0, "not_a", frozenset({"text"}))
    keeping = a_table_stage(uses="checks", on_reject="null", **{"with": {"rules": rules}})
    step = apply_stage(keeping, table())
    assert seen(step) == ([0, 2], [0, 2], {1: "filtered"})
    assert [reject.place for reject in step.rejected] == [0]


def test_parts_come_from_the_place_of_their_row_and_keep_its_position() -> None:
    before = exploded()
    assert before.positions == [0, 0, 1, 2]
    sql = built({"uses": "sql", "query": "SELECT part FROM rows WHERE part <> 'x'"}, columns=before.columns)[0]
    assert isinstance(sql, TableStage)
    step = apply_stage(sql, before)
    assert seen(step) == ([0, 2], [1, 3], {0: "filtered", 2: "filtered"})


def test_rows_come_out_in_the_declared_types_and_order() -> None:
    columns = pa.schema([pa.field("at", pa.timestamp("ms")), pa.field("text", pa.large_string())])
    rows = pl.DataFrame(
        {"text": ["a"], "at": pl.Series([dt.datetime.fromisoformat("2026-11-01")], dtype=pl.Datetime("ms"))}
    )
    step = take_answers(an_extract_over(columns), RowTable.of_source(rows, columns), [OK])
    assert step.table.frame.columns == ["at", "text", "word", "level", ROW]
    assert step.table.to_arrow().schema == step.table.columns
    assert [str(kind) for kind in step.table.columns.types] == ["timestamp[us]", "string", "string", "int64"]


def test_a_barrier_takes_the_table_as_the_whole_partition() -> None:
    whole = {"uses": "sql", "scope": "partition"}
    step = apply_stage(
        a_table_stage(**whole, query="SELECT text FROM rows WHERE text <> 'b' ORDER BY text DESC"), table()
    )
    assert seen(step) == ([2, 0], [2, 0], {1: "filtered"})
    step = apply_stage(a_table_stage(**whole, query="SELECT count(*) AS n FROM rows"), table())
    assert (step.table.frame["n"].to_list(), step.origins, step.left) == ([3], [], {})


def test_a_query_that_fails_on_a_partition_is_one_sentence_without_values(tmp_path: Any) -> None:
    rows = table().frame.with_columns(pl.lit(False).alias(REJECTED))
    rows.write_parquet(tmp_path / "rows.parquet")
    stage = a_table_stage(uses="sql", scope="partition", query="SELECT CAST(text AS INT) AS n FROM rows")
    with pytest.raises(PartitionError, match="the query failed on these rows") as failed:
        apply_to_file(stage, tmp_path / "rows.parquet", tmp_path / "after.parquet", keeps_rows=True)
    assert "'a'" not in str(failed.value)


def test_of_rows_that_are_not_answered_what_the_stage_writes_is_not_known() -> None:
    rows = exploded().frame
    assert an_extract_over(COLUMNS, drop=["text"]).known_after(rows).columns == ["parts", "part", ROW]
    explode = a_table_stage(uses="explode", **{"with": {"column": "parts"}})
    assert explode.known_after(table().frame.select("parts", ROW))[ROW].to_list() == [0, 0, 1, 2]
    assert explode.known_after(table().frame.select("text", ROW)).columns == [ROW]
    assert a_table_stage(uses="sql", query="SELECT * FROM rows").known_after(rows).columns == [ROW]
