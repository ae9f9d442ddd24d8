"""sql: what it does to a row depends on that row alone."""

import datetime as dt
from typing import Any

import polars as pl
import pyarrow as pa
import pytest

from schemas.errors import PartitionError, SpecError
from stages.contract import ROW, TableStage
from tests.stages.support import built

COLUMNS = pa.schema(
    [
        pa.field("a", pa.int64()),
        pa.field("s", pa.string()),
        pa.field("day", pa.date32()),
        pa.field("tags", pa.list_(pa.string())),
    ]
)
ROWS = pl.DataFrame(
    {
        "a": [1, 2, 3, None],
        "s": ["x", "y", "5", None],
        "day": [dt.date(2026, 1, 1), dt.date(2026, 2, 1), None, dt.date(2025, 1, 1)],
        "tags": [["p"], [], ["q", "r"], None],
        ROW: [10, 11, 12, 13],
    },
    schema_overrides={ROW: pl.Int64},
)


def a_table(query: str, **given: Any) -> TableStage:
    stage = built({"uses": "sql", "query": query, **given}, columns=COLUMNS)[0]
    assert isinstance(stage, TableStage)
    return stage


@pytest.mark.parametrize(
    ("query", "kept"),
    [
        ("SELECT * FROM rows WHERE a >= 2", [11, 12]),
        ("select a from rows where s is null or a = 1;", [10, 13]),
        ("SELECT a, s FROM rows", [10, 11, 12, 13]),
        ("SELECT r.a FROM rows AS r WHERE r.s = 'y'", [11]),
        ("SELECT a IS DISTINCT FROM 2 AS other FROM rows WHERE a IS DISTINCT FROM 2", [10, 12, 13]),
        ("SELECT EXTRACT(YEAR FROM day) AS y FROM rows WHERE EXTRACT(YEAR FROM day) = 2026", [10, 11]),
        ("SELECT a -- from nowhere\nFROM rows WHERE s IN ('x', 'y')", [10, 11]),
        ("SELECT 1 AS one FROM rows WHERE FALSE", []),
        ("SELECT ' from rows ' AS t FROM rows", [10, 11, 12, 13]),
    ],
)
def test_a_filter_keeps_the_identity_of_the_rows_that_it_keeps(query: str, kept: list[int]) -> None:
    assert a_table(query).apply(ROWS)[ROW].to_list() == kept


def test_computed_columns_stay_with_their_rows() -> None:
    after = a_table("SELECT *, a * 2 AS twice, CASE WHEN a > 1 THEN 'big' ELSE 'small' END AS size FROM rows").apply(
        ROWS
    )
    assert after.filter(pl.col(ROW) == 12).select("a", "twice", "size").rows() == [(3, 6, "big")]
    assert a_table("SELECT 'k' AS constant FROM rows").apply(ROWS)["constant"].to_list() == ["k"] * 4


@pytest.mark.parametrize("cut", [1, 2, 3])
def test_how_rows_are_dealt_into_batches_changes_nothing(cut: int) -> None:
    stage = a_table("SELECT *, COALESCE(a, 0) + LENGTH(COALESCE(s, '')) AS n FROM rows WHERE a IS NULL OR a <> 2")
    whole = stage.apply(ROWS)
    assert pl.concat([stage.apply(ROWS.head(cut)), stage.apply(ROWS.slice(cut))]).equals(whole)


@pytest.mark.parametrize(
    ("query", "what"),
    [
        ("SELECT s, count(*) FROM rows GROUP BY s", "GROUP BY"),
        ("SELECT * FROM rows LIMIT 5", "LIMIT"),
        ("SELECT * FROM rows OFFSET 5", "OFFSET"),
        ("SELECT * FROM rows FETCH FIRST 5 ROWS ONLY", "FETCH"),
        ("SELECT * FROM rows ORDER BY a", "ORDER BY"),
        ("SELECT * FROM rows JOIN rows r2 ON rows.a = r2.a", "a join"),
        ("SELECT * FROM rows, rows r2", "a join"),
        ("SELECT DISTINCT a FROM rows", "DISTINCT"),
        ("SELECT sum(a) AS n FROM rows", "an aggregate"),
        ("SELECT * FROM rows WHERE a > (SELECT avg(a) FROM rows)", "a"),
        ("SELECT median(a) AS m FROM rows", "an aggregate"),
        ("SELECT quantile_cont(a, 0.5) AS m FROM rows", "an aggregate"),
        ("SELECT VAR(a) AS m FROM rows", "an aggregate"),
        ("SELECT sum(a) OVER () AS n FROM rows", "a window function"),
        ("SELECT *, row_number() AS n FROM rows", "ROW_NUMBER"),
        ("SELECT *, lag(a) OVER (ORDER BY a) AS n FROM rows", "ORDER BY"),
        ("SELECT * FROM rows WHERE a IN (SELECT a FROM rows)", "a subquery"),
        ("SELECT * FROM rows WHERE EXISTS (SELECT 1 FROM rows)", "a subquery"),
        ("SELECT * FROM (SELECT * FROM rows) t", "a subquery"),
        ("WITH t AS (SELECT * FROM rows) SELECT * FROM t", "WITH"),
        ("SELECT unnest(tags) AS t FROM rows", "UNNEST"),
        ("SELECT * FROM rows TABLESAMPLE BERNOULLI (10)", "TABLESAMPLE"),
        ("SELECT *, random() AS r FROM rows", "RANDOM"),
    ],
)
def test_what_depends_on_other_rows_is_refused(query: str, what: str) -> None:
    with pytest.raises(SpecError, match=f"stage stage0: query uses {what}.*how rows are dealt into batches"):
        a_table(query)


@pytest.mark.parametrize(
    ("query", "sentence"),
    [
        ("SELECT nothing FROM rows", r"nothing.*Columns: a, s, day, tags"),
        ("SELECT * FROM rows WHERE nothing > 1", "nothing"),
        ("SELECT * FROM tickets", "must select FROM rows, not tickets"),
        ("SELECT 1 AS one", "must select FROM rows, not nothing"),
        ("DELETE FROM rows", "must be one SELECT"),
        ("SELECT a FROM rows; SELECT s FROM rows", "must be one SELECT"),
        ("SELECT a FROM rows UNION ALL SELECT a FROM rows", "must be one SELECT"),
        ("SELECT FROM WHERE", "not valid SQL|must"),
        ("SELECT nosuch(a) AS x FROM rows", "nosuch"),
    ],
)
def test_a_query_that_cannot_run_is_one_sentence(query: str, sentence: str) -> None:
    with pytest.raises(SpecError, match=f"(?s)stage stage0: query.*({sentence})") as caught:
        a_table(query)
    assert "\n" not in str(caught.value)


def test_the_types_after_it_are_declared_before_any_row() -> None:
    stage = a_table(
        "SELECT a, CAST(a AS DOUBLE) / 2 AS half, s || '!' AS t, a > 1 AS big, day, tags, NULL AS nothing FROM rows"
    )
    assert stage.columns == pa.schema(
        [("a", pa.int64()), ("half", pa.float64()), ("t", pa.string()), ("big", pa.bool_()), ("day", pa.date32()),
         ("tags", pa.list_(pa.field("item", pa.string()))), ("nothing", pa.string())]
    )  # fmt: skip


def test_dropped_columns_are_gone_and_must_be_there() -> None:
    stage = a_table("SELECT * FROM rows", drop=["s"])
    assert stage.columns.names == ["a", "day", "tags"]
    assert "s" not in stage.apply(ROWS).columns
    with pytest.raises(SpecError, match="nothing"):
        a_table("SELECT * FROM rows", drop=["nothing"])


def test_a_cast_that_fails_is_a_sentence_without_the_values() -> None:
    stage = a_table("SELECT CAST(s AS BIGINT) AS n FROM rows")
    with pytest.raises(PartitionError, match=r"stage stage0: the query failed.*TRY_CAST") as caught:
        stage.apply(ROWS)
    assert '"x"' not in str(caught.value)
    assert a_table("SELECT TRY_CAST(s AS BIGINT) AS n FROM rows").apply(ROWS)["n"].to_list() == [None, None, 5, None]


def test_the_fingerprint_covers_query_drop_and_version() -> None:
    query = "SELECT * FROM rows"
    stages = [a_table(query), a_table(query + " WHERE a = 1"), a_table(query, drop=["s"]), a_table(query, version=2)]
    assert len({stage.fingerprint for stage in stages}) == 4
    assert a_table(query + ";").fingerprint == stages[0].fingerprint


def test_a_partition_scope_is_refused_until_it_is_built() -> None:
    with pytest.raises(SpecError, match="scope: partition"):
        a_table("SELECT * FROM rows", scope="partition")
