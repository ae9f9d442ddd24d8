"""sql: Polars SQL over the batch, which the query sees as `rows`.

With `scope: batch` the query must be row-wise: what it does to a row may not depend on other rows, or the result would
depend on how rows were dealt into batches. Rows that it leaves out are filtered.
"""

import re
from itertools import pairwise

import polars as pl
import pyarrow as pa
import sqlglot
from sqlglot import exp
from sqlglot.errors import SqlglotError
from sqlglot.tokens import TokenType  # type: ignore[attr-defined]  # its home in every version

from schemas.errors import PartitionError, SpecError
from schemas.ids import digest
from schemas.manifest import Provenance
from schemas.tables import stored_schema
from stages.contract import ROW, Build, Options, TableStage

VERSION = "sql-1"
_DIALECT = "postgres"
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
# Aggregates of Polars that sqlglot takes for functions of the user's.
_AGGREGATES = frozenset(("quantile_cont", "quantile_disc", "var", "covar", "listagg"))


def build(wanted: Build) -> TableStage:
    """The stage of a spec that `uses: sql`. Raises SpecError."""
    stage = wanted.stage
    wanted.options(Options)
    query = (stage.query or "").strip().rstrip(";")
    if stage.scope == "partition":
        raise SpecError(
            f"{wanted.where}: scope: partition is not built yet.", hint="Use scope: batch with a row-wise query."
        )
    numbered = _with_row_number(query, _row_wise(query, wanted.where))

    def apply(rows: pl.DataFrame) -> pl.DataFrame:
        with pl.SQLContext(rows=rows, eager=True) as context:
            return context.execute(numbered).drop(stage.drop)

    def apply_to_batch(rows: pl.DataFrame) -> pl.DataFrame:
        try:
            return apply(rows)
        except pl.exceptions.PolarsError as exc:
            fact = re.split(r" for | in column|: \[", str(exc).splitlines()[0])[0]  # what follows are rows' values
            raise PartitionError(
                f"{wanted.where}: the query failed on this batch: {fact}.", hint="Where a cast may fail, use TRY_CAST."
            ) from exc

    empty = pl.DataFrame(wanted.columns.empty_table()).with_columns(pl.lit(0, pl.Int64).alias(ROW).head(0))
    try:
        after = apply(empty)
    except pl.exceptions.PolarsError as exc:
        raise SpecError(
            f"{wanted.where}: query: {str(exc).splitlines()[0]}", hint=f"Columns: {', '.join(wanted.columns.names)}"
        ) from None
    if ROW not in after.columns:
        raise SpecError(f"{wanted.where}: query: it must select FROM rows.")
    return TableStage(
        spec=stage,
        columns=stored_schema(after.drop(ROW).to_arrow().schema),
        fingerprint=digest(VERSION, query, str(stage.drop), str(stage.version)),
        apply=apply_to_batch,
        provenance=Provenance(stage=stage.name, uses="sql", prompt_digest=digest(query)),
    )


def _row_wise(query: str, where: str) -> exp.Select:
    """The parsed query. Raises SpecError where it is no plain SELECT … FROM rows WHERE …"""
    try:
        parsed = sqlglot.parse(query, dialect=_DIALECT)
    except SqlglotError as exc:
        raise SpecError(f"{where}: query is not valid SQL: {str(exc).splitlines()[0]}") from None
    tree = parsed[0] if len(parsed) == 1 else None
    if not isinstance(tree, exp.Select):
        raise SpecError(f"{where}: query must be one SELECT … FROM rows.")
    found = next((name for kind, name in _REFUSED if tree.find(kind)), None)
    if any(call.name.lower() in _AGGREGATES for call in tree.find_all(exp.Anonymous)):
        found = "an aggregate"
    if found is not None:
        raise SpecError(
            f"{where}: query uses {found}, which would depend on how rows are dealt into batches.",
            hint="Keep it row by row, or do it on the published table.",
        )
    tables = [table.name for table in tree.find_all(exp.Table)]
    if tables != ["rows"]:
        raise SpecError(f"{where}: query must select FROM rows, not {', '.join(tables) or 'nothing'}.")
    return tree


def _with_row_number(query: str, tree: exp.Select) -> str:
    """The user's own text with the hidden row number among the selected columns."""
    if any(isinstance(item, exp.Star) or (isinstance(item, exp.Column) and item.is_star) for item in tree.expressions):
        return query
    depth = 0
    tokens = sqlglot.tokenize(query, read=_DIALECT)
    for token, following in pairwise(tokens):
        if token.token_type == TokenType.L_PAREN:
            depth += 1
        elif token.token_type == TokenType.R_PAREN:
            depth -= 1
        elif token.token_type == TokenType.FROM and depth == 0 and following.text == "rows":  # not IS DISTINCT FROM
            return f'{query[: token.start]}, "{ROW}" {query[token.start :]}'
    return query


def empty_frame(columns: pa.Schema) -> pl.DataFrame:
    """No rows of these columns."""
    return pl.DataFrame(columns.empty_table())
