"""aggregate: many rows to one, within a partition; behind a barrier.

Groups come in the order of their first rows. Every source row that reaches the stage counts as ok: it is in a group.
"""

from pathlib import Path

import polars as pl
import sqlglot
from pydantic import Field
from sqlglot import exp

from schemas.arrow_tables import empty_frame
from schemas.digests import digest
from schemas.errors import SpecError
from schemas.manifest import Provenance
from schemas.tables import stored_schema
from stages.contract import RESERVED, ROW, Options, StageSetup, TableStage
from stages.tables.sql import DIALECT

VERSION = "aggregate-1"


class AggregateOptions(Options):
    by: list[str] = Field(min_length=1, description="the columns that make a group")
    columns: dict[str, str] = Field(min_length=1, description="column: SQL over the group, such as avg(score)")


def build(setup: StageSetup) -> TableStage:
    """The stage of a spec that `uses: aggregate`. Raises SpecError."""
    options, stage = setup.options(AggregateOptions), setup.stage
    if stage.drop:
        raise SpecError(f"{setup.where}: drop has no effect here: a group has only the columns of by and columns.")
    for name in options.by:
        if name not in setup.columns.names:
            raise SpecError(
                f"{setup.where}: {name!r} is no column here.", hint=f"Columns: {', '.join(setup.columns.names)}"
            )
    for name in options.columns:
        if name in options.by or name.startswith(RESERVED):
            raise SpecError(f"{setup.where}: with.columns: the name {name!r} is already used or reserved.")
    try:
        aggregates = [pl.sql_expr(expression).alias(name) for name, expression in options.columns.items()]
        empty = empty_frame(setup.columns).with_columns(pl.lit(0, pl.Int64).alias(ROW).head(0))
        after = _grouped(empty.lazy(), options.by, aggregates).collect()
    except pl.exceptions.PolarsError as exc:
        raise SpecError(
            f"{setup.where}: with.columns: {str(exc).splitlines()[0]}",
            hint=f"Columns: {', '.join(setup.columns.names)}",
        ) from None
    plain = [name for name, expression in options.columns.items() if not _is_aggregate(expression, after.schema[name])]
    if plain:
        raise SpecError(
            f"{setup.where}: with.columns.{plain[0]} = {options.columns[plain[0]]!r} is no aggregate.",
            hint="For example count(*), sum(x), avg(x), max(x), first(x), string_agg(x, ', ').",
        )
    return TableStage(
        spec=stage,
        columns=stored_schema(after.to_arrow().schema),
        fingerprint=digest(VERSION, options.model_dump_json(), str(stage.version)),
        provenance=Provenance(stage=stage.name, uses="aggregate"),
        run_on_partition=lambda source: _run(source, options.by, aggregates),
        keeps_rows=False,
    )


def _run(source: Path, by: list[str], aggregates: list[pl.Expr]) -> pl.LazyFrame:
    return _grouped(pl.scan_parquet(source), by, aggregates)


def _grouped(rows: pl.LazyFrame, by: list[str], aggregates: list[pl.Expr]) -> pl.LazyFrame:
    first = pl.col(ROW).min().alias(ROW)
    return rows.group_by(by).agg(*aggregates, first).sort(ROW).drop(ROW)


def _is_aggregate(expression: str, kind: pl.DataType) -> bool:
    """True if the expression makes one value of a group, and does not just collect its rows."""
    tree = sqlglot.parse_one(expression, dialect=DIALECT)
    return tree.find(exp.AggFunc) is not None and (kind.base_type() != pl.List or tree.find(exp.ArrayAgg) is not None)
