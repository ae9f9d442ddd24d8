"""What a row costs does not grow with the number of rows in flight."""

from __future__ import annotations

import cProfile
import pstats

from tests.harness.model_server import ModelServer
from tests.stages.support import a_context, an_extract, enrich

ROWS = 1_000


async def calls_of_row(in_flight: int) -> float:
    """Return how many functions are called for a row, in Python and in C, idle turns of the loop included."""
    stage = an_extract(limits={"rows_in_flight": in_flight})
    await enrich(stage, ["the first"])
    texts = [f"text {number} of {in_flight}" for number in range(ROWS)]
    profile = cProfile.Profile()
    profile.enable()
    await enrich(stage, texts, a_context())
    profile.disable()
    return float(pstats.Stats(profile).total_calls) / ROWS  # type: ignore[attr-defined]


async def test_a_row_costs_as_much_with_a_thousand_in_flight_as_with_thirty(server: ModelServer) -> None:
    server.script({"latency_ms": 20})
    few, many = await calls_of_row(30), await calls_of_row(ROWS)
    assert many < 1.2 * few
    assert few < 1_700
