"""The offline model: always valid, always the same, and sensible on plain tickets."""

import json
import os
import subprocess
import sys
from datetime import date, datetime
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from langchain_core.messages import AIMessage, BaseMessage, HumanMessage, SystemMessage
from pydantic import BaseModel

from schemas.errors import FatalModelError
from stages.models.langchain.face import as_langchain
from stages.models.offline.model import OfflineChatModel, answer
from stages.models.offline.rules import Schema, answer_text

TRIAGE: Schema = {
    "type": "object",
    "additionalProperties": False,
    "required": ["category", "urgency", "summary", "tags"],
    "properties": {
        "category": {"type": "string", "enum": ["billing", "bug", "shipping", "account", "feature", "other"]},
        "urgency": {"type": "integer", "minimum": 1, "maximum": 5, "description": "5 is a production outage"},
        "summary": {"type": "string"},
        "tags": {"type": "array", "items": {"type": "string"}},
    },
}
RESPONSE_FORMAT = {"type": "json_schema", "json_schema": {"name": "triage", "schema": TRIAGE, "strict": True}}
TICKETS = (
    ("billing", "Charged twice\nOur card was charged twice for October, please refund 49.00 EUR."),
    ("billing", "Invoice INV-221 has the wrong VAT number\nWe need a corrected invoice."),
    ("billing", "Rechnung ist falsch\nBitte um Erstattung der Abbuchung."),
    ("bug", "Dashboard crashes\nIt shows an error and freezes since the update."),
    ("bug", "Production outage\nEverything is down, URGENT, call me immediately!"),
    ("shipping", "Where is my parcel?\nThe courier's tracking has not moved since Monday."),
    ("account", "Locked out\nI cannot sign in, the password reset never arrives."),
    ("feature", "Idea: dark mode\nI wish you could add one, whenever you have time. Thanks."),
    ("other", "School visit\nOur class is studying plants."),
    ("other", "Basil\nWhich humidity is best near Lyon?"),
)


def triage(text: str) -> Any:
    return json.loads(answer([SystemMessage("Say crash, refund and URGENT."), HumanMessage(text)], TRIAGE))


@pytest.mark.parametrize(("category", "text"), TICKETS)
def test_a_ticket_gets_the_category_that_its_words_name(category: str, text: str) -> None:
    assert triage(text)["category"] == category


def test_urgency_follows_the_alarm_in_the_text() -> None:
    idea, question, refund, outage = (triage(TICKETS[index][1])["urgency"] for index in (7, 9, 0, 4))
    assert idea <= question < refund < outage
    assert (idea, outage) == (1, 5)


def test_a_summary_begins_the_text_and_tags_come_from_it() -> None:
    result = triage(TICKETS[3][1])
    assert result["summary"] == "Dashboard crashes. It shows an error and freezes since the update."
    assert set(result["tags"]) <= {"dashboard", "crashes", "shows", "error", "freezes", "update"}
    assert len(triage("One word after another, " * 40)["summary"]) <= 160


def test_only_the_last_human_message_is_data() -> None:
    turns: list[BaseMessage] = [HumanMessage(TICKETS[3][1]), AIMessage("A refund?"), HumanMessage(TICKETS[0][1])]
    assert answer(turns, TRIAGE) == answer(turns[-1:], TRIAGE)
    assert answer([], None) == ""
    assert json.loads(answer([HumanMessage("")], TRIAGE)) == {
        "category": "other",
        "urgency": 2,
        "summary": "",
        "tags": [],
    }


def field(schema: Schema, text: str, name: str = "value") -> Any:
    return answer_text(text, {"type": "object", "properties": {name: schema}, "required": [name]})[name]


@pytest.mark.parametrize(
    ("name", "schema", "text", "expected"),
    [
        ("sentiment", {"enum": ["positive", "negative", "neutral", "mixed"]}, "I love it, wonderful!", "positive"),
        ("sentiment", {"enum": ["positive", "negative", "neutral", "mixed"]}, "Great sensor, awful app.", "mixed"),
        ("sentiment", {"enum": ["positive", "negative", "neutral", "mixed"]}, "It is a sensor.", "neutral"),
        ("priority", {"enum": ["low", "medium", "high"]}, "URGENT outage, we are down", "high"),
        ("priority", {"enum": ["low", "medium", "high"]}, "Just wondering, no rush", "low"),
        ("language", {"type": "string"}, "Bitte prüfen Sie das, ich habe die Rechnung nicht", "de"),
        ("language", {"enum": ["English", "French", "other"]}, "Le colis est abîmé, merci de nous aider", "French"),
        ("amount", {"type": "number"}, "INV-77: we paid 1,234.50 EUR", 1234.5),
        ("quantity", {"type": "integer", "minimum": 1, "maximum": 10}, "In 2026 we bought 7 hubs", 7),
        ("quantity", {"type": "integer", "minimum": 3}, "none", 3),
        ("refund_requested", {"type": "boolean"}, "We want our money back", True),
        ("refund_requested", {"type": "boolean"}, "Hello there", False),
        ("opened", {"type": "string", "format": "date"}, "Bought on November 3, 2026.", "2026-11-03"),
        ("opened", {"type": "string", "format": "date"}, "On 31.02.2026, no: 28.02.2026", "2026-02-28"),
        ("at", {"type": "string", "format": "date-time"}, "since 2026-11-05T14:03", "2026-11-05T14:03:00Z"),
        ("opened", {"anyOf": [{"type": "string", "format": "date"}, {"type": "null"}]}, "some day", None),
        (
            "topics",
            {"type": "array", "items": {"enum": ["bug", "billing"]}},
            "A refund for the crash",
            ["billing", "bug"],
        ),
        ("reason", {"type": "string"}, "Hi.\nThe hub lost sync.\nOk then.", "The hub lost sync."),
    ],
)
def test_a_property_is_read_by_name_and_type(name: str, schema: Schema, text: str, expected: Any) -> None:
    assert field(schema, text, name) == expected


def test_references_are_followed_and_nested_models_answered() -> None:
    class Line(BaseModel):
        quantity: int
        note: str | None

    class Order(BaseModel):
        lines: list[Line]
        main: Line

    order = Order.model_validate(answer_text("We ordered 12 hubs", Order.model_json_schema()))
    assert order.main.quantity == 12
    assert order.lines == [order.main]


@pytest.mark.parametrize(
    "schema",
    [
        {"type": "string", "pattern": "^[A-Z]+$"},
        {"type": "integer", "minimum": 5, "maximum": 4},
        {"type": "object", "properties": {"again": {"$ref": "#"}}},
        {"type": "array", "items": {"type": "integer"}, "uniqueItems": True, "minItems": 2},
    ],
)
def test_what_it_cannot_answer_validly_it_refuses(schema: Schema) -> None:
    with pytest.raises(FatalModelError, match="offline model cannot answer"):
        answer_text("text", schema)


def valid(value: Any, schema: Schema) -> bool:
    """JSON Schema, as far as the schemas below go."""
    if "enum" in schema:
        return value in schema["enum"]
    if "anyOf" in schema:
        return any(valid(value, option) for option in schema["anyOf"])
    match schema["type"]:
        case "null":
            return value is None
        case "boolean":
            return isinstance(value, bool)
        case "integer" | "number":
            kinds = (int,) if schema["type"] == "integer" else (int, float)
            low, high = schema.get("minimum", float("-inf")), schema.get("maximum", float("inf"))
            above = schema.get("exclusiveMinimum", float("-inf"))
            return bool(type(value) in kinds and low <= value <= high and value > above)
        case "string":
            if form := schema.get("format"):
                return type(value) is str and bool((date if form == "date" else datetime).fromisoformat(value))
            return type(value) is str and schema.get("minLength", 0) <= len(value) <= schema.get(
                "maxLength", len(value)
            )
        case "array":
            if type(value) is not list or not schema.get("minItems", 0) <= len(value):
                return False
            return len(value) <= schema.get("maxItems", len(value)) and all(
                valid(item, schema["items"]) for item in value
            )
    known = schema["properties"]
    return (
        type(value) is dict
        and set(schema["required"]) <= set(value) <= set(known)
        and all(valid(value[k], known[k]) for k in value)
    )


NAMES = st.sampled_from(
    ["category", "urgency", "summary", "tags", "language", "reason", "score", "amount", "is_spam", "product"]
)
WORDS = st.sampled_from(
    ["billing", "bug", "other", "low", "high", "critical", "positive", "negative", "mixed", "fr", "en"]
)
TEXTS = st.one_of(
    st.text(max_size=300),
    st.lists(st.sampled_from(" ".join(text for _, text in TICKETS).split()), max_size=60).map(" ".join),
)


def bounds(low: str, high: str, values: st.SearchStrategy[Any]) -> st.SearchStrategy[Schema]:
    both = st.tuples(values, values).map(lambda pair: {low: min(pair), high: max(pair)})
    return st.one_of(st.just({}), both, values.map(lambda value: {low: value}), values.map(lambda value: {high: value}))


SIZES = st.integers(0, 300)
LEAVES: st.SearchStrategy[Schema] = st.one_of(
    bounds("minLength", "maxLength", SIZES).map(lambda limits: {"type": "string", **limits}),
    bounds("minimum", "maximum", st.integers(-(10**30), 10**30)).map(lambda limits: {"type": "integer", **limits}),
    bounds("minimum", "maximum", st.floats(-1e300, 1e300)).map(lambda limits: {"type": "number", **limits}),
    st.floats(-1e9, 1e9).map(lambda low: {"type": "integer", "exclusiveMinimum": low}),
    st.floats(-1e9, 1e9).map(lambda low: {"type": "number", "exclusiveMinimum": low}),
    st.sampled_from([{"type": "boolean"}, {"type": "null"}]),
    st.sampled_from(["date", "date-time"]).map(lambda form: {"type": "string", "format": form}),
    st.lists(WORDS, min_size=1, unique=True).map(lambda values: {"type": "string", "enum": values}),
    st.lists(st.integers(0, 9), min_size=1, unique=True).map(lambda values: {"type": "integer", "enum": values}),
)


def wider(inner: st.SearchStrategy[Schema]) -> st.SearchStrategy[Schema]:
    lists = st.tuples(inner, bounds("minItems", "maxItems", st.integers(0, 6)))
    return st.one_of(
        lists.map(lambda pair: {"type": "array", "items": pair[0], **pair[1]}),
        inner.map(lambda option: {"anyOf": [option, {"type": "null"}]}),
        st.dictionaries(NAMES, inner, max_size=4).map(
            lambda fields: {"type": "object", "properties": fields, "required": list(fields)}
        ),
    )


@given(text=TEXTS, schema=st.recursive(LEAVES, wider, max_leaves=6), name=NAMES)
@settings(max_examples=300, deadline=None)
def test_every_answer_is_valid_for_its_schema(text: str, schema: Schema, name: str) -> None:
    root: Schema = {"type": "object", "properties": {name: schema}, "required": [name]}
    said = answer([HumanMessage(text)], root)
    assert valid(json.loads(said), root), said
    assert answer([HumanMessage(text)], root) == said


def test_two_processes_with_other_hash_seeds_say_the_same() -> None:
    code = (
        "from tests.stages.models.test_offline import TICKETS, TRIAGE\n"
        "from stages.models.offline.rules import answer_text\n"
        "for _, text in TICKETS: print(answer_text(text, TRIAGE))"
    )
    said = [
        subprocess.run(
            [sys.executable, "-c", code],
            env={**os.environ, "PYTHONHASHSEED": seed, "PYTHONPATH": "."},
            capture_output=True,
            check=True,
            timeout=300,
        ).stdout
        for seed in ("1", "2")
    ]
    assert said[0] == said[1]
    assert said[0].count(b"\n") == len(TICKETS)


async def test_usage_and_finish_reason_are_those_of_a_provider() -> None:
    messages = [SystemMessage("Ünë"), HumanMessage(TICKETS[0][1])]
    reply = await as_langchain(OfflineChatModel(latency_ms=1)).ainvoke(messages, response_format=RESPONSE_FORMAT)
    assert json.loads(str(reply.content))["category"] == "billing"
    size = len("Ünë".encode()) + len(TICKETS[0][1].encode())
    assert reply.usage_metadata is not None
    assert reply.usage_metadata["input_tokens"] == -(-size // 4)
    assert reply.usage_metadata["output_tokens"] == -(-len(str(reply.content).encode()) // 4)
    assert reply.response_metadata["finish_reason"] == "stop"
    assert reply.response_metadata["model_name"] == "offline:lexical"
    assert as_langchain(OfflineChatModel()).invoke(messages, response_format=RESPONSE_FORMAT).content == reply.content


async def test_a_forced_tool_is_called_and_an_optional_one_is_not() -> None:
    tool = {"type": "function", "function": {"name": "file", "description": "File it.", "parameters": TRIAGE}}
    forced = await as_langchain(OfflineChatModel()).bind_tools([tool], tool_choice="any").ainvoke(TICKETS[3][1])
    assert [(call["name"], call["args"]["category"]) for call in forced.tool_calls] == [("file", "bug")]
    optional = await as_langchain(OfflineChatModel()).bind_tools([tool]).ainvoke(TICKETS[3][1])
    assert (optional.tool_calls, optional.content) == ([], triage(TICKETS[3][1])["summary"])


class Verdict(BaseModel):
    category: str
    urgent: bool


async def test_structured_output_of_langchain_works() -> None:
    verdict = await as_langchain(OfflineChatModel()).with_structured_output(Verdict).ainvoke("An urgent outage")
    assert isinstance(verdict, Verdict)
    assert verdict.urgent
