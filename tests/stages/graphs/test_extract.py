"""extract: columns from text, each answer valid or its row rejected."""

import datetime as dt
from enum import StrEnum
from typing import Any

import polars as pl
import pyarrow as pa
import pytest
from langchain_core.messages import AIMessage, HumanMessage, ToolMessage
from pydantic import BaseModel, Field

from schemas.errors import RowError, SpecError
from schemas.tables import fields_of_class
from stages.graphs.toolkit import assemble
from stages.models.answers import answer_format
from stages.models.answers.answer_format import AnswerFormat
from tests.harness.model_server import ModelServer
from tests.stages.support import Segments, a_context, an_extract, answers, enrich, kinds


def marked(json: str) -> str:
    return f"[[answer: {json}]]"


GOOD = '{"word": "x", "level": 3}'


async def test_a_fitting_answer_costs_one_call(server: ModelServer) -> None:
    outcome = await enrich(an_extract(), [marked(GOOD)])
    assert answers(outcome) == [{"word": "x", "level": 3}]
    assert server.stats().requests == 1


@pytest.mark.parametrize("action", ["bad_json", "wrong_schema"])
async def test_a_bad_answer_is_repaired_with_what_is_wrong(server: ModelServer, action: str) -> None:
    server.script({"rules": [{"action": action, "times": 1}]})
    outcome = await enrich(an_extract(), ["a"])
    assert kinds(outcome) == ["ok"]
    first, second = server.calls()
    assert "That answer is not valid" in second.message
    assert "not valid" not in first.message
    record = outcome.records[0]
    assert record is not None
    assert len(record.calls) == 2


@pytest.mark.parametrize(
    "answer", ['{"word": "x", "level": 9}', '{"word": "x"}', "[1, 2]", '{"word": null, "level": 1}']
)
async def test_after_two_repairs_the_row_is_rejected_with_the_raw_answer(server: ModelServer, answer: str) -> None:
    outcome = await enrich(an_extract(), [marked(answer)])
    assert kinds(outcome) == ["invalid_answer"]
    assert server.stats().requests == 3
    record = outcome.records[0]
    assert record is not None
    assert record.error is not None
    assert record.error["raw"] == answer
    assert record.error["calls"] == 3
    assert "after 2 repairs" in record.error["message"]


@pytest.mark.parametrize(
    ("rule", "kind"),
    [({"action": "refusal"}, "refusal"), ({"action": "length"}, "truncated"),
     ({"action": "error", "code": "content_filter"}, "content_filter"),
     ({"action": "error", "code": "context_length_exceeded"}, "context_length")],
)  # fmt: skip
async def test_what_asking_again_cannot_mend_is_rejected_at_once(
    server: ModelServer, rule: dict[str, Any], kind: str
) -> None:
    server.script({"rules": [rule]})
    assert kinds(await enrich(an_extract(), ["a"])) == [kind]
    assert server.stats().requests == 1


async def test_where_a_tool_is_forced_a_repair_answers_the_tool_call(
    server: ModelServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in (answer_format, assemble):
        monkeypatch.setattr(module, "structured_method", lambda name: "tool")
    server.script({"rules": [{"action": "wrong_schema", "times": 1}]})
    stage = an_extract()
    assert stage.provenance.structured_output == "tool"
    state = await stage.graph.ainvoke({"messages": [HumanMessage("a")]})
    _, first, complaint = state["messages"]
    assert isinstance(complaint, ToolMessage)
    assert complaint.tool_call_id == first.tool_calls[0]["id"]
    assert set(state["answer"]) == {"word", "level"}


@pytest.mark.parametrize(
    ("metadata", "kind"),
    [({"finish_reason": "content_filter"}, "content_filter"), ({"finish_reason": "SAFETY"}, "content_filter"),
     ({"stop_reason": "refusal"}, "content_filter"), ({"stop_reason": "max_tokens"}, "truncated"),
     ({"finish_reason": "MAX_TOKENS"}, "truncated"), ({"stopReason": "max_tokens"}, "truncated")],
)  # fmt: skip
def test_every_providers_words_for_a_withheld_or_cut_answer_are_known(metadata: dict[str, str], kind: str) -> None:
    form = AnswerFormat(an_extract(model="offline:lexical").fields, None, "x")
    with pytest.raises(RowError) as caught:
        form.read(AIMessage('{"wor', response_metadata=metadata))
    assert caught.value.kind == kind


@pytest.mark.parametrize("text", [GOOD, f"```json\n{GOOD}\n```", f"Sure!\n{GOOD}\nDone.", f"```\n{GOOD}```"])
def test_json_is_found_in_fences_and_chatter(text: str) -> None:
    form = AnswerFormat(an_extract(model="offline:lexical").fields, None, "x")
    assert form.read(AIMessage(text)) == {"word": "x", "level": 3}


# Blank rows --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("when", "kind", "calls"), [("null", "ok", 0), (None, "ok", 0), ("call", "ok", 1), ("reject", "empty", 0)]
)
@pytest.mark.parametrize("blank", [None, "", " \n"])
async def test_blank_rows(server: ModelServer, when: str | None, kind: str, calls: int, blank: str | None) -> None:
    outcome = await enrich(an_extract(when_empty=when), [blank])
    assert kinds(outcome) == [kind]
    assert server.stats().requests == calls
    if when in ("null", None):
        assert answers(outcome) == [{"word": None, "level": None}]


async def test_a_row_is_blank_only_when_all_columns_of_its_prompt_are(server: ModelServer) -> None:
    columns = pa.schema([pa.field("a", pa.string()), pa.field("b", pa.string()), pa.field("c", pa.string())])
    stage = an_extract(columns=columns, prompt="{{ a }}{{ b }}", system="About {{ c }}")
    rows = pl.DataFrame({"a": [None, "x", None], "b": ["", None, " "], "c": ["s", "s", "t"]})
    assert stage.reads == ("a", "b", "c")
    outcome = await enrich(stage, rows)
    assert kinds(outcome) == ["ok"] * 3
    assert server.stats().requests == 1


# Outputs -----------------------------------------------------------------------------------------------------------


class Mood(StrEnum):
    good = "good"
    bad = "bad"


class Person(BaseModel):
    name: str
    born: dt.date | None = None


class Everything(BaseModel):
    """A user's own class."""

    mood: Mood
    who: Person
    tags: list[str] = Field(default_factory=list, max_length=3)
    score: float = Field(ge=0, le=1, description="how sure")
    default: str | None = None


INLINE = {
    "mood": {"type": "enum", "values": ["good", "bad"]},
    "who": {"fields": {"name": "str", "born": "date?"}},
    "tags": "list[str]",
    "score": {"type": "float", "ge": 0, "le": 1},
    "default": "str?",
}
ANSWER = '{"mood": "bad", "who": {"name": "Ann", "born": "1999-12-31"}, "tags": ["a"], "score": 0.5, "default": null}'


@pytest.mark.parametrize("output", [INLINE, "everything_module:Everything"], ids=["inline", "class"])
async def test_nested_optional_listed_and_dated_outputs(
    server: ModelServer, output: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    import sys
    import types

    module = types.ModuleType("everything_module")
    module.Everything = Everything  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "everything_module", module)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    stage = an_extract(output=output)
    outcome = await enrich(stage, [marked(ANSWER), "made up by the server", marked(ANSWER.replace("1999-12-31", "x"))])
    assert answers(outcome)[0] == {
        "mood": "bad", "who": {"name": "Ann", "born": "1999-12-31"}, "tags": ["a"], "score": 0.5, "default": None,
    }  # fmt: skip
    assert kinds(outcome) == ["ok", "ok", "invalid_answer"]
    after = stage.columns_after(pa.schema([pa.field("text", pa.string())]))
    assert after.names == ["text", "mood", "who", "tags", "score", "default"]
    assert after.field("who").type == pa.struct([pa.field("name", pa.string()), pa.field("born", pa.date32())])


def test_the_schema_of_a_class_is_one_that_strict_modes_take() -> None:
    schema = AnswerFormat(fields_of_class(Everything), Everything, "x").schema
    objects = [schema, schema["$defs"]["Person"]]
    for found in objects:
        assert found["required"] == list(found["properties"])
        assert found["additionalProperties"] is False
    assert "default" in schema["properties"]
    assert "default" not in schema["properties"]["default"]
    assert "default" not in schema["properties"]["tags"]


# Build -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changed", "sentence"),
    [
        ({"prompt": "{{ nothing }}"}, "reads 'nothing'"),
        ({"system": "{{ nothing }}"}, "system: the template reads 'nothing'"),
        ({"output": {"text": "str"}}, "'text' is already a column"),
        ({"output": {"__tandem_row": "str"}}, "reserved"),
        ({"drop": ["nothing"]}, "drop names 'nothing'"),
        ({"output": "no_such_module:X"}, "cannot import 'no_such_module'"),
        ({"model": "nosuchprovider:x"}, "nosuchprovider"),
    ],
)
def test_what_cannot_work_is_refused_before_any_row(changed: dict[str, Any], sentence: str) -> None:
    with pytest.raises(SpecError, match=sentence):
        an_extract(**changed)


def test_the_fingerprint_covers_what_changes_answers_and_nothing_else() -> None:
    plain = an_extract().fingerprint
    same = [
        an_extract(on_reject="null"), an_extract(limits={"rows_in_flight": 1, "call_timeout": "5s"}),
        an_extract(params={"timeout": 3}), an_extract(drop=["text"]),
    ]  # fmt: skip
    assert {stage.fingerprint for stage in same} == {plain}
    others = [
        an_extract(prompt="{{ text }}!"), an_extract(system="s"), an_extract(model="openai:other"),
        an_extract(params={"temperature": 1}), an_extract(version=2), an_extract(output={"word": "str"}),
        an_extract(when_empty="call"),
    ]  # fmt: skip
    assert len({stage.fingerprint for stage in others} | {plain}) == len(others) + 1


async def test_a_changed_prompt_of_the_same_words_is_answered_from_the_journal(server: ModelServer) -> None:
    store = Segments()
    await enrich(an_extract(), ["a"], a_context(store))
    outcome = await enrich(an_extract(prompt="{{ text | trim }}"), ["a"], a_context(store, run="run-2"))
    assert kinds(outcome) == ["ok"]
    assert server.stats().requests == 1
