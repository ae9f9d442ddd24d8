"""sql: what it does to a row depends on that row alone."""

import datetime as dt
from pathlib import Path
from typing import Any

import polars as pl
import pyarrow as pa
import pytest

from schemas.errors import ChecksFailed, PartitionError, SpecError
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
    with pytest.raises(SpecError, match=f"stage stage0: query uses {what}.*how rows are split into batches"):
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


@pytest.mark.parametrize(
    ("query", "identity"),
    [
        ("SELECT * FROM rows WHERE a > 1 ORDER BY a LIMIT 5", True),
        ("SELECT a, rank() OVER (ORDER BY a) AS r FROM rows", True),
        ("SELECT s, count(*) AS n FROM rows GROUP BY s", False),
        ("SELECT DISTINCT s FROM rows", False),
        ("SELECT avg(a) AS mean FROM rows", False),
        ("SELECT x.a FROM rows AS x JOIN rows AS y ON x.a = y.a", False),
        ("WITH big AS (SELECT * FROM rows WHERE a > 1) SELECT a FROM big", False),
    ],
)
def test_over_a_partition_a_query_may_group_and_say_so(query: str, identity: bool) -> None:
    stage = a_table(query, scope="partition")
    assert stage.run_on_partition is not None
    assert stage.keeps_rows is identity
    assert not [name for name in stage.columns.names if name.startswith("__")]


@pytest.mark.parametrize(
    ("query", "sentence"),
    [
        ("SELECT * FROM rows LIMIT 5", "LIMIT without ORDER BY, so that chance decides"),
        ("SELECT *, random() AS r FROM rows", "RANDOM.*uses: sample"),
        ("SELECT * FROM rows JOIN others ON rows.a = others.a", "must select FROM rows, not others"),
        ("SELECT nothing FROM rows GROUP BY nothing", "nothing.*Columns: a"),
    ],
)
def test_but_chance_and_other_tables_are_refused(query: str, sentence: str) -> None:
    with pytest.raises(SpecError, match=sentence):
        a_table(query, scope="partition")


# The other table stages --------------------------------------------------------------------------------------------


def a_stage(uses: str, options: dict[str, Any], columns: pa.Schema = COLUMNS, **given: Any) -> TableStage:
    stage = built({"uses": uses, "with": options, **given}, columns=columns)[0]
    assert isinstance(stage, TableStage)
    return stage


def test_a_sample_is_the_same_rows_however_they_are_dealt() -> None:
    rows = pl.DataFrame({"a": range(2000), "s": ["x"] * 2000, ROW: range(2000)}).sample(fraction=1, shuffle=True)
    columns = pa.schema([("a", pa.int64()), ("s", pa.string())])
    stage = a_stage("sample", {"rate": 0.1}, columns)
    kept = stage.apply(rows)
    assert 140 < kept.height < 260
    parts = pl.concat([stage.apply(rows.head(700)), stage.apply(rows.slice(700))])
    assert parts.equals(kept)
    assert set(a_stage("sample", {"rate": 0.2}, columns).apply(rows)["a"]) > set(kept["a"])
    assert set(a_stage("sample", {"rate": 0.1, "seed": 1}, columns).apply(rows)["a"]) != set(kept["a"])


def test_a_list_becomes_rows_that_stay_one_source_row() -> None:
    stage = a_stage("explode", {"column": "tags", "into": "tag", "position": "n"})
    after = stage.apply(ROWS)
    assert after.select(ROW, "tag", "n").rows() == [
        (10, "p", 0), (11, None, 0), (12, "q", 0), (12, "r", 1), (13, None, 0),
    ]  # fmt: skip
    assert stage.columns.field("tag").type == pa.string()
    stage = a_stage("explode", {"column": "tags", "into": "tag"})
    assert stage.apply(ROWS).select(ROW, "tag").rows() == after.select(ROW, "tag").rows()
    stage = a_stage("explode", {"column": "tags", "keep_empty": False})
    assert stage.apply(ROWS).select(ROW, "tags").rows() == [(10, "p"), (12, "q"), (12, "r")]
    assert stage.columns.names == ["a", "s", "day", "tags"]


def test_a_text_is_cut_into_chunks_that_join_to_it() -> None:
    text = "One sentence is here. Another one follows it. " * 20
    rows = pl.DataFrame({"s": [text, None, ""], ROW: [0, 1, 2]})
    columns = pa.schema([("s", pa.string())])
    after = a_stage("explode", {"column": "s", "chunk_tokens": 20, "position": "n"}, columns).apply(rows)
    assert "".join(after.filter(pl.col(ROW) == 0)["s"]) == text
    assert after.filter(pl.col(ROW) > 0).select(ROW, "s", "n").rows() == [(1, None, 0), (2, None, 0)]


def test_checks_name_what_a_row_breaks() -> None:
    rules = [{"name": "small", "sql": "a < 3"}, {"name": "named", "sql": "s IS NOT NULL"},
             {"name": "dated", "sql": "day IS NOT NULL", "action": "filter"}]  # fmt: skip
    stage = a_stage("checks", {"rules": rules})
    assert stage.reject_reason is not None
    assert stage.reject_reason(ROWS).to_list() == [None, None, "small", "small"]
    assert stage.apply(ROWS)[ROW].to_list() == [10, 11, 13]
    failing = a_stage("checks", {"rules": [{"name": "small", "sql": "a < 3", "action": "fail"}]})
    with pytest.raises(ChecksFailed, match=r"'small': 2 row\(s\) of a batch break it"):
        failing.apply(ROWS)


def test_checks_tell_which_columns_each_looks_at() -> None:
    columns = pa.schema([("a", pa.int64()), ("who", pa.struct([("a", pa.int64())])), ("s", pa.string())])
    rules = [
        {"name": "nested", "sql": "who.a > 1"},
        {"name": "told", "sql": "rows.who.a > 1 AND rows.s <> 'x'"},
        {"name": "twice", "sql": "a > 1"},
        {"name": "twice", "sql": "s IS NOT NULL"},
    ]
    judged = a_stage("checks", {"rules": rules}, columns).columns_checked
    assert judged == {"nested": {"who"}, "told": {"who", "s"}, "twice": {"a", "s"}}


TEXTS = [
    "The quick brown fox jumps over the lazy dog near the river bank today",
    "A wholly different sentence about invoices, refunds and late parcels in the mail",
    "the quick brown fox jumps over the lazy dog near the river bank TODAY!",
    None,
    "  ",
    "A wholly different sentence about invoices, refunds and late parcels in the post",
]


def marked(tmp_path: Path, rows: pl.DataFrame, options: dict[str, Any], columns: pa.Schema) -> list[tuple[Any, ...]]:
    source = tmp_path / "rows.parquet"
    rows.with_columns(pl.int_range(pl.len(), dtype=pl.Int64).alias(ROW)).write_parquet(source)
    stage = a_stage("dedupe", {"duplicate": "twice", "group": "kind", **options}, columns)
    assert stage.run_on_partition is not None
    return stage.run_on_partition(source).select("twice", "kind").collect().rows()


def test_near_duplicates_of_a_text_are_marked_and_the_first_is_not(tmp_path: Path) -> None:
    rows, columns = pl.DataFrame({"t": TEXTS}), pa.schema([("t", pa.string())])
    found = marked(tmp_path, rows, {"on": ["t"], "threshold": 0.7}, columns)
    assert found == [(False, 0), (False, 1), (True, 0), (False, 3), (False, 4), (True, 1)]
    assert marked(tmp_path, rows, {"on": ["t"], "threshold": 1.0}, columns)[5] == (False, 5)
    assert marked(tmp_path, rows, {"on": ["t"], "threshold": 0.7, "keep": "first"}, columns) == [
        (False, 0), (False, 1), (False, 3), (False, 4),
    ]  # fmt: skip


def test_vectors_are_compared_by_their_cosine(tmp_path: Path) -> None:
    vectors = [[1.0, 0.0], [0.0, 1.0], [2.0, 0.1], None, [0.0, 0.0], [0.7, 0.7]]
    columns = pa.schema([("v", pa.list_(pa.float64()))])
    found = marked(tmp_path, pl.DataFrame({"v": vectors}), {"vector": "v", "threshold": 0.95}, columns)
    assert found == [(False, 0), (False, 1), (True, 0), (False, 3), (False, 4), (False, 5)]


@pytest.mark.parametrize(
    ("uses", "options", "given", "sentence"),
    [
        ("sample", {}, {}, r"stages\[0\].with.*give rate: a share, or rows: a number"),
        ("sample", {"rows": 5}, {}, "with.rows and scope: partition belong together"),
        ("sample", {"rate": 0.5, "by": ["x"]}, {}, "with.by names 'x'"),
        ("explode", {"column": "x"}, {}, "with.column = 'x' is no column here"),
        ("explode", {"column": "s"}, {}, "'s' is string, not a list.*chunk_tokens"),
        ("explode", {"column": "tags", "chunk_tokens": 50}, {}, "chunk_tokens cuts a text"),
        ("explode", {"column": "tags", "into": "s"}, {}, "'s' is already a column"),
        ("aggregate", {"by": ["x"], "columns": {"n": "count(*)"}}, {}, "'x' is no column"),
        ("aggregate", {"by": ["s"], "columns": {"n": "a"}}, {}, "with.columns.n = 'a' is no aggregate"),
        ("aggregate", {"by": ["s"], "columns": {"n": "sum(b)"}}, {}, "with.columns: .*Columns: a, s"),
        (
            "checks",
            {"rules": [{"name": "x", "sql": "sum(a) > 1"}]},
            {},
            "x: 'sum.a. > 1' uses an aggregate; a condition is about one row",
        ),
        ("checks", {"rules": [{"name": "x", "sql": "b > 1"}]}, {}, "with.rules: x: .*Columns: a, s"),
        ("checks", {"rules": [{"name": "x", "sql": "a + 1"}]}, {}, "x: 'a . 1' is a number, neither true nor false"),
        ("checks", {"rules": []}, {}, "with.rules"),
        ("dedupe", {}, {}, "give on: .text columns., or vector"),
        ("dedupe", {"on": ["x"]}, {}, "'x' is no column here"),
        ("dedupe", {"vector": "s"}, {}, "with.vector = 's' is string, not list"),
        ("dedupe", {"on": ["s"], "duplicate": "a"}, {}, "'a' is already a column"),
        ("sample", {"rate": 0.5}, {"drop": ["x"]}, "drop names 'x', which is no column here"),
        ("explode", {"column": "tags"}, {"drop": ["x"]}, "drop names 'x', which is no column here"),
        ("aggregate", {"by": ["s"], "columns": {"n": "count(*)"}}, {"drop": ["s"]}, "drop has no effect here"),
    ],
)
def test_options_of_table_stages_are_checked(
    uses: str, options: dict[str, Any], given: dict[str, Any], sentence: str
) -> None:
    with pytest.raises(SpecError, match=sentence):
        a_stage(uses, options, **given)


@pytest.mark.parametrize(
    ("behind", "sentence"),
    [
        ({"uses": "extract", "model": "offline:lexical", "prompt": "{{ s }}", "output": {"w": "str"}},
         "stage stage1: it comes after stage stage0, which waits for the whole partition"),
        ({"uses": "checks", "with": {"rules": [{"name": "x", "sql": "a > 1"}]}},
         "stage stage1: .*no row can be rejected any more"),
    ],
)  # fmt: skip
def test_what_cannot_stand_behind_a_barrier_is_refused(behind: dict[str, Any], sentence: str) -> None:
    with pytest.raises(SpecError, match=sentence):
        built({"uses": "dedupe", "with": {"on": ["s"]}}, behind, columns=COLUMNS)
