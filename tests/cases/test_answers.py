"""Answers as servers really give them, each at its right value, by the extract stage over the journalled model."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import orjson
import pytest

from stages.journal.records import CallRecord
from stages.models import calls
from stages.models.wires import http, transport
from tests.harness.model_server import ModelServer
from tests.stages.support import Segments, a_context, an_extract, answers, enrich

CORPUS = json.loads(Path(__file__).with_name("answers.json").read_text())
GOOD = {"label": "beta", "score": 2, "note": "note 1"}


@pytest.fixture
async def server(model_server: ModelServer, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[ModelServer]:
    for name, value in model_server.env().items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(calls, "BACKOFF_S", 0.01)
    yield model_server
    await http.close_session()
    transport._dialects.clear()


def cases(wanted: str) -> list[Any]:
    """The cases of a kind, by what is expected of them."""
    found = [case for part in ("cases", "more") for case in CORPUS[part] if wanted in case["expect"]]
    found = [case for case in found if "values" in case["expect"]]
    return [pytest.param(case, id=case["name"]) for case in found]


def rule(case: dict[str, Any]) -> dict[str, Any]:
    served: dict[str, Any] = {name: case[name] for name in ("status", "headers", "body", "body_base64") if name in case}
    return {"action": "error", "times": 1, **served}


async def read(server: ModelServer, case: dict[str, Any], segments: Segments, **changed: Any) -> Any:
    """What becomes of a row whose first answer is the case's, and whose later ones are good."""
    server.script({"rules": [rule(case), {"action": "text", "text": json.dumps(GOOD)}]})
    stage = an_extract(output=CORPUS["output"], **changed)
    return await enrich(stage, ["a row of some text, long enough"], a_context(segments))


@pytest.mark.parametrize("case", cases("calls"))
async def test_the_first_answer_suffices(server: ModelServer, case: dict[str, Any]) -> None:
    segments = Segments()
    outcome = await read(server, case, segments)
    assert answers(outcome) == [case["expect"]["values"]]
    assert server.stats().requests == 1
    [call] = [record for record in segments.records if isinstance(record, CallRecord)]
    assert orjson.dumps(outcome.records[0].answer)
    assert 0 < call.usage["input"] < 10_000
    assert 0 < call.usage["output"] < 10_000
    assert ("estimated" in call.usage) == ("usage" in case["expect"] or call.usage["input"] != 50)


@pytest.mark.parametrize("case", cases("requests"))
async def test_the_second_answer_is_good(server: ModelServer, case: dict[str, Any]) -> None:
    """Asked again for another answer where the first was the model's fault; else the same is asked once more."""
    outcome = await read(server, case, Segments())
    assert answers(outcome) == [case["expect"]["values"]]
    assert server.stats().requests == 2
    assert len({call.digest for call in server.calls()}) == 1 + case["expect"]["repairs"]
    assert outcome.records[0].mended == ()


@pytest.mark.parametrize(
    ("name", "places"),
    [
        ("think_braces", ("$",)),
        ("enum_case", ("label",)),
        ("number_as_text", ("extra", "score")),
        ("text_as_number", ("note",)),
        ("float_for_int", ("score",)),
        ("near_misses_in_prose", ("$", "label", "score")),
        ("usage_null", ()),
    ],
)
async def test_what_was_mended_is_in_the_journal(server: ModelServer, name: str, places: tuple[str, ...]) -> None:
    [case] = [case for part in ("cases", "more") for case in CORPUS[part] if case["name"] == name]
    segments = Segments()
    await read(server, case, segments)
    [row] = segments.journal().known.rows.values()
    assert row.mended == places


@pytest.mark.parametrize("name", ["enum_case", "number_as_text", "text_as_number", "float_for_int", "extra_keys"])
async def test_strict_asks_again_for_what_was_nearly_right(server: ModelServer, name: str) -> None:
    [case] = [case for part in ("cases", "more") for case in CORPUS[part] if case["name"] == name]
    outcome = await read(server, case, Segments(), coerce="strict")
    assert answers(outcome) == [GOOD]
    assert server.stats().requests == 2


async def test_strict_takes_what_is_exactly_right_in_whatever_stands_around_it(server: ModelServer) -> None:
    [case] = [case for case in CORPUS["cases"] if case["name"] == "fence_after_prose"]
    outcome = await read(server, case, Segments(), coerce="strict")
    assert answers(outcome) == [GOOD]
    assert server.stats().requests == 1
