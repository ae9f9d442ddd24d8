"""sql: Polars SQL over rows, which the query sees as `rows`.

With `scope: batch` the query must be row-wise: what it does to a row may not depend on other rows, or the result would
depend on how rows were split into batches. With `scope: partition` it sees the whole partition, and may group, join and
limit. Rows that it leaves out are filtered; of those that it groups, all that reached it count as ok.
"""

import re
from itertools import pairwise
from pathlib import Path

import polars as pl
import sqlglot
from sqlglot import exp
from sqlglot.errors import SqlglotError
from sqlglot.tokens import TokenType  # type: ignore[attr-defined]  # where every version has it

from schemas.arrow_tables import empty_frame
from schemas.digests import digest
from schemas.errors import SpecError
from schemas.manifest import Provenance
from schemas.tables import stored_schema
from stages.contract import REJECTED, RESERVED, ROW, Options, StageSetup, TableStage, query_failed

VERSION = "sql-1"
DIALECT = "postgres"
_REFUSED: tuple[tuple[type[exp.Expr], str], ...] = (
    (exp.Join, "a join"),
    (exp.Group, "GROUP BY"),
    (exp.Having, "HAVING"),
    (exp.Limit, "LIMIT"),
    (exp.Offset, "OFFSET"),
    (exp.Fetch, "FETCH"),
    (exp.TableSample, "TABLESAMPLE"),
    (exp.Order, "ORDER BY"),
    (exp.Distinct, "DISTINCT"),
    (exp.Window, "a window function"),
    (exp.Qualify, "QUALIFY"),
    (exp.RowNumber, "ROW_NUMBER"),
    (exp.AggFunc, "an aggregate"),
    (exp.Subquery, "a subquery"),
    (exp.Exists, "a subquery"),
    (exp.With, "WITH"),
    (exp.Unnest, "UNNEST"),
    (exp.Explode, "UNNEST"),
    (exp.Rand, "RANDOM"),
)
# Aggregates of Polars that sqlglot parses as functions of the user's.
_AGGREGATES = frozenset(("quantile_cont", "quantile_disc", "var", "covar", "listagg"))
_HIDDEN = re.compile(rf',? ?"?{RESERVED}\w*"?')


def build(setup: StageSetup) -> TableStage:
    """The stage of a spec that `uses: sql`. Raises SpecError."""
    stage = setup.stage
    setup.options(Options)
    query = (stage.query or "").strip().rstrip(";")
    whole = stage.scope == "partition"
    tree = _of_partition(query, setup.where) if whole else _row_wise(query, setup.where)
    keeps_rows = not whole or _keeps_rows(tree)
    numbered = _with_row_number(query, tree) if keeps_rows else query

    def run(rows: pl.LazyFrame) -> pl.LazyFrame:
        with pl.SQLContext(rows=rows if keeps_rows else rows.drop(ROW, REJECTED, strict=False)) as context:
            return context.execute(numbered).drop(stage.drop)

    def apply_to_batch(rows: pl.DataFrame) -> pl.DataFrame:
        try:
            return run(rows.lazy()).collect()
        except pl.exceptions.PolarsError as exc:
            raise query_failed(setup.where, exc) from exc

    def run_on_partition(source: Path) -> pl.LazyFrame:
        rows = pl.scan_parquet(source)
        result = run(rows)
        if not keeps_rows:
            names = result.collect_schema().names()
            return result if tree.args.get("order") else result.sort(names, nulls_last=True)
        names = [name for name in result.collect_schema().names() if name != REJECTED]
        return result.select(names).join(
            rows.select(ROW, REJECTED).unique(ROW), on=ROW, how="left", maintain_order="left"
        )

    empty = empty_frame(setup.columns).with_columns(pl.lit(0, pl.Int64).alias(ROW).head(0))
    try:
        after = run(empty.lazy()).collect()
    except pl.exceptions.PolarsError as exc:
        raise SpecError(
            f"{setup.where}: query: {polars_fact(exc)}.", hint=f"Columns: {', '.join(setup.columns.names)}"
        ) from None
    if keeps_rows and ROW not in after.columns:
        raise SpecError(f"{setup.where}: query: it must select FROM rows.")
    return TableStage(
        spec=stage,
        columns=stored_schema(after.drop(ROW, strict=False).to_arrow().schema),
        fingerprint=digest(VERSION, query, str(stage.drop), str(stage.version), *(["partition"] if whole else [])),
        apply=apply_to_batch,
        lazily=None if whole else run,
        provenance=Provenance(stage=stage.name, uses="sql", prompt_digest=digest(query)),
        run_on_partition=run_on_partition if whole else None,
        keeps_rows=keeps_rows,
    )


def polars_fact(exc: Exception) -> str:
    """Return the first line of Polars' message, without our hidden columns."""
    return _HIDDEN.sub("", str(exc).splitlines()[0]).rstrip(".")


def not_row_wise(tree: exp.Select) -> str | None:
    """Return the part of a query that makes a row's result depend on other rows, or on chance; None if there is
    none."""
    if any(call.name.lower() in _AGGREGATES for call in tree.find_all(exp.Anonymous)):
        return "an aggregate"
    return next((name for kind, name in _REFUSED if tree.find(kind)), None)


def _of_partition(query: str, where: str) -> exp.Query:
    """Return the parsed query over a whole partition. Raises SpecError for other tables, and for random results."""
    tree = _parsed(query, where)
    if tree.find(exp.Rand, exp.TableSample):
        raise SpecError(f"{where}: query uses RANDOM, so that no two runs would agree.", hint="Use uses: sample.")
    if tree.find(exp.Limit, exp.Offset, exp.Fetch) and not tree.find(exp.Order):
        raise SpecError(f"{where}: query uses LIMIT without ORDER BY, so that chance decides.", hint="Add ORDER BY.")
    known = {"rows", *(cte.alias for cte in tree.find_all(exp.CTE))}
    other = sorted({table.name for table in tree.find_all(exp.Table)} - known)
    if other or not tree.find(exp.Table):
        raise SpecError(f"{where}: query must select FROM rows, not {', '.join(other) or 'nothing'}.")
    return tree


def _keeps_rows(tree: exp.Query) -> bool:
    """True if each row of the result comes from exactly one input row."""
    if not isinstance(tree, exp.Select) or [table.name for table in tree.find_all(exp.Table)] != ["rows"]:
        return False
    if tree.find(exp.Join, exp.Group, exp.Having, exp.Distinct, exp.Unnest, exp.Explode, exp.With, exp.Subquery):
        return False
    if any(call.name.lower() in _AGGREGATES for call in tree.find_all(exp.Anonymous)):
        return False
    return all(found.find_ancestor(exp.Window) for found in tree.find_all(exp.AggFunc))


def _parsed(query: str, where: str) -> exp.Query:
    try:
        parsed = sqlglot.parse(query, dialect=DIALECT)
    except SqlglotError as exc:
        raise SpecError(f"{where}: query is not valid SQL: {str(exc).splitlines()[0]}") from None
    tree = parsed[0] if len(parsed) == 1 else None
    if not isinstance(tree, exp.Query):
        raise SpecError(f"{where}: query must be one SELECT … FROM rows.")
    return tree


def _row_wise(query: str, where: str) -> exp.Select:
    """Return the parsed query. Raises SpecError if it is no plain SELECT … FROM rows WHERE …"""
    tree = _parsed(query, where)
    if not isinstance(tree, exp.Select):
        raise SpecError(f"{where}: query must be one SELECT … FROM rows.")
    if (found := not_row_wise(tree)) is not None:
        raise SpecError(
            f"{where}: query uses {found}, which would depend on how rows are split into batches.",
            hint="Keep it row by row, or set scope: partition.",
        )
    tables = [table.name for table in tree.find_all(exp.Table)]
    if tables != ["rows"]:
        raise SpecError(f"{where}: query must select FROM rows, not {', '.join(tables) or 'nothing'}.")
    return tree


def _with_row_number(query: str, tree: exp.Query) -> str:
    """Return the user's query with the hidden row number among the selected columns."""
    if any(isinstance(item, exp.Star) or (isinstance(item, exp.Column) and item.is_star) for item in tree.expressions):
        return query
    depth = 0
    tokens = sqlglot.tokenize(query, read=DIALECT)
    for token, following in pairwise(tokens):
        if token.token_type == TokenType.L_PAREN:
            depth += 1
        elif token.token_type == TokenType.R_PAREN:
            depth -= 1
        elif token.token_type == TokenType.FROM and depth == 0 and following.text == "rows":  # not IS DISTINCT FROM
            return f'{query[: token.start]}, "{ROW}" {query[token.start :]}'
    return query
