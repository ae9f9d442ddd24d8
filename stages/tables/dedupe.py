"""dedupe: near-duplicates marked, or filtered, within a partition; behind a barrier.

Rows are compared in order with earlier rows that are no duplicates: by MinHash over the words of `on` (an estimate
of the share of three-word phrases that two texts have in common), or by the cosine of a `vector` column, as `embed`
writes it. The first row of a group is kept as its original. Blank texts and null vectors are never duplicates.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Literal

import numpy as np
import polars as pl
import pyarrow as pa
from pydantic import Field, model_validator

from schemas.digests import digest
from schemas.errors import SpecError
from schemas.manifest import Provenance
from stages.contract import RESERVED, Options, StageSetup, TableStage, check_drop
from stages.tables.minhash import ALGORITHM, WORD, similar_texts
from stages.tables.partition_rows import parts
from stages.tables.vectors import Vectors

VERSION = "dedupe-2"


class DedupeOptions(Options):
    on: list[str] = Field(default=[], description="text columns to compare")
    vector: str | None = Field(default=None, description="a list[float] column to compare instead")
    threshold: float = Field(default=0.8, gt=0, le=1, description="rows at least this similar are duplicates")
    keep: Literal["all", "first"] = Field(default="all", description="first: duplicates are filtered")
    duplicate: str = Field(default="duplicate", description="the bool column that marks duplicates")
    group: str | None = Field(default=None, description="an int column: the same for all of a kind")

    @model_validator(mode="after")
    def _check_one_source(self) -> "DedupeOptions":
        if bool(self.on) == (self.vector is not None):
            raise ValueError("give on: [text columns], or vector: the column of an embedding")
        return self


def build(setup: StageSetup) -> TableStage:
    """The stage of a spec that `uses: dedupe`. Raises SpecError."""
    options, stage = setup.options(DedupeOptions), setup.stage
    check_drop(setup)
    _check(setup, options)
    read = [options.vector] if options.vector is not None else options.on

    def mark_duplicates(source: Path) -> pl.LazyFrame:
        first_rows = pl.Series(_first_rows(source, read, options, setup.where), dtype=pl.Int64)
        places = pl.Series(range(first_rows.len()), dtype=pl.Int64)
        rows = pl.scan_parquet(source).drop(stage.drop)
        marked = rows.with_columns((first_rows != places).alias(options.duplicate))
        if options.group is not None:
            marked = marked.with_columns(first_rows.alias(options.group))
        return marked.filter(~pl.col(options.duplicate)) if options.keep == "first" else marked

    made_by = f"{VERSION} {ALGORITHM}" if options.on else VERSION
    added = [pa.field(options.duplicate, pa.bool_())]
    added += [pa.field(options.group, pa.int64())] if options.group is not None else []
    names = {field.name for field in added}
    kept = [field for field in setup.columns if field.name not in names and field.name not in stage.drop]
    return TableStage(
        spec=stage,
        columns=pa.schema([*kept, *added]),
        fingerprint=digest(made_by, options.model_dump_json(), str(stage.drop), str(stage.version)),
        provenance=Provenance(stage=stage.name, uses="dedupe"),
        run_on_partition=mark_duplicates,
    )


def _check(setup: StageSetup, options: DedupeOptions) -> None:
    columns = setup.columns
    for name in (*options.on, *([options.vector] if options.vector else [])):
        if name not in columns.names:
            raise SpecError(f"{setup.where}: {name!r} is no column here.", hint=f"Columns: {', '.join(columns.names)}")
        kind = columns.field(name).type
        listed = pa.types.is_list(kind) or pa.types.is_large_list(kind)
        if name == options.vector and not (listed and pa.types.is_floating(kind.value_type)):
            raise SpecError(f"{setup.where}: with.vector = {name!r} is {kind}, not list[float].", hint="See: embed.")
    for name in (options.duplicate, *([options.group] if options.group is not None else [])):
        if name.startswith(RESERVED):
            raise SpecError(f"{setup.where}: the column name {name!r} is reserved.")
        if name in columns.names and not setup.stage.replace:
            raise SpecError(
                f"{setup.where}: {name!r} is already a column.",
                hint="Name another: with: {duplicate: …, group: …}; or set replace: true.",
            )


def _first_rows(source: Path, read: list[str], options: DedupeOptions, where: str) -> list[int]:
    """Return for each row the place of the first row that it is similar to."""
    if options.vector is None:
        return similar_texts(_texts(source, read), options.threshold, where)
    vectors = Vectors(options.threshold, where)
    found: list[int] = []
    for rows in parts(source, read):
        for vector in rows[options.vector].to_list():
            blank = not vector or None in vector
            found.append(
                len(found) if blank else vectors.first_similar(len(found), np.asarray(vector, dtype=np.float64))
            )
    return found


def _texts(source: Path, read: list[str]) -> Iterator[str | None]:
    for rows in parts(source, read):
        for values in rows.iter_rows():
            text = "\n".join(str(part) for part in values if part is not None)
            yield text if WORD.search(text) else None
