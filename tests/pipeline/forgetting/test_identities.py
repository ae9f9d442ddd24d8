"""A ROW on the command line is the row that journals and files know by the digest of its typed key."""

from __future__ import annotations

import datetime as dt
from decimal import Decimal
from typing import Any

import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.forgetting.identities import ForgottenRow, Identities, forgotten_row, salted
from pipeline.forgetting.note import new_note
from schemas.errors import UsageError
from stages.journal.fingerprints import row_ids

VALUES = (
    st.integers(-(2**63), 2**63 - 1)
    | st.text(st.characters(codec="utf-8"), min_size=1)
    | st.booleans()
    | st.dates()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.datetimes(dt.datetime(1900, 1, 1), dt.datetime(2100, 1, 1))  # noqa: DTZ001 - a naive column
)


def identity(**values: Any) -> str:
    (found,) = row_ids(pl.DataFrame([values]), list(values))
    return found


@given(value=VALUES)
def test_the_text_of_a_value_names_its_row_whatever_the_type(value: Any) -> None:
    assert identity(id=value) in forgotten_row(str(value), ["id"]).ids


def test_decimals_and_times_with_a_zone_are_named_by_their_text() -> None:
    time = dt.datetime(2026, 11, 1, 10, tzinfo=dt.UTC)
    assert identity(id=Decimal("17.50")) in forgotten_row("17.50", ["id"]).ids
    assert identity(id=time) in forgotten_row(str(time), ["id"]).ids


@given(one=VALUES, other=VALUES)
def test_no_other_row_is_named(one: Any, other: Any) -> None:
    if type(one) is type(other) and str(one) != str(other) and one != other:
        assert identity(id=other) not in forgotten_row(str(one), ["id"]).ids


def test_a_key_of_several_columns_is_named_by_all_of_them() -> None:
    key = ["shop", "number"]
    assert identity(shop="a, b=c", number=7) in forgotten_row("shop=a, b=c, number=7", key).ids
    with pytest.raises(UsageError, match="shop, number"):
        forgotten_row("7", key)


def test_an_identity_names_its_row() -> None:
    assert identity(id=7) in forgotten_row(identity(id=7), ["id"]).ids


def test_a_note_knows_rows_again_and_has_nothing_of_them() -> None:
    row = forgotten_row("person-7", ["id"])
    note = new_note([row], dt.datetime.now(dt.UTC))
    again = note.identities()
    assert again.mask(pl.Series([*row.ids, identity(id="person-8"), None])).to_list() == [True] * len(row.ids) + [
        False,
        False,
    ]
    assert note.names(row)
    text = note.model_dump_json()
    assert not any(one in text for one in (row.text, *row.ids))


def test_a_digest_is_of_no_use_with_another_salt() -> None:
    assert salted(b"1" * 32, "person-7") != salted(b"2" * 32, "person-7")


def test_a_second_command_finishes_the_rows_of_the_first_with_its_own() -> None:
    first, second = (ForgottenRow(name, frozenset((identity(id=name),))) for name in ("a", "b"))
    now = dt.datetime.now(dt.UTC)
    both = new_note([second], now, new_note([first], now)).identities()
    assert both.has(identity(id="a"))
    assert both.has(identity(id="b"))
    assert not Identities(frozenset()).has(identity(id="a"))
