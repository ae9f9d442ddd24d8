"""Charts stand on their axes: every bar below the top tick, ticks round, nothing outside of the plot."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.runs.html.charts import BASE, LEFT, RIGHT, TOP, WIDTH, chart


@settings(deadline=None)
@given(st.lists(st.floats(min_value=0, max_value=1e9, allow_nan=False), max_size=80))
def test_bars_stay_within_the_axes(values: list[float]) -> None:
    drawn = chart("c", [(value, "") for value in values], [])
    assert all(bar.x >= LEFT and bar.x + bar.width <= WIDTH - RIGHT + 1 for bar in drawn.bars)
    assert all(bar.y >= TOP - 0.01 and bar.y + bar.height == pytest.approx(BASE, abs=0.02) for bar in drawn.bars)
    assert 2 <= len(drawn.up) <= 6
    assert (drawn.up[0].position, drawn.up[-1].position) == (BASE, TOP)


@pytest.mark.parametrize(
    ("most", "labels"),
    [
        (0, ["0", "1"]),
        (1, ["0", "1"]),
        (7, ["0", "2", "4", "6", "8"]),
        (9, ["0", "5", "10"]),
        (0.0123, ["0", "0.005", "0.01", "0.015"]),
        (1840, ["0", "500", "1,000", "1,500", "2,000"]),
    ],
)
def test_ticks_are_round_and_counts_have_no_halves(most: float, labels: list[str]) -> None:
    assert [tick.label for tick in chart("c", [(most, "")], []).up] == labels


def test_long_names_are_cut_between_the_ends() -> None:
    drawn = chart("c", [(1, "")], [(0.0, "2026-11-01 00:00:00 UTC"), (0.5, "a_very_long_name_of_an_error")])
    assert [tick.label for tick in drawn.across] == ["2026-11-01 00:00:00 UTC", "a_very_long_name_…"]
