"""Conditions: SQL expressions that are true of a good row. They are bound before any row is there: every column exists,
the type is boolean, and no row's answer depends on another row."""

import difflib
import re

import polars as pl
import pyarrow as pa
import sqlglot
from sqlglot import exp
from sqlglot.errors import SqlglotError

from schemas.errors import SpecError
from stages.tables.sql import DIALECT, not_row_wise, polars_fact

_LONGEST = 200
# In sqlglot's sentences: classes of its own, and places that count what stands around the condition.
_POSITION = re.compile(r" missing for <class [^>]*>|\.? Line \d+, Col: \d+\.?")


def bind(condition: str, columns: pa.Schema, where: str, place: tuple[str | int, ...]) -> frozenset[str]:
    """The columns that a condition looks at, which stands at `place` in the spec. Raises SpecError, which begins with
    `where` and the condition."""
    try:
        return _bound(condition, columns, where)
    except SpecError as exc:
        raise SpecError(exc.message, hint=exc.hint, places=[(place, exc.message)]) from None


def _bound(condition: str, columns: pa.Schema, where: str) -> frozenset[str]:
    said = f"{where}: {condition.strip()!r}"
    tree = _parsed(condition, said)
    looked_at = {_outermost(column) for column in tree.find_all(exp.Column)}
    kind = _type_of(condition, columns, looked_at, said)
    if kind != pl.Boolean:
        raise SpecError(
            f"{said} is {_plain(kind)}, neither true nor false.", hint="Compare it with something: length(text) < 200."
        )
    return frozenset(looked_at)


def holds(rows: pl.DataFrame, condition: str) -> pl.Series:
    """Whether each row meets the condition; null is not true. Raises PolarsError."""
    with pl.SQLContext(rows=rows, eager=True) as context:
        held = context.execute(f"SELECT ({condition}) AS held FROM rows")["held"].fill_null(value=False)
    return held if held.len() == rows.height else held.new_from_index(0, rows.height)  # it looks at no column


def _parsed(condition: str, said: str) -> exp.Select:
    query = f"SELECT ({condition}) AS held FROM rows"
    try:
        parsed = sqlglot.parse(query, dialect=DIALECT)
    except SqlglotError as exc:
        raise SpecError(f"{said} is not valid SQL: {_POSITION.sub('', str(exc).splitlines()[0])}.") from None
    tree = parsed[0] if len(parsed) == 1 else None
    if not isinstance(tree, exp.Select) or isinstance(tree.expressions[0].unalias().unnest(), exp.Tuple):
        raise SpecError(f"{said} is not one expression.", hint="Write what is true of a good row: score > 0.5")
    if (found := not_row_wise(tree)) is not None:
        raise SpecError(
            f"{said} uses {found}; a condition is about one row.",
            hint="Compute it in a stage (uses: sql, scope: partition), and compare its column.",
        )
    if [table.name for table in tree.find_all(exp.Table)] != ["rows"]:
        raise SpecError(f"{said} looks at another table; a condition is about one row.")
    return tree


def _type_of(condition: str, columns: pa.Schema, looked_at: set[str], said: str) -> pl.DataType:
    empty = pl.DataFrame(columns.empty_table())
    try:
        with pl.SQLContext(rows=empty, eager=True) as context:
            return context.execute(f"SELECT ({condition}) AS held FROM rows")["held"].dtype
    except pl.exceptions.PolarsError as exc:
        known = f"Columns: {', '.join(columns.names)}"
        if absent := sorted(looked_at - set(columns.names)):
            close = difflib.get_close_matches(absent[0], columns.names, n=1)
            meant = f"; did you mean {close[0]!r}?" if close else "."
            raise SpecError(f"{said}: there is no column {absent[0]!r}{meant}", hint=known) from None
        raise SpecError(f"{said}: {polars_fact(exc)[:_LONGEST]}.", hint=known) from None


_KINDS = {pl.String: "text", pl.Date: "a date", pl.Null: "null"}


def _plain(kind: pl.DataType) -> str:
    if kind.is_numeric():
        return "a number"
    return _KINDS.get(type(kind), f"of type {kind}")


def _outermost(column: exp.Column) -> str:
    """The column of the rows: `who` of `who.name`, and of `rows.who.name`."""
    names = [str(part.name) for part in column.parts]
    return names[1] if names[0] == "rows" and len(names) > 1 else names[0]
