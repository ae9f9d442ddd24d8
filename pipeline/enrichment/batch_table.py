"""The batch's table on its way through the stages, and what became of each source row."""

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import orjson
import polars as pl
import pyarrow as pa

from pipeline.enrichment.attempt import BatchAttempt
from pipeline.review.questions import PENDING, lines_of
from pipeline.sinks.row_files import INDEX, REJECTS
from schemas.manifest import Counts, Reuse, Share, Shares, shares_added
from schemas.messages.batch import RowsOfBatch
from schemas.staging import Receipt
from stages.contract import BY, REJECTED, ROW, AnyStage, GraphStage, TableStage
from stages.execution.batch import answer_of
from stages.execution.provenance import RowProvenance
from stages.execution.row_flow import RejectedRow, RowTable, apply_stage, take_answers
from stages.execution.unsettled import ID, unsettled
from stages.journal.fingerprints import fingerprints, row_ids
from stages.journal.known import Known
from stages.journal.records import CallKey, CallRecord, RowKey, RowRecord


class BatchTable:
    """The batch's table on its way through the stages, and what became of each source row."""

    def __init__(self, attempt: BatchAttempt, rows: pl.DataFrame) -> None:
        self.job = attempt.job
        self.attempt = attempt
        self.source = rows
        self.ids = row_ids(rows, self.job.spec.source.key)
        self.table = RowTable.of_source(rows, self.job.snapshot.schema)
        self.rejects: list[tuple[int, dict[str, Any]]] = []
        self.answered: dict[int, list[tuple[GraphStage, RowRecord]]] = {}
        self.pending: dict[int, list[dict[str, Any]]] = {}
        self.parked: set[int] = set()
        self.rejected: set[int] = set()
        self.reused: set[int] = set()
        self.shared: set[int] = set()
        self.first: dict[RowKey, int] = {}
        self.asked: set[int] = set()
        self.shares: Shares = {}
        self.provenance = RowProvenance() if self.job.spec.sink.provenance == "columns" else None

    def current_ids(self) -> list[str]:
        return [self.ids[at] for at in self.table.positions]

    def left_to_run(self, stage: GraphStage, known: Known) -> RowsOfBatch | None:
        """The rows that the stage has not settled, where each of them is a workflow of its own."""
        left = unsettled(stage, self.table.frame, self.current_ids(), known)
        if not left.height:
            return None
        staged = self.attempt.staging.write_table(self.attempt.number, "rows", left.to_arrow())
        return RowsOfBatch(stage=stage.name, rows=staged.key, ids=tuple(left[ID]))

    def take(self, stage: GraphStage, records: Sequence[RowRecord]) -> None:
        """Join a graph stage's answers to the rows, and account for each of them."""
        values = self.table.frame.select(stage.reads)
        for place, (at, record) in enumerate(zip(self.table.positions, records, strict=True)):
            self._count(at, record)
            if self.provenance is not None:
                self.provenance.add(at, self.ids[at], stage, record)
            if record.status == "ok":
                self.answered.setdefault(at, []).append((stage, record))
            elif record.status == "pending":
                self._park(at, stage, record, values.row(place, named=True) if stage.reads else {})
            else:
                self._reject(at, stage, record)
        self.table = take_answers(stage, self.table, [answer_of(record) for record in records]).table

    def apply(self, stage: TableStage) -> None:
        """Apply a table stage, and account for the rows that it has a reason against."""
        step = apply_stage(stage, self.table)
        positions = self.table.positions
        for reject in step.rejected:
            self._refuse(positions[reject.place], stage, reject)
        self.table = step.table

    def _count(self, at: int, record: RowRecord) -> None:
        """Where an answer came from: another run's journal, an equal row of this run (which a row that
        takes no call need not share), or this row's own calls."""
        if record.run != self.attempt.run:
            self.reused.add(at)
        elif record.calls and (record.shared or self.first.setdefault(record.key, at) != at):
            self.shared.add(at)
        else:
            self.asked.add(at)

    def share(self, stage: GraphStage, records: Sequence[RowRecord], calls: Mapping[CallKey, CallRecord]) -> None:
        """Which model answered how many rows, where the stage's models take turns; and what each was asked for them, as
        far as the journal has it at hand."""
        answered = {record.key: record for record in records if _taken(record)}
        if not answered:
            return
        rows = Counter(record.key for record in records)
        roles = {choice.name: role for role, choice in stage.spec.model.items()}
        for key, record in answered.items():
            by = orjson.loads(record.answer or "{}")[BY]
            self._shared(stage, by, Share(rows=rows[key]))
            for call in (calls[asked] for asked in record.calls if asked in calls):
                self._shared(stage, roles.get(call.model, by), Share(calls=1, cost_usd=call.cost_usd or 0.0))

    def _shared(self, stage: GraphStage, role: str, share: Share) -> None:
        self.shares = shares_added(self.shares, {stage.name: {role: share}})

    def _reject(self, at: int, stage: GraphStage, record: RowRecord) -> None:
        error = record.error or {}
        said = {
            "attempts": int(error.get("calls", 0)),
            "message": error.get("message", ""),
            "raw_answer": error.get("raw"),
            "stage_fingerprint": stage.fingerprint,
            "row_fingerprint": record.row,
            "calls": orjson.dumps(record.calls).decode(),
            "answered": False,
        }
        self._rejected(at, stage, error.get("kind", "unknown"), said)

    def _rejected(self, at: int, stage: AnyStage, error: str, said: dict[str, Any]) -> None:
        shared = {
            "row_id": self.ids[at],
            "key": orjson.dumps(self._key(at), default=str).decode(),
            "stage": stage.name,
            "error": error,
        }
        self.rejected.add(at)
        self.rejects.append((at, {**shared, **said}))

    def _park(self, at: int, stage: GraphStage, record: RowRecord, row: dict[str, Any]) -> None:
        waits = stage.spec.pending == "wait"
        said = lines_of(record, key=self._key(at), stage=stage.name, row=row, waits=waits)
        self.pending.setdefault(at, []).extend({"row_id": self.ids[at], **line} for line in said)
        if waits:
            self.parked.add(at)

    def _key(self, at: int) -> dict[str, Any]:
        return {name: self.source[name][at] for name in self.job.spec.source.key or self.source.columns}

    def _refuse(self, at: int, stage: TableStage, reject: RejectedRow) -> None:
        said = self._answer_behind(at, reject.columns)
        message = f"the check {reject.reason!r} does not hold"
        self._rejected(at, stage, reject.reason or "", {**said, "message": message})

    def _answer_behind(self, at: int, judged: frozenset[str]) -> dict[str, Any]:
        """Of the answers of a source row the last that wrote one of these columns, or that a column may be made from
        which no model wrote. None where the source says what they say, nor of a row that was exploded: which of its
        parts is not known."""
        answered = self.answered.get(at, [])
        wrote = [(stage, record) for stage, record in answered if stage.fields.keys() & judged]
        written = {name for stage in self.job.stages for name in stage.fields}
        if not wrote and judged - written - set(self.source.columns):
            wrote = answered
        if not wrote or [stage for stage, _ in wrote].count(wrote[-1][0]) > 1:
            nobody = {"stage_fingerprint": "", "row_fingerprint": "", "calls": "[]", "answered": False}
            return {"attempts": 0, "raw_answer": None, **nobody}
        stage, record = wrote[-1]
        return {
            "attempts": len(record.calls),
            "raw_answer": record.answer,
            "stage_fingerprint": stage.fingerprint,
            "row_fingerprint": record.row,
            "calls": orjson.dumps(record.calls).decode(),
            "answered": True,
        }

    def counts(self) -> Counts:
        kept = set(self.table.positions)
        total = self.source.height
        rejected = self.rejected - self.pending.keys()  # a row may be rejected by one stage and parked by the next
        ok = len(kept - rejected)
        return Counts(
            rows_in=total,
            ok=ok,
            rejected=len(rejected),
            filtered=total - ok - len(rejected) - len(self.pending),
            pending=len(self.pending),
            out=self.table.frame.height,
        )

    def stage_files(self, calls_reused: int) -> Receipt:
        """Write data, index, rejects and questions, each under its own digest."""
        number, staging = self.attempt.number, self.attempt.staging
        keys = set(self.job.snapshot.info.key_columns)
        table, positions = self.table.to_arrow(), self.table.positions
        if self.job.barrier < len(self.job.stages):  # what counts its rows is still to come
            table = table.append_column(ROW, pa.array(positions, pa.int64()))
            table = table.append_column(REJECTED, pa.array([at in self.rejected for at in positions], pa.bool_()))
        else:
            table = table.select([name for name in table.column_names if name not in keys])
            if self.provenance is not None:
                table = self.provenance.appended(table, positions)
        content = fingerprints(self.source, self.source.columns)
        index = pa.table([pa.array(self.ids, pa.string()), pa.array(content, pa.string())], schema=INDEX)
        said = [line for at, line in self.rejects if at not in self.pending]
        asked = [line for lines in self.pending.values() for line in lines]
        rejects = pa.Table.from_pylist(said, schema=REJECTS) if said else None
        pending = pa.Table.from_pylist(asked, schema=PENDING) if asked else None
        both = self.reused - self.asked - self.shared
        return Receipt(
            batch=number,
            data=staging.write_table(number, "data", table),
            index=staging.write_table(number, "index", index),
            rejects=staging.write_table(number, "rejects", rejects) if rejects is not None else None,
            pending=staging.write_table(number, "pending", pending) if pending is not None else None,
            parked=len(self.parked),
            counts=self.counts(),
            shares=self.shares,
            reuse=Reuse(rows_reused=len(both), calls_reused=calls_reused, rows_shared=len(self.shared - self.asked)),
        )


def _taken(record: RowRecord) -> bool:
    """Whether the answer says whose turn it was."""
    return record.answer is not None and BY in record.answer
