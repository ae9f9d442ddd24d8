"""From which columns of the source an output is made."""

from collections.abc import Mapping

import pyarrow as pa
import pytest

from pipeline.telemetry.lineage.origins import Origin, origins
from tests.stages.support import MODEL, built

SOURCE = pa.schema([("id", pa.int64()), ("title", pa.string()), ("body", pa.string()), ("day", pa.date32())])
TRIAGE = {
    "name": "triage", "uses": "extract", "model": "offline:lexical", "prompt": "{{ title }}: {{ body }}",
    "output": {"mood": "str", "summary": "str"},
}  # fmt: skip


def made(*stages: Mapping[str, object]) -> dict[str, Origin]:
    return origins(built(*stages, columns=SOURCE), SOURCE)


def test_an_output_comes_from_what_its_prompt_reads_and_the_rest_is_passed_through() -> None:
    found = made(TRIAGE)
    assert found["id"] == Origin(("id",))
    assert found["mood"] == found["summary"] == Origin(("title", "body"), ("triage (extract)",))


def test_a_stage_that_reads_an_answer_reads_the_columns_of_that() -> None:
    second = {**TRIAGE, "name": "judge", "prompt": "{{ summary }} {{ day }}", "output": {"score": "int"}}
    found = made(TRIAGE, second)
    assert found["score"] == Origin(("title", "body", "day"), ("triage (extract)", "judge (extract)"))


def test_a_replaced_column_comes_from_the_stage_and_a_dropped_one_is_gone() -> None:
    found = made({**TRIAGE, "output": {"body": "str"}, "replace": True, "drop": ["title"]})
    assert found["body"] == Origin(("title", "body"), ("triage (extract)",))
    assert "title" not in found


@pytest.mark.parametrize(
    ("query", "name", "columns"),
    [
        ("SELECT *, upper(title) AS loud FROM rows", "loud", ("title",)),
        ("SELECT *, title || body AS both FROM rows WHERE id > 1", "both", ("title", "body")),
        ("SELECT id, title FROM rows", "title", ("title",)),
        ("SELECT id, 7 AS seven FROM rows", "seven", ()),
        ("SELECT id AS number FROM rows", "number", ("id",)),
    ],
)
def test_a_query_says_itself_what_its_columns_are_made_of(query: str, name: str, columns: tuple[str, ...]) -> None:
    found = made({"name": "q", "uses": "sql", "query": query})[name]
    assert found.columns == columns
    assert found.by == (() if columns == (name,) else ("q (sql)",))


def test_groups_say_it_too_and_a_query_that_cannot_be_followed_may_be_of_any_column() -> None:
    groups = {"name": "g", "uses": "aggregate", "with": {"by": ["day"], "columns": {"most": "max(length(body))"}}}
    assert made(groups) == {"day": Origin(("day",)), "most": Origin(("body",), ("g (aggregate)",))}
    nested = "WITH few AS (SELECT title FROM rows) SELECT title AS t FROM few"
    found = made({"name": "q", "uses": "sql", "scope": "partition", "query": nested})
    assert found["t"] == Origin(tuple(SOURCE.names), ("q (sql)",))


def test_a_graph_of_the_users_reads_its_inputs() -> None:
    graph = {
        "name": "mine", "uses": "tests.pipeline.telemetry.traces.graphs:graph", "inputs": {"text": "title"},
        "output": {"reply": "str"},
    }  # fmt: skip
    found = made(graph)["reply"]
    assert found == Origin(("title",), ("mine (tests.pipeline.telemetry.traces.graphs:graph)",))
    assert MODEL
