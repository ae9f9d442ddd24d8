"""Stages over a whole partition: they run at publishing, over the staged data of its batches.

staged batches → one local Parquet file → stage, stage, … each streamed from file to file → staged again → final files

Rows keep the number of their source row (ROW) while a stage keeps rows apart, so that counts stay in source rows: a
source row that is in the result is ok, one that a stage left out is filtered. Once a stage groups rows, every source
row that reached it is ok.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.enrichment.staging import StagingFolder, staged_tables
from pipeline.planning.job import Job
from pipeline.stores.parquet import batches_of
from pipeline.stores.scratch_folder import Folder
from schemas.arrow_tables import empty_table
from schemas.errors import PartitionError
from schemas.manifest import Counts
from schemas.staging import Receipt, StagedFile
from schemas.tables import conform
from stages.contract import REJECTED, ROW
from stages.execution.row_flow import apply_to_file, in_file

OUT_ROWS = 100_000


@dataclass(frozen=True)
class StageResult:
    """The staged data to publish, and the partition's counts."""

    data: list[StagedFile]
    counts: Counts


def run_stages(
    job: Job, staging: StagingFolder, receipts: Sequence[Receipt], counts: Counts, folder: Folder
) -> StageResult:
    """Run the stages behind the barrier over the batches' data; unchanged if there are none. Raises PartitionError."""
    staged = [receipt.data for receipt in receipts]
    stages = job.partition_stages
    if not stages:
        return StageResult(staged, counts)
    rows = folder / "barrier-rows.parquet"
    _gather(job, staging, staged, [receipt.counts.rows_in for receipt in receipts], rows)
    ok: int | None = None
    for number, stage in enumerate(stages):
        if not stage.keeps_rows and ok is None:
            ok = _ok(rows)
        after = folder / f"barrier-{number}.parquet"
        apply_to_file(stage, rows, after, keeps_rows=ok is None)
        rows.unlink()
        rows = after
    ok = _ok(rows) if ok is None else ok
    data = _stage_result(job, staging, rows)
    filtered = counts.rows_in - ok - counts.rejected - counts.pending
    out = sum(file.rows for file in data)
    return StageResult(data, counts.model_copy(update={"ok": ok, "filtered": filtered, "out": out}))


def _gather(
    job: Job, staging: StagingFolder, staged: Sequence[StagedFile], batches: Sequence[int], target: Path
) -> None:
    """Write one local file, its rows numbered over the partition."""
    columns = job.snapshot.schema
    for stage in job.stages[: job.barrier]:
        columns = stage.columns_after(columns)
    schema = in_file(columns)
    before = 0
    with pq.ParquetWriter(target, schema, compression="zstd", compression_level=1) as writer:
        for file, rows in zip(staged, batches, strict=True):
            for table in staged_tables(staging.store, file):
                numbers = pl.Series(table[ROW]) + before
                numbered = table.set_column(table.column_names.index(ROW), ROW, numbers.to_arrow())
                writer.write_table(numbered.select(schema.names).cast(schema))
            before += rows


def _ok(rows: Path) -> int:
    """Count source rows that are there and were not rejected."""
    return int(pl.scan_parquet(rows).filter(~pl.col(REJECTED)).select(pl.col(ROW).n_unique()).collect().item())


def _stage_result(job: Job, staging: StagingFolder, rows: Path) -> list[StagedFile]:
    schema = job.columns
    files: list[StagedFile] = []
    with pq.ParquetFile(rows) as file:
        for batch in batches_of(file, OUT_ROWS):
            table = pa.Table.from_batches([batch])
            if missing := set(schema.names).difference(table.column_names):
                raise PartitionError(f"the column {min(missing)!r} is gone behind the barrier: a bug of Tandem's.")
            files.append(staging.write_table(len(files), "passed", conform(table.select(schema.names), schema)))
    return files or [staging.write_table(0, "passed", empty_table(schema))]
