"""What a model cannot take is said by name: a schema before a run, a medium before a request is sent."""

from __future__ import annotations

from typing import Any

import pytest
from langchain_core.messages import HumanMessage
from pydantic import BaseModel

from schemas.errors import FatalModelError, SpecError
from schemas.spec.fields import OutputField, json_schema
from stages.models.wires.clients import client_of
from stages.models.wires.schema_limits import unexpressible
from tests.harness.model_server import ModelServer
from tests.stages.support import a_context, an_extract, enrich, kinds


class Reply(BaseModel):
    text: str
    replies: list[Reply] = []


def nested(levels: int) -> dict[str, Any]:
    field: Any = "str"
    for _ in range(levels - 1):
        field = {"fields": {"inner": field}}
    return {"outer": field}


def schema_of(declared: dict[str, Any]) -> dict[str, Any]:
    return json_schema({name: OutputField.model_validate(field) for name, field in declared.items()})


@pytest.mark.parametrize(
    ("provider", "schema", "words"),
    [
        ("openai", schema_of(nested(10)), None),
        ("openai", schema_of(nested(11)), "is nested 11 levels deep, and it takes 10"),
        ("openai", schema_of({f"f{at}": "str" for at in range(5_001)}), "has 5,001 fields, and it takes 5,000"),
        ("openai", schema_of({"a": {"type": "enum", "values": [str(at) for at in range(1_001)]}}), "1,001 values"),
        (
            "openai",
            schema_of({"a": {"type": "enum", "values": [f"{at:080}" for at in range(251)]}}),
            "20,080 characters",
        ),
        ("openai", Reply.model_json_schema(), None),
        ("anthropic", Reply.model_json_schema(), "refers to itself (Reply), which it does not take"),
        ("bedrock_converse", Reply.model_json_schema(), "refers to itself"),
        ("anthropic", schema_of(nested(12)), None),
        ("google_genai", schema_of(nested(12)), None),
    ],
)
def test_what_a_schema_mode_cannot_take_is_known(provider: str, schema: dict[str, Any], words: str | None) -> None:
    found = unexpressible(provider, schema)
    assert (found is None) == (words is None)
    assert words is None or words in str(found)


def test_check_names_the_stage_and_the_model(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OPENAI_BASE_URL", raising=False)
    with pytest.raises(
        SpecError, match=r"stage stage0: the schema of the output is nested 11 levels deep.*'openai:gpt"
    ):
        an_extract(model="openai:gpt-5-mini", output=nested(11))
    monkeypatch.setenv("OPENAI_BASE_URL", "http://127.0.0.1:9/v1")
    an_extract(model="openai:gpt-5-mini", output=nested(11))  # another server decides


async def test_a_schema_that_is_too_complex_goes_another_way(
    server: ModelServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in server.other_providers().items():
        monkeypatch.setenv(name, value)
    said = "output_config.format.schema: Invalid schema: The compiled grammar is too large."
    body = {"type": "error", "error": {"type": "invalid_request_error", "message": said}}
    server.script({"rules": [{"action": "error", "status": 400, "body": body, "times": 2}]})
    row = '[[answer: {"word": "x", "level": 3}]]'
    assert kinds(await enrich(an_extract(model="anthropic:claude-haiku-4-5"), [row], a_context())) == ["ok"]
    assert server.stats().requests == 3, "as a schema, as a strict tool, in words"


@pytest.mark.parametrize(
    ("name", "part", "words"),
    [
        (
            "openai:gpt-3.5-turbo",
            {"type": "image_url", "image_url": {"url": "data:image/png;base64,AA=="}},
            "no images",
        ),
        ("openai:gpt-5-mini", {"type": "input_audio", "input_audio": {"data": "AA==", "format": "wav"}}, "no sound"),
        ("anthropic:claude-2", {"type": "file", "base64": "AA==", "mime_type": "application/pdf"}, "no PDFs"),
    ],
)
async def test_a_medium_that_a_model_does_not_take_is_named_before_it_is_sent(
    monkeypatch: pytest.MonkeyPatch, name: str, part: dict[str, Any], words: str
) -> None:
    for variable in ("OPENAI_BASE_URL", "ANTHROPIC_BASE_URL"):
        monkeypatch.delenv(variable, raising=False)
    provider, _, model = name.partition(":")
    client = client_of(provider, model, {"api_key": "sk-test"}, 30)
    with pytest.raises(FatalModelError, match=f"{model} takes {words}, and a message has one"):
        await client._agenerate([HumanMessage([{"type": "text", "text": "What?"}, part])])
