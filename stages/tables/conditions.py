"""Conditions: SQL expressions that are true of a good row."""

import polars as pl


def holds(rows: pl.DataFrame, condition: str) -> pl.Series:
    """Return a boolean per row: it meets the condition; null is not true. Raises PolarsError."""
    with pl.SQLContext(rows=rows, eager=True) as context:
        passes = context.execute(f"SELECT ({condition}) AS held FROM rows")["held"].fill_null(value=False)
    return passes if passes.len() == rows.height else passes.new_from_index(0, rows.height)  # it reads no column


def meeting(rows: pl.LazyFrame, condition: str) -> pl.LazyFrame:
    """Return the rows that meet a condition, as a lazy plan."""
    with pl.SQLContext(rows=rows) as context:
        return context.execute(f"SELECT * FROM rows WHERE ({condition})")
