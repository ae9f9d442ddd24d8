"""explode: one row to many: an item of a list each, or a chunk of a long text.

The source row counts as one row: it is ok once, and rejected if any of its parts is. Its key is
unique in the source, not in what is published; `position` numbers the parts.
"""

from collections.abc import Callable
from typing import Any

import polars as pl
import pyarrow as pa
from pydantic import Field

from schemas.arrow_tables import empty_frame
from schemas.digests import digest
from schemas.errors import SpecError
from schemas.manifest import Provenance
from schemas.tables import stored_schema
from stages.contract import RESERVED, Options, StageSetup, TableStage, check_drop
from stages.text.chunks import chunked

VERSION = "explode-1"


class ExplodeOptions(Options):
    column: str = Field(description="a list, or with chunk_tokens a text")
    chunk_tokens: int | None = Field(default=None, ge=10, description="cut a text into chunks of at most so many")
    into: str | None = Field(default=None, description="the column for the part; default: in place of `column`")
    position: str | None = Field(default=None, description="a column for the number of the part, from 0")
    keep_empty: bool = Field(default=True, description="a row without parts: kept with null, or filtered")


def build(setup: StageSetup) -> TableStage:
    """The stage of a spec that `uses: explode`. Raises SpecError."""
    options, stage = setup.options(ExplodeOptions), setup.stage
    check_drop(setup)
    _check(setup, options)
    into = options.into or options.column
    cut = _chunker(options.chunk_tokens) if options.chunk_tokens is not None else None

    def apply(rows: pl.DataFrame) -> pl.DataFrame:
        items = rows[options.column]
        if cut is not None:
            items = pl.Series([cut(text) for text in items.to_list()], dtype=pl.List(pl.String))
        frame = rows.with_columns(items.alias(into))
        counts = pl.col(into).list.len().fill_null(0)
        if not options.keep_empty:
            frame = frame.filter(counts > 0)
        exploded = [into]
        if options.position:
            frame = frame.with_columns(pl.int_ranges(0, counts.clip(1), dtype=pl.Int64).alias(options.position))
            exploded.append(options.position)
        # Versions of Polars differ in making a row with null of an empty list, so it is made here.
        frame = frame.with_columns(pl.when(counts > 0).then(pl.col(into)).otherwise(pl.lit([None])).alias(into))
        return frame.explode(exploded).drop(stage.drop, strict=False)

    return TableStage(
        spec=stage,
        columns=stored_schema(apply(empty_frame(setup.columns)).to_arrow().schema),
        fingerprint=digest(VERSION, options.model_dump_json(), str(stage.drop), str(stage.version)),
        apply=apply,
        provenance=Provenance(stage=stage.name, uses="explode"),
        apply_reads=frozenset((options.column,)),
    )


def _chunker(size: int) -> Callable[[Any], list[str] | None]:
    return lambda text: None if text is None else chunked(text, size)


def _check(setup: StageSetup, options: ExplodeOptions) -> None:
    columns = setup.columns
    if options.column not in columns.names:
        raise SpecError(
            f"{setup.where}: with.column = {options.column!r} is no column here.",
            hint=f"Columns: {', '.join(columns.names)}",
        )
    kind = columns.field(options.column).type
    text = pa.types.is_string(kind) or pa.types.is_large_string(kind)
    if options.chunk_tokens is not None and not text:
        raise SpecError(f"{setup.where}: with.chunk_tokens cuts a text, and {options.column!r} is {kind}.")
    if options.chunk_tokens is None and not (pa.types.is_list(kind) or pa.types.is_large_list(kind)):
        raise SpecError(
            f"{setup.where}: with.column = {options.column!r} is {kind}, not a list.",
            hint="A text is cut into chunks with chunk_tokens: 500.",
        )
    for name in (options.into, options.position):
        if name is not None and name.startswith(RESERVED):
            raise SpecError(f"{setup.where}: the column name {name!r} is reserved.")
        if name is not None and name in columns.names and name != options.column and not setup.stage.replace:
            raise SpecError(
                f"{setup.where}: {name!r} is already a column.", hint="Rename it, or set replace: true in the stage."
            )
