"""Examples are shown to the model before each row, and held to the columns and outputs that are declared."""

from __future__ import annotations

import datetime as dt
from typing import Any

import orjson
import polars as pl
import pyarrow as pa
import pytest

from schemas.errors import SpecError
from stages.models.wires.facts import caching_of
from stages.stage_digests import aspects_of
from tests.harness.model_server import ModelServer
from tests.stages.models.wires.referee import a_referee
from tests.stages.support import MODEL, TEXT, Segments, a_context, a_graph_stage, an_extract, enrich, kinds

EXAMPLES = [
    {"input": {"text": "good"}, "output": {"word": "good", "level": 5}},
    {"input": {"text": "bad"}, "output": {"word": "bad", "level": 1}},
]
COLUMNS = pa.schema([*TEXT, pa.field("opened", pa.date32()), pa.field("size", pa.int64())])


@pytest.fixture
async def messages_of(monkeypatch: pytest.MonkeyPatch) -> Any:
    async def found(rows: Any = None, columns: pa.Schema = TEXT, **stage: Any) -> list[dict[str, Any]]:
        async with a_referee() as referee:
            monkeypatch.setenv("OPENAI_BASE_URL", f"{referee.url}/v1")
            await enrich(an_extract(columns=columns, **stage), rows if rows is not None else ["new"], a_context())
            return list(referee.sent[0][2]["messages"])

    return found


async def test_they_are_turns_between_the_system_text_and_the_row(messages_of: Any) -> None:
    found = await messages_of(system="Rate it.", prompt="Rate: {{ text }}", examples=EXAMPLES)
    assert [(one["role"], one["content"]) for one in found] == [
        ("system", "Rate it."),
        ("user", "Rate: good"), ("assistant", '{"word":"good","level":5}'),
        ("user", "Rate: bad"), ("assistant", '{"word":"bad","level":1}'),
        ("user", "Rate: new"),
    ]  # fmt: skip


async def test_the_values_of_a_row_are_of_its_columns_types(messages_of: Any) -> None:
    row = pl.DataFrame({"text": ["new"], "opened": [dt.date(2026, 1, 2)], "size": [3]})
    prompt = "{{ text }} {{ opened.year }} {{ size + 1 }}"
    example = {"input": {"text": None, "opened": "2025-12-31", "size": 1}, "output": {"word": "x", "level": 2}}
    found = await messages_of(row, COLUMNS, prompt=prompt, examples=[example])
    assert [one["content"] for one in found] == [" 2025 2", '{"word":"x","level":2}', "new 2026 4"]


@pytest.mark.parametrize("uses", ["classify", "cascade", "judge", "agent"])
async def test_every_stage_that_asks_for_its_output_shows_them(server: ModelServer, uses: str) -> None:
    stage: dict[str, Any] = {
        "uses": uses, "model": MODEL, "prompt": "{{ text }}",
        "output": {"tone": {"type": "enum", "values": ["a", "b"]}},
        "examples": [{"input": {"text": "sunny"}, "output": {"tone": "a"}}],
    }  # fmt: skip
    more: dict[str, dict[str, Any]] = {
        "cascade": {"model": {"main": MODEL, "cheap": MODEL}},
        "judge": {"with": {"rubric": "short"}},
        "agent": {"tools": ["tests.stages.toolbox:stock"]},
    }
    stage |= more.get(uses, {})
    store = Segments()
    await enrich(a_graph_stage(stage), ["new"], a_context(store))
    first = next(record for record in store.everything if hasattr(record, "text") and "settings" in record.text)
    assert [one["role"] for one in orjson.loads(first.text)["messages"]][-2:] == ["user", "assistant"]


async def test_other_examples_are_another_question(server: ModelServer) -> None:
    store = Segments()
    plain, shown, fewer = an_extract(), an_extract(examples=EXAMPLES), an_extract(examples=EXAMPLES[:1])
    assert len({plain.fingerprint, shown.fingerprint, fewer.fingerprint}) == 3
    assert aspects_of(plain, "") == aspects_of(an_extract(examples=[]), "")
    changed = {name for name, value in aspects_of(plain, "").items() if aspects_of(shown, "")[name] != value}
    assert changed == {"prompt"}
    for number, stage in enumerate((plain, shown, fewer, shown)):
        assert kinds(await enrich(stage, ["new"], a_context(store, run=f"run-{number}"))) == ["ok"]
    assert server.stats().requests == 3


async def test_they_are_in_the_part_that_is_cached(monkeypatch: pytest.MonkeyPatch) -> None:
    assert caching_of("anthropic", "claude-sonnet-4-5") is not None
    many = [{"input": {"text": f"letter {at} " * 20}, "output": {"word": "x", "level": 2}} for at in range(40)]
    async with a_referee() as referee:
        monkeypatch.setenv("ANTHROPIC_BASE_URL", referee.url)
        monkeypatch.setenv("ANTHROPIC_API_KEY", "sk-ant-test")
        await enrich(an_extract(model="anthropic:claude-sonnet-4-5", examples=many), ["a", "b"], a_context())
        bodies = [orjson.dumps(body) for _, _, body in referee.sent]
    assert len({body[: body.index(b'"cache_control"')] for body in bodies}) == 1
    assert orjson.loads(bodies[0])["messages"][-2]["content"][0]["cache_control"] == {"type": "ephemeral"}


@pytest.mark.parametrize(
    ("example", "sentence"),
    [
        ({"input": {"txt": "a"}, "output": {"word": "x", "level": 2}}, "example 2: input.txt is no column here"),
        ({"input": {"size": 1}, "output": {"word": "x", "level": 2}}, "example 2: input.text is missing"),
        ({"input": {"text": 5}, "output": {"word": "x", "level": 2}}, "example 2: input.text = 5 is not of the"),
        ({"input": {"text": "a", "size": "x"}, "output": {"word": "x", "level": 2}}, "input.size = 'x' is not of the"),
        ({"input": {"text": "a", "opened": "May"}, "output": {"word": "x", "level": 2}}, "input.opened = 'May' is not"),
        ({"input": {"text": "a"}, "output": {"word": "x"}}, "example 2: output.level: Field required"),
        ({"input": {"text": "a"}, "output": {"word": "x", "level": 9}}, "example 2: output.level: Input should"),
        ({"input": {"text": "a"}, "output": {"word": "x", "level": 2, "tone": 1}}, "output.tone is not declared"),
    ],
)  # fmt: skip
def test_a_faulty_example_is_named_with_its_field(example: dict[str, Any], sentence: str) -> None:
    with pytest.raises(SpecError, match="stage stage0: example") as refused:
        an_extract(columns=COLUMNS, examples=[EXAMPLES[0], example])
    assert sentence in str(refused.value)


@pytest.mark.parametrize(
    ("stage", "sentence"),
    [
        ({"uses": "translate"}, "examples belongs to uses: extract"),
        ({"uses": "sql", "query": "SELECT 1"}, "examples belongs to"),
        ({"uses": "tests.stages.asking:plain"}, "a graph of yours writes its own messages"),
    ],
)
def test_stages_without_a_question_of_their_own_take_none(stage: dict[str, Any], sentence: str) -> None:
    more = {} if ":" in stage["uses"] or "query" in stage else {"model": MODEL, "prompt": "x"}
    output = {} if "query" in stage else {"output": {"a": "str"}}
    with pytest.raises(ValueError, match=sentence):
        a_graph_stage({**stage, **more, **output, "examples": EXAMPLES})
