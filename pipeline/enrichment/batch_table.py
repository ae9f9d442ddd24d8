"""The batch's table between its stages, and the outcome of each source row."""

from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import orjson
import polars as pl
import pyarrow as pa

from pipeline.enrichment.attempt import BatchAttempt
from pipeline.enrichment.row_digests import IDENTITY, BatchDigests
from pipeline.review.questions import PENDING, question_rows
from pipeline.sinks.row_files import REJECTS, index_table
from schemas.arrow_tables import array_of, table_of_rows
from schemas.manifest import Answerers, Counts, Reuse, Share, Shares, shares_added
from schemas.messages.batch import RowsOfBatch
from schemas.staging import Receipt
from stages.contract import BY, REJECTED, ROW, AnyStage, GraphStage, TableStage
from stages.execution.answered_rows import AnsweredRows
from stages.execution.provenance import RowProvenance
from stages.execution.row_flow import RejectedRow, RowTable, answer_of, apply_stage, take_answers, take_outputs
from stages.execution.unsettled import ID, unsettled
from stages.journal.fingerprints import digests, row_ids
from stages.journal.known import Known
from stages.journal.records import CallKey, CallRecord, RowKey, RowRecord
from stages.observer import RowOutcome


@dataclass(frozen=True)
class _KnownRows:
    """Outcomes of a stage, with the positions of their rows."""

    positions: list[int]
    found: AnsweredRows

    @cached_property
    def places(self) -> dict[int, list[int]]:
        """The places at which each position is."""
        places: dict[int, list[int]] = {}
        for place, position in enumerate(self.positions):
            places.setdefault(position, []).append(place)
        return places


class BatchTable:
    """The batch's table between its stages, and the outcome of each source row. Rows are named by their position."""

    def __init__(self, attempt: BatchAttempt, rows: pl.DataFrame, known: BatchDigests | None = None) -> None:
        self.job = attempt.job
        self.attempt = attempt
        self.source = rows
        self.digests = known or BatchDigests({})
        ids = self.digests.texts(IDENTITY)
        self.ids = row_ids(rows, self.job.spec.source.key) if ids is None else ids.to_list()
        self.table = RowTable.of_source(rows, self.job.snapshot.schema)
        self.rejects: list[tuple[int, dict[str, Any]]] = []
        self.answered: dict[int, list[tuple[GraphStage, RowRecord]]] = {}
        self.known: list[_KnownRows] = []
        self.pending: dict[int, list[dict[str, Any]]] = {}
        self.parked: set[int] = set()
        self.rejected: set[int] = set()
        self.reused: set[int] = set()
        self.shared: set[int] = set()
        self.first: dict[RowKey, int] = {}
        self.called: set[int] = set()
        self.shares: Shares = {}
        self.answered_by: defaultdict[str, Counter[tuple[str, str]]] = defaultdict(Counter)
        self.provenance = RowProvenance() if self.job.spec.sink.provenance == "columns" else None

    def current_ids(self) -> list[str]:
        return [self.ids[position] for position in self.table.positions]

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
        for place, (row, record) in enumerate(zip(self.table.positions, records, strict=True)):
            self._count(row, record)
            if self.provenance is not None:
                self.provenance.add(row, self.ids[row], stage, record)
            if record.status == "ok":
                self.answered_by[stage.name].update((record.by or {}).items())
                self.answered.setdefault(row, []).append((stage, record))
            elif record.status == "pending":
                self._park(row, stage, record, values.row(place, named=True) if stage.reads else {})
            else:
                self._reject(row, stage, record)
        self.table = take_answers(stage, self.table, [answer_of(record) for record in records]).table

    def take_columns(self, found: AnsweredRows) -> None:
        """Do as `take` does, with outcomes of earlier runs that are there for all rows."""
        stage, positions = found.stage, self.table.positions
        self.reused.update(positions)
        if answered_by := found.answered_by():
            self.answered_by[stage.name].update(answered_by)
        rejected = found.rejected
        for place in rejected:
            self._reject(positions[place], stage, found.record(place))
        self.known.append(_KnownRows(positions, found))
        left = rejected if stage.spec.on_reject == "drop" else ()
        self.table = take_outputs(stage, self.table, found.outputs(), left)

    def apply(self, stage: TableStage) -> None:
        """Apply a table stage, and account for the rows that it rejects."""
        step = apply_stage(stage, self.table)
        positions = self.table.positions
        for reject in step.rejected:
            self._refuse(positions[reject.place], stage, reject)
        self.table = step.table

    def _count(self, row: int, record: RowRecord) -> None:
        """Count the source of an answer: another run's journal, an equal row of this run (which a row that takes no
        call need not share), or this row's own calls."""
        if record.run != self.attempt.run:
            self.reused.add(row)
        elif record.calls and (record.shared or self.first.setdefault(record.key, row) != row):
            self.shared.add(row)
        else:
            self.called.add(row)

    def share(self, stage: GraphStage, records: Sequence[RowRecord], calls: Mapping[CallKey, CallRecord]) -> None:
        """Count the rows and calls of each model, where the stage's models take turns; calls as far as the journal has
        them loaded."""
        answered = {record.key: record for record in records if _names_model(record)}
        if not answered:
            return
        rows = Counter(record.key for record in records)
        roles = {one.name: role for role, choice in stage.spec.model.items() for one in (choice, *choice.others)}
        for key, record in answered.items():
            by = orjson.loads(record.answer or "{}")[BY]
            self._shared(stage, by, Share(rows=rows[key]))
            for call in (calls[key] for key in record.calls if key in calls):
                self._shared(stage, roles.get(call.model, by), Share(calls=1, cost_usd=call.cost_usd or 0.0))

    def _shared(self, stage: GraphStage, role: str, share: Share) -> None:
        self.shares = shares_added(self.shares, {stage.name: {role: share}})

    def _reject(self, row: int, stage: GraphStage, record: RowRecord) -> None:
        error = record.error or {}
        details = {
            "attempts": int(error.get("calls", 0)),
            "message": error.get("message", ""),
            "raw_answer": error.get("raw"),
            "stage_fingerprint": stage.fingerprint,
            "row_fingerprint": record.row,
            "calls": orjson.dumps(record.calls).decode(),
            "answered": False,
        }
        self._rejected(row, stage, error.get("kind", "unknown"), details)

    def _rejected(self, row: int, stage: AnyStage, error: str, details: dict[str, Any]) -> None:
        shared = {
            "row_id": self.ids[row],
            "key": orjson.dumps(self._key(row), default=str).decode(),
            "stage": stage.name,
            "error": error,
        }
        self.rejected.add(row)
        self.rejects.append((row, {**shared, **details}))

    def _park(self, row: int, stage: GraphStage, record: RowRecord, values: dict[str, Any]) -> None:
        waits = stage.spec.pending == "wait"
        lines = question_rows(record, key=self._key(row), stage=stage.name, row=values, waits=waits)
        self.pending.setdefault(row, []).extend({"row_id": self.ids[row], **line} for line in lines)
        if waits:
            self.parked.add(row)

    def _key(self, row: int) -> dict[str, Any]:
        return {name: self.source[name][row] for name in self.job.spec.source.key or self.source.columns}

    def _refuse(self, row: int, stage: TableStage, reject: RejectedRow) -> None:
        answer = self._last_answer_to(row, reject.columns)
        message = f"the check {reject.reason!r} does not hold"
        self._rejected(row, stage, reject.reason or "", {**answer, "message": message})

    def _last_answer_to(self, row: int, judged: frozenset[str]) -> dict[str, Any]:
        """Return the last answer of a source row that wrote one of these columns, or that a column may be computed from
        if no model wrote it. An empty answer if the columns are the source's, or if the row was exploded, as its part
        is not known."""
        answered = self._answers_to(row)
        wrote = [(stage, record) for stage, record in answered if stage.fields.keys() & judged]
        written = {name for stage in self.job.stages for name in stage.fields}
        if not wrote and judged - written - set(self.source.columns):
            wrote = answered
        if not wrote or [stage for stage, _ in wrote].count(wrote[-1][0]) > 1:
            no_answer = {"stage_fingerprint": "", "row_fingerprint": "", "calls": "[]", "answered": False}
            return {"attempts": 0, "raw_answer": None, **no_answer}
        stage, record = wrote[-1]
        return {
            "attempts": len(record.calls),
            "raw_answer": record.answer,
            "stage_fingerprint": stage.fingerprint,
            "row_fingerprint": record.row,
            "calls": orjson.dumps(record.calls).decode(),
            "answered": True,
        }

    def _answers_to(self, row: int) -> list[tuple[GraphStage, RowRecord]]:
        """Return the answers to a source row so far, with their stages."""
        found = list(self.answered.get(row, ()))
        for known in self.known:
            records = (known.found.record(place) for place in known.places.get(row, ()))
            found += [(known.found.stage, record) for record in records if record.status == "ok"]
        return found

    def outcomes(self) -> Iterator[RowOutcome]:
        """Yield the outcome of each source row, as `counts` has them."""
        kept, rejects = set(self.table.positions), dict(self.rejects)
        for row, id in enumerate(self.ids):
            if row in self.pending:
                yield RowOutcome(id, "pending")
            elif row in self.rejected:
                yield RowOutcome(id, "rejected", rejects[row]["error"], rejects[row]["stage"])
            else:
                yield RowOutcome(id, "ok" if row in kept else "filtered")

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
        if self.job.barrier < len(self.job.stages):  # stages over the whole partition follow
            table = table.append_column(ROW, array_of(positions, pa.int64()))
            table = table.append_column(REJECTED, array_of([row in self.rejected for row in positions], pa.bool_()))
        else:
            table = table.select([name for name in table.column_names if name not in keys])
            if self.provenance is not None:
                table = self.provenance.append_to(table, positions)
        index = self.digests.index()
        if index is None:
            index = index_table(bytes.fromhex("".join(self.ids)), digests(self.source, self.source.columns))
        reject_lines = [line for row, line in self.rejects if row not in self.pending]
        pending_lines = [line for lines in self.pending.values() for line in lines]
        rejects = table_of_rows(reject_lines, REJECTS) if reject_lines else None
        pending = table_of_rows(pending_lines, PENDING) if pending_lines else None
        reused = self.reused - self.called - self.shared
        return Receipt(
            batch=number,
            data=staging.write_table(number, "data", table),
            index=staging.write_table(number, "index", index),
            rejects=staging.write_table(number, "rejects", rejects) if rejects is not None else None,
            pending=staging.write_table(number, "pending", pending) if pending is not None else None,
            parked=len(self.parked),
            counts=self.counts(),
            shares=self.shares,
            answered_by=_by_model(self.answered_by),
            reuse=Reuse(rows_reused=len(reused), calls_reused=calls_reused, rows_shared=len(self.shared - self.called)),
        )


def _by_model(found: Mapping[str, Mapping[tuple[str, str], int]]) -> Answerers:
    out: Answerers = {}
    for stage, counts in found.items():
        for (asked, answered), rows in sorted(counts.items()):
            out.setdefault(stage, {}).setdefault(asked, {})[answered] = rows
    return out


def _names_model(record: RowRecord) -> bool:
    """True if the answer names the model that gave it."""
    return record.answer is not None and BY in record.answer
