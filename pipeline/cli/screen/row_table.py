"""Rows of a dataset as a table of a few columns."""

import polars as pl
from rich.table import Table
from rich.text import Text

from pipeline.cli.screen.console import out, shown

_CELL = 60  # characters
_NAMED = 40  # columns that are not shown


def show_rows(rows: pl.DataFrame, *, new: list[str]) -> None:
    """Show a table; the columns `new` of stages come last and are always shown."""
    names = [name for name in rows.columns if name not in new]
    columns = [*names[: max(2, 6 - len(new))], *[name for name in rows.columns if name in new]]
    table = Table(show_lines=False)
    for name in columns:
        table.add_column(name, style="bold" if name in new else None, overflow="fold")
    for row in rows.select(columns).iter_rows():
        table.add_row(*(_cell(value) for value in row))
    out.print(table)
    if left := [name for name in rows.columns if name not in columns]:
        more = f" and {len(left) - _NAMED:,} more columns" if len(left) > _NAMED else ""
        out.print(f"Not shown: {shown(', '.join(left[:_NAMED]))}{more}", markup=False, soft_wrap=True)


def _cell(value: object) -> Text:
    text = "" if value is None else shown(str(value))
    return Text(text if len(text) <= _CELL else text[: _CELL - 1] + "…")
