"""How dates are written is known from the values alone, or not at all."""

from __future__ import annotations

import datetime as dt

import polars as pl
import pytest

from pipeline.sources.date_formats import formats_of

DAYS = [dt.datetime.fromisoformat("2000-01-01T09:05:07") + dt.timedelta(days=37 * n) for n in range(40)]
WRITTEN = (
    "%d/%m/%Y", "%m/%d/%Y", "%d.%m.%Y", "%d-%m-%Y", "%m-%d-%Y", "%Y/%m/%d", "%Y.%m.%d", "%d/%m/%y", "%m/%d/%y",
    "%d.%m.%y", "%d-%m-%y", "%d %m %Y", "%Y %m %d", "%d %B %Y", "%d %b %Y", "%d %b %y", "%d. %B %Y", "%B %d %Y",
    "%b %d %Y", "%B %d, %Y", "%b %d, %Y", "%b. %d, %Y", "%d-%b-%Y", "%d-%b-%y", "%Y-%b-%d", "%b-%d-%Y", "%d/%b/%Y",
    "%d%b%Y", "%a %d %b %Y", "%a, %d %b %Y", "%A, %d %B %Y", "%A, %B %d, %Y", "%d/%m/%Y %H:%M", "%m/%d/%Y %I:%M %p",
    "%d.%m.%Y %H:%M:%S", "%d/%b/%Y:%H:%M:%S", "%a %b %d %H:%M:%S %Y",
)  # fmt: skip


@pytest.mark.parametrize("way", WRITTEN)
def test_a_common_way_of_writing_dates_is_known(way: str) -> None:
    """With and without leading zeros; a null is no date and no hindrance."""
    texts = [day.strftime(way) for day in DAYS]
    bare = [text.replace(" 0", " ").removeprefix("0") for text in texts]
    for written in (texts, bare):
        (found,) = formats_of(pl.Series([None, *written]))
        read = pl.Series(written).str.to_datetime(found, time_unit="us").to_list()
        assert [day.date() for day in read] == [day.date() for day in DAYS]


@pytest.mark.parametrize(
    "texts",
    [["some 1 text here"], ["12", "13"], ["1.2.3", "4.5.6"], ["555-1234"], ["12-34-5678"], ["2026-11-01"], [None], [],
     ["May I ask?"], ["01/01/0001"]],
)  # fmt: skip
def test_what_is_no_date_or_needs_no_telling_is_none(texts: list[str | None]) -> None:
    assert formats_of(pl.Series(texts, dtype=pl.String)) == []


def test_where_day_and_month_cannot_be_told_apart_both_ways_are_named() -> None:
    assert formats_of(pl.Series(["01/02/2000", "03/04/2000"])) == ["%d/%m/%Y", "%m/%d/%Y"]
