"""The next item is made while the one before is used, and nothing is lost, added or reordered."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.read_ahead import read_ahead


@given(st.lists(st.none() | st.integers()))
def test_the_items_are_the_same_in_the_same_order(items: list[int | None]) -> None:
    assert list(read_ahead(items)) == items


def test_the_next_item_is_made_while_one_is_used_and_no_other() -> None:
    made: list[int] = []
    third = threading.Event()

    def items() -> Iterator[int]:
        for number in range(5):
            made.append(number)
            if number == 2:
                third.set()
            yield number

    reading = read_ahead(items())
    assert next(reading) == 0
    assert next(reading) == 1
    assert third.wait(10)
    assert made == [0, 1, 2]
    reading.close()  # type: ignore[attr-defined]
    assert made == [0, 1, 2]


def test_an_error_comes_in_its_place() -> None:
    def items() -> Iterator[int]:
        yield 1
        raise OSError("gone")

    reading = read_ahead(items())
    assert next(reading) == 1
    with pytest.raises(OSError, match="gone"):
        next(reading)
