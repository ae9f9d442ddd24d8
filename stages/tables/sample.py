"""sample: a share of the rows, or a number of them per partition, chosen by their content and not at random.

A row is chosen by a digest of `seed` and its key (all columns that reach the stage, if there is no key): the same rows
in every run, whatever their order, batch or machine. Rows that are left out are filtered.
"""

from pathlib import Path

import polars as pl
import pyarrow as pa
from pydantic import Field, model_validator

from schemas.digests import digest
from schemas.errors import SpecError
from schemas.manifest import Provenance
from stages.contract import REJECTED, RESERVED, ROW, Options, StageSetup, TableStage, check_drop
from stages.journal.fingerprints import fingerprints
from stages.tables.partition_rows import parts

VERSION = "sample-1"
_DRAWN = f"{RESERVED}drawn"


class SampleOptions(Options):
    rate: float | None = Field(default=None, gt=0, le=1, description="the share of rows to keep")
    rows: int | None = Field(default=None, ge=1, description="how many of each partition; needs scope: partition")
    seed: int = Field(default=0, description="another seed keeps other rows")
    by: list[str] = Field(default=[], description="the columns that decide, instead of the key")

    @model_validator(mode="after")
    def _check_one_size(self) -> "SampleOptions":
        if (self.rate is None) == (self.rows is None):
            raise ValueError("give rate: a share, or rows: a number")
        return self


def build(setup: StageSetup) -> TableStage:
    """The stage of a spec that `uses: sample`. Raises SpecError."""
    options, stage = setup.options(SampleOptions), setup.stage
    check_drop(setup)
    if (options.rows is not None) != (stage.scope == "partition"):
        raise SpecError(
            f"{setup.where}: with.rows and scope: partition belong together.",
            hint="A number of rows is counted over a partition; a rate needs no scope.",
        )
    by = _columns(setup, options)

    def draws(rows: pl.DataFrame) -> pl.Series:
        texts = (digest(str(options.seed), fingerprint)[:15] for fingerprint in fingerprints(rows, by))
        return pl.Series([int(text, 16) for text in texts], dtype=pl.Int64)

    def apply(rows: pl.DataFrame) -> pl.DataFrame:
        assert options.rate is not None
        return rows.filter(draws(rows) < int(options.rate * 16**15)).drop(stage.drop)

    def lazily(rows: pl.LazyFrame) -> pl.LazyFrame:
        assert options.rate is not None
        most = int(options.rate * 16**15)

        def chosen(values: pl.Series) -> pl.Series:
            return draws(values.struct.unnest()) < most

        # Of a column of its own: Polars would send a filter by a function into the source, which takes another package.
        drawn = pl.struct(by).map_batches(chosen, return_dtype=pl.Boolean, is_elementwise=True).alias(_DRAWN)
        return rows.with_columns(drawn).filter(pl.col(_DRAWN)).drop(_DRAWN, *stage.drop)

    def sample_partition(source: Path) -> pl.LazyFrame:
        drawn = [rows.select(ROW, draws(rows).alias("draw")) for rows in parts(source, [*by, ROW])]
        kept = pl.concat(drawn).unique(ROW).sort("draw", ROW).head(options.rows or 0) if drawn else None
        rows = pl.scan_parquet(source).drop(stage.drop)
        return rows if kept is None else rows.filter(pl.col(ROW).is_in(kept[ROW].to_list()))

    after = pa.schema([field for field in setup.columns if field.name not in stage.drop])
    return TableStage(
        spec=stage,
        columns=after,
        fingerprint=digest(VERSION, options.model_dump_json(), str(by), str(stage.drop), str(stage.version)),
        apply=apply,
        provenance=Provenance(stage=stage.name, uses="sample"),
        run_on_partition=sample_partition if options.rows is not None else None,
        lazily=lazily if options.rate is not None else None,
    )


def _columns(setup: StageSetup, options: SampleOptions) -> list[str]:
    available = [name for name in setup.columns.names if name not in (ROW, REJECTED)]
    for name in options.by:
        if name not in available:
            raise SpecError(f"{setup.where}: with.by names {name!r}, which is no column here.")
    key = setup.spec.source.key
    return options.by or (key if key and set(key) <= set(available) else sorted(available))
