"""What a spreadsheet could take for a formula gets a quote in front, and nothing else does."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.formulas import texts

_STARTS = "=+-@\t\r"


@pytest.mark.parametrize(
    ("cell", "safe"),
    [
        ("=1+1", "'=1+1"),
        ("+1", "'+1"),
        ("-2", "'-2"),
        ("@SUM(A1)", "'@SUM(A1)"),
        ("\tx", "'\tx"),
        ("\rx", "'\rx"),
        ("  =x", "'  =x"),
        ("\u00a0\u200b=x", "'\u00a0\u200b=x"),
        ("a\n=x", "a\n'=x"),
        ("a\n  -x\n+y", "a\n'  -x\n'+y"),
        ("a\r=x", "a\r'=x"),
        ("\uff1dx", "'\uff1dx"),
        ("\u22121", "'\u22121"),
        ("1+1=2", "1+1=2"),
        ("a - b", "a - b"),
        ("x@y.org", "x@y.org"),
        ("", ""),
    ],
)
def test_a_quote_is_put_where_a_formula_could_begin(cell: str, safe: str) -> None:
    assert texts([cell]) == [safe]


@settings(deadline=None)
@given(st.text(alphabet=" =+-@\t\r\nab'", max_size=12))
def test_no_line_of_any_cell_begins_like_a_formula(cell: str) -> None:
    (safe,) = texts([cell])
    for line in safe.split("\n"):
        assert line.lstrip(" ")[:1] not in tuple(_STARTS)
    if safe != cell:
        assert safe.replace("'", "") == cell.replace("'", "")
