"""One declared output over every wire: equal tables, and the tokens and cost that the server counted."""

from __future__ import annotations

from decimal import Decimal
from typing import Any

import orjson
import pytest

from pipeline.clouds import model_services
from schemas.spec.sections import Price
from stages.journal.records import CallRecord
from stages.limits.prices import pricer
from tests.harness.model_server import ModelServer
from tests.stages.support import Segments, a_context, an_extract, answers, enrich, kinds

OUTPUT = {
    "kind": {"type": "enum", "values": ["bug", "wish", "praise"]},
    "score": {"type": "int", "ge": 1, "le": 5},
    "share": {"type": "float", "gt": 0, "lt": 1},
    "born": "date?",
    "tags": {"type": "list[str]", "max_length": 3},
    "who": {"fields": {"name": {"type": "str", "pattern": "[A-Z]"}, "age": "int?"}},
}
ROWS = [
    {"kind": kind, "score": at % 5 + 1, "share": (at + 1) / 10, "born": f"2026-01-{at + 1:02}" if at % 2 else None,
     "tags": ["a", "b"][: at % 3], "who": {"name": "Ada", "age": at if at % 3 else None}}
    for at, kind in enumerate(["bug", "wish", "praise"] * 2)
]  # fmt: skip
# USD a million tokens in and out, as the providers publish them.
MODELS: dict[str, tuple[Any, str, str]] = {
    "chat": ("openai:gpt-5-mini", "0.25", "2"),
    "responses": ({"name": "openai:gpt-5-mini", "params": {"api": "responses"}}, "0.25", "2"),
    "anthropic": ("anthropic:claude-haiku-4-5", "1", "5"),
    "gemini": ("google:gemini-2.5-flash", "0.30", "2.50"),
    "vertex": ("vertex:gemini-2.5-flash", "0.30", "2.50"),
    "bedrock": ("bedrock_converse:us.anthropic.claude-haiku-4-5-20251001-v1:0", "1.10", "5.50"),
}


@pytest.mark.parametrize("name", MODELS)
async def test_each_wire_gives_the_same_table_and_the_bill_of_its_provider(
    server: ModelServer, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    for variable, value in server.other_providers().items():
        monkeypatch.setenv(variable, value)
    server.reset()
    model, price_in, price_out = MODELS[name]
    services = model_services()
    stage = an_extract(services, model=model, output=OUTPUT, system="You sort letters.")
    store = Segments()
    rows = [f"Letter {at} [[answer: {orjson.dumps(row).decode()}]]" for at, row in enumerate(ROWS)]
    outcome = await enrich(stage, rows, a_context(store))
    assert kinds(outcome) == ["ok"] * len(ROWS)
    assert answers(outcome) == ROWS
    records = [record for record in store.records if isinstance(record, CallRecord) and record.raw is not None]
    counted = [call.usage for call in server.calls()]
    assert len(records) == len(counted) == len(ROWS)
    read, wrote = (sum(usage[kind] for usage in counted) for kind in ("prompt_tokens", "completion_tokens"))
    assert sum(record.usage["input"] for record in records) == read
    assert sum(record.usage["output"] for record in records) == wrote
    bill = (read * Decimal(price_in) + wrote * Decimal(price_out)) / 1_000_000
    assert sum(Decimal(str(record.cost_usd)) for record in records) == pytest.approx(bill, abs=Decimal("1e-12"))


def test_what_a_cache_gave_and_took_is_priced_as_the_provider_bills_it() -> None:
    """Claude Haiku 4.5: 1 USD in, 0.10 read, 1.25 written for five minutes, 2 for an hour, 5 out."""
    usage = {"input": 10_000, "cached_input": 6_000, "cache_write": 3_000, "cache_write_1h": 1_000, "output": 500}
    bill = (1_000 * Decimal(1) + 6_000 * Decimal("0.1") + 2_000 * Decimal("1.25") + 1_000 * 2 + 500 * 5) / 1_000_000
    published = pricer("anthropic:claude-haiku-4-5", {})
    own = Price(input=1, output=5, cached_input=0.1, cache_write=1.25, cache_write_1h=2)
    assert published(usage) == pytest.approx(float(bill))
    assert pricer("anthropic:m", {"anthropic:m": own})(usage) == pytest.approx(float(bill))
    plain = Price(input=1, output=5)  # without prices of its own, a cache is input
    assert pricer("anthropic:m", {"anthropic:m": plain})(usage) == pytest.approx((10_000 + 2_500) / 1_000_000)
