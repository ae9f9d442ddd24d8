"""Types of text columns: the narrowest that all values fit, and nothing that a value would lose by it."""


# ruff: noqa: DTZ001 - naive times are part of the subject

import cProfile
import datetime as dt

import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.sources.type_inference import Inference, Typing
from schemas.errors import SourceError
from schemas.spec.sections import ColumnType


def inferred(*chunks: list[str | None]) -> str:
    inference = Inference()
    for chunk in chunks:
        inference.observe(pl.DataFrame({"x": pl.Series(chunk, dtype=pl.String)}))
    return inference.types(["x"])["x"]


def cast(
    values: list[str | None], given_type: str | None = None, form: str | None = None, pinned: str = ""
) -> list[object]:
    columns = {"x": ColumnType.model_validate({"type": given_type, "format": form})} if given_type else {}
    typing = Typing.decide({"x": inferred(values)}, columns, {"x": pinned} if pinned else {})
    return typing.cast(pl.DataFrame({"x": pl.Series(values, dtype=pl.String)}))["x"].to_list()


def refusal(values: list[str | None], given_type: str | None = None, form: str | None = None, pinned: str = "") -> str:
    with pytest.raises(SourceError) as caught:
        cast(values, given_type, form, pinned)
    return str(caught.value)


@pytest.mark.parametrize(
    ("values", "kind"),
    [
        (["1", "-2", None], "int"), (["0"], "int"), (["1", "2.5"], "float"), (["1e5", "-.5", "3."], "float"),
        (["012"], "str"), (["00"], "str"), (["-01"], "str"), (["+33123456789"], "str"), (["1", "012"], "str"),
        (["123456789012345678"], "int"), (["1234567890123456789"], "str"), (["9007199254740993", "0.5"], "str"),
        (["1e999"], "str"), (["123e4567"], "str"), (["1,5"], "str"), (["1_000"], "str"), (["0x1F"], "str"),
        (["nan"], "str"), (["inf"], "str"), ([" 1"], "str"), (["٣"], "str"), ([""], "str"), (["1\n"], "str"),
        (["true", "FALSE"], "bool"), (["yes", "no"], "str"), (["true", "1"], "str"),
        (["2026-11-01"], "date"), (["2026-02-30"], "str"), (["2026-1-1"], "str"), (["01/02/2026"], "str"),
        (["2026-11-01T05:00", "2026-11-01 05:00:00.5"], "datetime"), (["2026-11-01T25:00:00"], "str"),
        (["2026-11-01T05:00Z", "2026-11-01 05:00:00+0100"], "datetime_zone"),
        (["2026-11-01T05:00", "2026-11-01T05:00Z"], "str"), (["2026-11-01", "2026-11-01T05:00"], "str"),
        ([None, None], "str"), ([], "str"),
    ],
)  # fmt: skip
def test_the_narrowest_type_that_all_values_fit(values: list[str | None], kind: str) -> None:
    assert inferred(values) == kind
    assert inferred(*([value] for value in values)) == kind
    cast(values)


@given(
    st.lists(
        st.one_of(st.none(), st.sampled_from(["1", "012", "2.5", "1e3", "true", "x", "2026-11-01", "-0", "1e400"]))
    )
)
def test_no_inferred_type_loses_a_value(values: list[str | None]) -> None:
    typed = cast(values)
    assert [value is None for value in typed] == [value is None for value in values]


@given(st.lists(st.integers(-(10**18) + 1, 10**18 - 1), min_size=1))
def test_integers_come_back_as_they_were_written(values: list[int]) -> None:
    assert cast([str(value) for value in values]) == values


@given(st.lists(st.floats(allow_nan=False, allow_infinity=False, width=32), min_size=1))
def test_floats_come_back_as_they_were_written(values: list[float]) -> None:
    written: list[str | None] = [format(value, "f") for value in values]
    typed = cast(written)
    assert [float(str(value)) for value in typed] == [float(value or "") for value in written]


@given(st.lists(st.datetimes(), min_size=1), st.sampled_from(["T", " "]))
def test_datetimes_come_back_to_the_microsecond(values: list[dt.datetime], separator: str) -> None:
    assert cast([value.isoformat(separator) for value in values]) == values


def test_offsets_become_utc() -> None:
    assert cast(["2026-11-01T05:00:00+05:45", "2026-11-01 05:00Z"]) == [
        dt.datetime(2026, 10, 31, 23, 15, tzinfo=dt.UTC), dt.datetime(2026, 11, 1, 5, tzinfo=dt.UTC),
    ]  # fmt: skip


def test_a_json_string_is_never_a_number() -> None:
    inference = Inference()
    inference.observe(pl.DataFrame({"x": ["1"], "y": ["2026-11-01"]}), frozenset(("x", "y")))
    inference.observe(pl.DataFrame({"x": ["2"], "y": ["2026-11-02"]}))
    assert inference.types(["x", "y"]) == {"x": "str", "y": "date"}


# Given types -------------------------------------------------------------------------------------------------------


def test_given_types_are_taken_at_their_word() -> None:
    assert cast(["012", " 5"], "int") == [12, 5]
    assert cast(["12"], "str") == ["12"]
    assert cast(["1", "no", "TRUE"], "bool") == [True, False, True]
    assert cast(["01/02/2026", None], "date", "%d/%m/%Y") == [dt.date(2026, 2, 1), None]
    assert cast(["2026-11-01T05:00"], "date") == [dt.date(2026, 11, 1)]
    assert cast(["2026-11-01", "2026-11-01T05:00"], "datetime") == [
        dt.datetime(2026, 11, 1),
        dt.datetime(2026, 11, 1, 5),
    ]
    assert cast(["01.02.2026 05:00"], "datetime", "%d.%m.%Y %H:%M") == [dt.datetime(2026, 2, 1, 5)]
    zoned = [dt.datetime(2026, 2, 1, 3, tzinfo=dt.UTC)]
    assert cast(["01.02.2026 05:00+0200"], "datetime", "%d.%m.%Y %H:%M%z") == zoned
    assert cast(["2026-02-01T05:00+02:00"], "datetime") == zoned


@pytest.mark.parametrize(
    ("values", "kind", "form", "value"),
    [
        (["1", "x"], "int", None, "'x'"), (["1.0"], "int", None, "'1.0'"), (["9" * 20], "int", None, "'" + "9" * 20),
        (["1,5"], "float", None, "'1,5'"), (["1e999"], "float", None, "'1e999'"), (["maybe"], "bool", None, "'maybe'"),
        (["31/02/2026"], "date", "%d/%m/%Y", "'31/02/2026'"), (["2026-11-01x"], "date", None, "'2026-11-01x'"),
        (["2026-11-01"], "date", "%d/%m/%Y", "'2026-11-01'"), (["soon"], "datetime", None, "'soon'"),
        (["2026-11-01T05:00", "2026-11-01T05:00Z"], "datetime", None, "'2026-11-01T05:00Z'"),
        (["  "], "int", None, "'  '"),
    ],
)  # fmt: skip
def test_a_value_that_does_not_fit_is_named_with_its_column(
    values: list[str | None], kind: str, form: str | None, value: str
) -> None:
    said = refusal(values, kind, form)
    assert "column 'x'" in said
    assert value in said
    assert (form or kind) in said


def test_a_given_column_that_is_absent_is_an_error_with_those_there_are() -> None:
    with pytest.raises(SourceError, match="'y', which is no column") as caught:
        Typing.decide({"x": "str"}, {"y": ColumnType(type="int")}, {})
    assert "x" in caught.value.hint


# Pinned types ------------------------------------------------------------------------------------------------------


def test_new_rows_cannot_flip_a_pinned_type() -> None:
    assert cast(["1", "2"], pinned="str") == ["1", "2"]
    assert cast(["1", "2"], pinned="float") == [1.0, 2.0]
    assert cast([None], pinned="int") == [None]
    assert cast(["x"], pinned="str") == ["x"]


@pytest.mark.parametrize(
    ("pinned", "value"),
    [("int", "012"), ("int", "x"), ("int", "1.5"), ("bool", "1"), ("date", "2026-11-01T05:00"),
     ("datetime", "2026-11-01"),
     ("datetime", "2026-11-01T05:00Z"), ("datetime_zone", "2026-11-01T05:00"), ("float", "1e999")],
)  # fmt: skip
def test_a_value_that_a_pinned_type_would_change_is_named(pinned: str, value: str) -> None:
    said = refusal([value], pinned=pinned)
    assert "column 'x'" in said
    assert repr(value) in said
    assert "first published" in said


def test_given_types_win_over_pinned_ones() -> None:
    assert cast(["012"], "str", pinned="int") == ["012"]
    assert cast(["012"], "int", pinned="str") == [12]


# Wide tables ---------------------------------------------------------------------------------------------------------

WIDE: list[list[str | None]] = [
    ["1", None],
    ["0.5", "7"],
    ["word", "12"],
    ["2026-11-01", None],
    ["2026-11-01T05:00", ""],
]


def queries(columns: int) -> int:
    """How many queries Polars is asked to infer and cast the types of so many columns."""
    frame = pl.DataFrame({f"c{n}": pl.Series(WIDE[n % len(WIDE)], dtype=pl.String) for n in range(columns)})
    profile = cProfile.Profile()
    with profile:
        inference = Inference()
        inference.observe(frame)
        Typing.decide(inference.types(frame.columns), {}, {}).cast(frame)
    return sum(entry.callcount for entry in profile.getstats() if "'collect'" in str(entry.code))


def test_columns_are_typed_together_and_not_one_by_one() -> None:
    assert queries(500) == queries(len(WIDE)) > 0


def test_names_that_polars_reads_as_patterns_are_names() -> None:
    frame = pl.DataFrame({"^a.*$": ["1"], "ab": ["x"], "*": ["0.5"]})
    inference = Inference()
    inference.observe(frame)
    typed = Typing.decide(inference.types(frame.columns), {}, {}).cast(frame)
    assert typed.to_dict(as_series=False) == {"^a.*$": [1], "ab": ["x"], "*": [0.5]}
