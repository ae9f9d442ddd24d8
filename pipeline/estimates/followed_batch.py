"""One batch on its way through the stages with the answers that are known: what each graph stage would be asked.

A row that has to be asked is followed with what is sure of it: later stages then have ranges.
"""

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import polars as pl

from pipeline.planning.job import Job
from schemas.errors import RowError
from stages.contract import ROW, Answered, GraphStage, TableStage, graph_stages
from stages.execution.batch import answer_of
from stages.execution.replay import replay
from stages.execution.row_flow import RowAnswer, RowTable, apply_stage, take_answers
from stages.journal.fingerprints import fingerprints, row_ids
from stages.journal.known import Known


@dataclass
class CountedRows:
    """Row fingerprints that a stage would be asked for: surely, or perhaps; `rows` more at most, of which nothing is
    known yet. By their hashes, which take a third of the memory: they are only counted."""

    sure: set[int] = field(default_factory=set)
    maybe: set[int] = field(default_factory=set)
    rows: int = 0
    measured: int = 0
    prompt_bytes: int = 0


class FollowedBatch:
    """One batch on its way. `sure` rows arrive, with all their columns known; of `open` ones an earlier answer is still
    to be asked: the frame has what is known of them, and some may have left by then."""

    def __init__(self, job: Job, rows: pl.DataFrame, known: Known) -> None:
        self.job = job
        self.known = known
        self.ids = row_ids(rows, job.spec.source.key)
        self.sure = RowTable.of_source(rows, job.snapshot.schema)
        self.open = self.sure.frame.clear()
        self.open_may_leave = False
        self.called = {record.id for record in known.calls.values()}

    def through(self, asked: Sequence[CountedRows]) -> None:
        """Follow the rows as far as the last graph stage: what comes after it asks nothing."""
        counts = dict(zip((stage.name for stage in graph_stages(self.job.stages)), asked, strict=True))
        for stage in self.job.stages:
            if not counts:
                return
            if isinstance(stage, GraphStage):
                self._graph(stage, counts.pop(stage.name), last=not counts)
            else:
                self._table(stage)

    def _graph(self, stage: GraphStage, asked: CountedRows, *, last: bool) -> None:
        prints, answers = self._answers(stage, self.sure.frame, asked)
        to_ask = {row for row in prints if row not in answers}
        asked.sure.update(map(hash, to_ask))
        self._open_ones(stage, asked)
        if last:
            return
        waits = [row in to_ask for row in prints]
        self._open(stage, self.sure.filtered(waits).frame)
        answered = self.sure.filtered([not wait for wait in waits])
        self.sure = take_answers(stage, answered, [answers[row] for row in prints if row not in to_ask]).table

    def _answers(
        self, stage: GraphStage, rows: pl.DataFrame, asked: CountedRows
    ) -> tuple[list[str], dict[str, RowAnswer]]:
        """The rows' fingerprints, and the answers that need no call."""
        prints = fingerprints(rows, stage.reads)
        positions = rows[ROW].to_list()
        values = rows.select(stage.reads)
        answers: dict[str, RowAnswer] = {}
        replays: list[tuple[str, str, dict[str, Any]]] = []
        for at, row in enumerate(prints):
            if row in answers or hash(row) in asked.sure or hash(row) in asked.maybe:
                continue
            record = self.known.rows.get((stage.fingerprint, row))
            if record is not None:
                answers[row] = answer_of(record)
                continue
            try:
                prepared = stage.prepare(values.row(at, named=True) if stage.reads else {})
            except RowError:
                answers[row] = RowAnswer()
                continue
            if isinstance(prepared, Answered):
                answers[row] = RowAnswer(prepared.answer)
                continue
            if stage.calls == (1, 1) and (id := self.ids[positions[at]]) in self.called:
                replays.append((row, id, prepared))
            asked.measured += 1
            asked.prompt_bytes += _size(prepared)
        if replays:
            found = asyncio.run(replay(stage, self.known, replays))
            answers |= {row: RowAnswer(answer) for row, answer in found.items()}
        return prints, answers

    def _open_ones(self, stage: GraphStage, asked: CountedRows) -> None:
        if not self.open.height:
            return
        if not set(stage.reads) <= set(self.open.columns):
            asked.rows += self.open.height
            return
        prints, answers = self._answers(stage, self.open, asked)
        counted = asked.maybe if self.open_may_leave else asked.sure
        counted.update(hash(row) for row in prints if row not in answers)

    def _open(self, stage: GraphStage, waiting: pl.DataFrame) -> None:
        """Rows join those of which something is not known; what this stage writes is not known of any of them."""
        known = [stage.known_after(rows) for rows in (self.open, waiting) if rows.height] or [waiting.select(ROW)]
        shared = [name for name in known[0].columns if name in known[-1].columns]
        self.open = pl.concat([rows.select(shared) for rows in known])
        self._may_leave(stage)

    def _table(self, stage: TableStage) -> None:
        self.open = stage.known_after(self.open)
        self.sure = apply_stage(stage, self.sure).table
        self._may_leave(stage)

    def _may_leave(self, stage: GraphStage | TableStage) -> None:
        self.open_may_leave = bool(self.open.height) and (self.open_may_leave or stage.may_drop_rows)


def _size(prepared: Mapping[str, Any]) -> int:
    messages = prepared.get("messages", [])
    try:
        return sum(len(str(message.content).encode()) for message in messages) or len(str(prepared).encode())
    except AttributeError:
        return len(str(prepared).encode())
