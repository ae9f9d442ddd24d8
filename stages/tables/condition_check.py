"""The check of a condition before any row is read: it is a SQL expression that is true of a good row, every column
exists, the type is boolean, and no row's answer depends on another row."""

import difflib
import re

import polars as pl
import pyarrow as pa
import sqlglot
from sqlglot import exp
from sqlglot.errors import SqlglotError

from schemas.arrow_tables import empty_frame
from schemas.errors import SpecError
from stages.tables.sql import DIALECT, not_row_wise, polars_fact

_LONGEST = 200
# In sqlglot's messages: its class names, and positions that include the text around the condition.
_POSITION = re.compile(r" missing for <class [^>]*>|\.? Line \d+, Col: \d+\.?")


def bind(condition: str, columns: pa.Schema, where: str, place: tuple[str | int, ...]) -> frozenset[str]:
    """Check a condition, at `place` in the spec, and return the columns that it reads. Raises SpecError, which begins
    with `where` and the condition."""
    try:
        return _check(condition, columns, where)
    except SpecError as exc:
        raise SpecError(exc.message, hint=exc.hint, places=[(place, exc.message)]) from None


def _check(condition: str, columns: pa.Schema, where: str) -> frozenset[str]:
    label = f"{where}: {condition.strip()!r}"
    tree = _parsed(condition, label)
    columns_read = {_outermost(column) for column in tree.find_all(exp.Column)}
    kind = _type_of(condition, columns, columns_read, label)
    if kind != pl.Boolean:
        raise SpecError(
            f"{label} is {_plain(kind)}, neither true nor false.",
            hint="Compare it with something: length(text) < 200.",
        )
    return frozenset(columns_read)


def _parsed(condition: str, prefix: str) -> exp.Select:
    query = f"SELECT ({condition}) AS held FROM rows"
    try:
        parsed = sqlglot.parse(query, dialect=DIALECT)
    except SqlglotError as exc:
        raise SpecError(f"{prefix} is not valid SQL: {_POSITION.sub('', str(exc).splitlines()[0])}.") from None
    tree = parsed[0] if len(parsed) == 1 else None
    if not isinstance(tree, exp.Select) or isinstance(tree.expressions[0].unalias().unnest(), exp.Tuple):
        raise SpecError(f"{prefix} is not one expression.", hint="Write what is true of a good row: score > 0.5")
    if (found := not_row_wise(tree)) is not None:
        raise SpecError(
            f"{prefix} uses {found}; a condition is about one row.",
            hint="Compute it in a stage (uses: sql, scope: partition), and compare its column.",
        )
    if [table.name for table in tree.find_all(exp.Table)] != ["rows"]:
        raise SpecError(f"{prefix} reads another table; a condition is about one row.")
    return tree


def _type_of(condition: str, columns: pa.Schema, columns_read: set[str], prefix: str) -> pl.DataType:
    empty = empty_frame(columns)
    try:
        with pl.SQLContext(rows=empty, eager=True) as context:
            return context.execute(f"SELECT ({condition}) AS held FROM rows")["held"].dtype
    except pl.exceptions.PolarsError as exc:
        known = f"Columns: {', '.join(columns.names)}"
        if missing := sorted(columns_read - set(columns.names)):
            close = difflib.get_close_matches(missing[0], columns.names, n=1)
            suggestion = f"; did you mean {close[0]!r}?" if close else "."
            raise SpecError(f"{prefix}: there is no column {missing[0]!r}{suggestion}", hint=known) from None
        raise SpecError(f"{prefix}: {polars_fact(exc)[:_LONGEST]}.", hint=known) from None


_KINDS = {pl.String: "text", pl.Date: "a date", pl.Null: "null"}


def _plain(kind: pl.DataType) -> str:
    if kind.is_numeric():
        return "a number"
    return _KINDS.get(type(kind), f"of type {kind}")


def _outermost(column: exp.Column) -> str:
    """Return the column of the rows: `who` of `who.name`, and of `rows.who.name`."""
    names = [str(part.name) for part in column.parts]
    return names[1] if names[0] == "rows" and len(names) > 1 else names[0]
