"""Apply a stage to a table of rows: the one place that implements its contract.

    answers of a graph stage ─┐
                              ├─→ the rows after it, in the declared columns and types; removed rows, rejected rows, why
    a table stage ────────────┘

Enrichment, the count of calls, `tandem try` and publishing use it: each step maps each row after it to the row before
it. Nothing here knows how rows are read, what answers cost, or what is stored.
"""

import tempfile
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import orjson
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq

from schemas.tables import answer_columns, conform, stored_schema
from stages.contract import REJECTED, ROW, AnyStage, GraphStage, TableStage, query_failed
from stages.execution.questions import PENDING
from stages.journal.records import RowRecord
from stages.tables.partition_rows import parts

Cause = Literal["rejected", "filtered", "pending"]


@dataclass(frozen=True)
class RowTable:
    """Rows on their way through the stages. `frame` holds `columns` and ROW, the position of the source row that a row
    was made from. A row's *place* is its number in the frame."""

    frame: pl.DataFrame
    columns: pa.Schema

    @classmethod
    def of_source(cls, rows: pl.DataFrame, columns: pa.Schema) -> "RowTable":
        """Return rows as the source has them, each at its own position."""
        return cls(rows.with_columns(pl.int_range(pl.len(), dtype=pl.Int64).alias(ROW)), columns)

    @property
    def positions(self) -> list[int]:
        return self.frame[ROW].to_list()

    def filtered(self, kept: Sequence[bool]) -> "RowTable":
        return RowTable(self.frame.filter(pl.Series(kept, dtype=pl.Boolean)), self.columns)

    def to_arrow(self) -> pa.Table:
        """Return the rows in the declared columns and types, without their positions."""
        return conform(self.frame.drop(ROW).to_arrow(), self.columns)


@dataclass(frozen=True)
class RowAnswer:
    """The result of a graph stage for one row: its answer, JSON-like; None if it was rejected, or is `pending`."""

    values: dict[str, Any] | None = None
    pending: bool = False


def answer_of(record: RowRecord) -> RowAnswer:
    """Return the answer that a record holds."""
    if record.status == "ok":
        return RowAnswer(orjson.loads(record.answer or "{}"))
    return RowAnswer(pending=record.status == PENDING)


@dataclass(frozen=True)
class RejectedRow:
    """The place of a rejected row before the stage. A table stage adds its reason, and the columns that this reason
    reads; a graph stage's reasons are stored with its answers."""

    place: int
    reason: str | None = None
    columns: frozenset[str] = frozenset()


@dataclass(frozen=True)
class Step:
    """One stage's change of a table: the rows after it, and of each the place before it (`origins`). `left` are the
    places whose rows go no further. A rejected row is one of them unless the stage has `on_reject: null`."""

    table: RowTable
    origins: list[int]
    rejected: list[RejectedRow] = field(default_factory=list)
    left: dict[int, Cause] = field(default_factory=dict)


def take_answers(stage: GraphStage, table: RowTable, answers: Sequence[RowAnswer]) -> Step:
    """Join the answers of a graph stage to its rows, one each in their order. Rejected rows leave or stay with null
    outputs; with a pending row all rows of its source row leave."""
    positions = table.positions
    pending = {position for position, answer in zip(positions, answers, strict=True) if answer.pending}
    rejected: list[RejectedRow] = []
    left: dict[int, Cause] = {}
    for place, (position, answer) in enumerate(zip(positions, answers, strict=True)):
        is_rejected = answer.values is None and not answer.pending
        if is_rejected:
            rejected.append(RejectedRow(place))
        if position in pending:
            left[place] = "pending"
        elif is_rejected and stage.spec.on_reject == "drop":
            left[place] = "rejected"
    columns = answer_columns([answer.values for answer in answers], stage.fields)
    origins = [place for place in range(len(positions)) if place not in left]
    return Step(take_outputs(stage, table, columns, left), origins, rejected, left)


def take_outputs(
    stage: GraphStage, table: RowTable, outputs: Mapping[str, pa.Array], left: Collection[int]
) -> RowTable:
    """Join the outputs of a graph stage to its rows, in their order, without the rows at the places that `left`."""
    frame = table.frame.with_columns(pl.Series(name, values) for name, values in outputs.items())
    if left:
        frame = frame.filter(~pl.int_range(pl.len()).is_in(list(left)))
    return _declared(stage, table, frame)


def apply_stage(stage: TableStage, table: RowTable) -> Step:
    """Reject rows, then apply a table stage to the others; a barrier takes the table as the whole partition. Raises
    PartitionError, ChecksFailed."""
    frame = _places(table.frame)
    rejected: list[RejectedRow] = []
    left: dict[int, Cause] = {}
    if stage.reject_reason is not None:
        reasons = stage.reject_reason(frame)
        rejected = [
            RejectedRow(place, reason, stage.columns_checked[reason])
            for place, reason in enumerate(reasons.to_list())
            if reason is not None
        ]
        if stage.spec.on_reject == "drop":
            left.update((reject.place, "rejected") for reject in rejected)
            frame = frame.filter(reasons.is_null())
    after = _as_partition(stage, frame) if stage.is_barrier else stage.apply(frame)
    if not stage.keeps_rows:  # grouped: no row after it is one of those before
        return Step(_declared(stage, table, _places(after)), [], rejected, left)
    origins = after[ROW].to_list()
    kept = set(origins)
    left.update((place, "filtered") for place in range(table.frame.height) if place not in kept and place not in left)
    positions = table.frame[ROW].gather(after[ROW])
    return Step(_declared(stage, table, after.with_columns(positions)), origins, rejected, left)


def apply_to_file(stage: TableStage, source: Path, target: Path, *, keeps_rows: bool) -> None:
    """Apply a table stage to a partition in a local Parquet file, with the columns ROW and REJECTED; write its rows
    with both to another file. Without `keeps_rows` they are numbered anew, and none is rejected. Streamed, or some rows
    at a time. Raises PartitionError, ChecksFailed."""
    try:
        if stage.run_on_partition is None:
            _apply_by_parts(stage, source, target)
            return
        result = stage.run_on_partition(source)
        if not keeps_rows:  # later stages look for the columns all the same
            result = result.drop(ROW, REJECTED, strict=False).with_row_index(ROW)
            result = result.with_columns(pl.col(ROW).cast(pl.Int64), pl.lit(False).alias(REJECTED))
        result.sink_parquet(target, compression="zstd", compression_level=1)
    except pl.exceptions.PolarsError as exc:
        raise query_failed(f"stage {stage.name}", exc) from exc


def in_file(columns: pa.Schema) -> pa.Schema:
    """Return the columns of a partition's file between two stages."""
    return pa.schema([*stored_schema(columns), pa.field(ROW, pa.int64()), pa.field(REJECTED, pa.bool_())])


def _apply_by_parts(stage: TableStage, source: Path, target: Path) -> None:
    schema = in_file(stage.columns)
    with pq.ParquetWriter(target, schema, compression="zstd", compression_level=1) as writer:
        for rows in parts(source):
            marks = rows.select(ROW, REJECTED).unique(ROW)
            made = stage.apply(rows.drop(REJECTED)).join(marks, on=ROW, how="left", maintain_order="left")
            writer.write_table(conform(made.to_arrow(), schema))


def _as_partition(stage: TableStage, frame: pl.DataFrame) -> pl.DataFrame:
    """Return a barrier's result over rows in memory."""
    with tempfile.TemporaryDirectory(prefix="tandem-") as folder:
        source, target = Path(folder) / "rows.parquet", Path(folder) / "after.parquet"
        frame.with_columns(pl.lit(False).alias(REJECTED)).write_parquet(source)
        apply_to_file(stage, source, target, keeps_rows=stage.keeps_rows)
        return pl.read_parquet(target).drop(REJECTED)


def _places(frame: pl.DataFrame) -> pl.DataFrame:
    """Return the frame with the places of its rows in ROW, so that a stage's rows can be traced back."""
    return frame.with_columns(pl.int_range(pl.len(), dtype=pl.Int64).alias(ROW))


def _declared(stage: AnyStage, before: RowTable, frame: pl.DataFrame) -> RowTable:
    """Return the declared columns, in the declared order and types, with the positions."""
    columns = stored_schema(stage.columns_after(before.columns))
    declared = conform(frame.drop(ROW).to_arrow(), columns)
    return RowTable(pl.DataFrame(declared).with_columns(frame[ROW]), columns)
