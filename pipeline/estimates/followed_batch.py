"""One batch through the stages with the answers that are known, to count the rows that each graph stage needs.

A row that needs a call is followed with its known values: later stages then have ranges.
"""

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import polars as pl

from pipeline.journal.answers.calls import CallFinder
from pipeline.planning.job import Job
from schemas.errors import RowError
from stages.contract import ROW, Answered, GraphStage, TableStage, graph_stages
from stages.execution.replay import replay
from stages.execution.row_flow import RowAnswer, RowTable, answer_of, apply_stage, take_answers
from stages.execution.row_prints import row_prints
from stages.journal.fingerprints import row_ids
from stages.journal.known import Known

Unknown = tuple[str, str, dict[str, Any]]  # a row: its fingerprint, identity and prepared state

_PROBED = 8  # rows of a batch
_MOST_REPLAYED = 5_000  # rows of a batch through a user's graph: some seconds


@dataclass
class CountedRows:
    """Fingerprints of rows that need a call, surely or perhaps; at most `rows` more, of which nothing is known yet.
    `asking`: of the sure ones, those whose graph was replayed up to a call. Kept as hashes, which take a third of the
    memory: they are only counted."""

    sure: set[int] = field(default_factory=set)
    asking: set[int] = field(default_factory=set)
    maybe: set[int] = field(default_factory=set)
    rows: int = 0
    measured: int = 0
    prompt_bytes: int = 0


@dataclass
class CallProbe:
    """Whether rows that the journal does not know ask what others have asked: single calls are found by their request.
    Rendering each row's request would take a millisecond, so some rows of each batch are tried, `left` in all; where
    one finds its answer, all rows of its stage are looked up. For a whole plan; built-in graphs only, as code of users
    is not run for rows that a plan counts as new."""

    finder: CallFinder | None = None
    left: int = 400
    found: set[str] = field(default_factory=set)  # stages

    def sample(self, stage: GraphStage, rows: Sequence[Unknown]) -> Sequence[Unknown]:
        """Return the rows to look up first, perhaps none."""
        if self.finder is None or ":" in stage.spec.uses:
            return []
        if stage.name in self.found:
            return rows
        tried = rows[: min(_PROBED, self.left)]
        self.left -= len(tried)
        return tried


class FollowedBatch:
    """One batch between its stages. `sure` rows arrive, with all their columns known; `open` ones still need an earlier
    answer: the frame has their known columns, and some may leave before."""

    def __init__(self, job: Job, rows: pl.DataFrame, known: Known, probe: CallProbe | None = None) -> None:
        self.job = job
        self.known = known
        self.probe = probe or CallProbe()
        self.ids = row_ids(rows, job.spec.source.key)
        self.sure = RowTable.of_source(rows, job.snapshot.schema)
        self.open = self.sure.frame.clear()
        self.open_may_leave = False
        self.called = {record.id for record in known.calls.values()}

    def through(self, counted: Sequence[CountedRows]) -> None:
        """Follow the rows as far as the last graph stage: later stages make no calls."""
        by_stage = dict(zip((stage.name for stage in graph_stages(self.job.stages)), counted, strict=True))
        for stage in self.job.stages:
            if not by_stage:
                return
            if isinstance(stage, GraphStage):
                self._graph(stage, by_stage.pop(stage.name), last=not by_stage)
            else:
                self._table(stage)

    def _graph(self, stage: GraphStage, counts: CountedRows, *, last: bool) -> None:
        prints, answers = self._answers(stage, self.sure.frame, counts)
        to_call = {row for row in prints if row not in answers}
        counts.sure.update(map(hash, to_call))
        self._open_ones(stage, counts)
        if last:
            return
        needs_call = [row in to_call for row in prints]
        self._open(stage, self.sure.filtered(needs_call).frame)
        answered = self.sure.filtered([not needed for needed in needs_call])
        self.sure = take_answers(stage, answered, [answers[row] for row in prints if row not in to_call]).table

    def _answers(
        self, stage: GraphStage, rows: pl.DataFrame, counts: CountedRows
    ) -> tuple[list[str], dict[str, RowAnswer]]:
        """Return the rows' fingerprints, and the answers that need no call."""
        positions = rows[ROW].to_list()
        prints = row_prints(stage, rows, [self.ids[position] for position in positions])
        values = rows.select(stage.reads)
        answers: dict[str, RowAnswer] = {}
        replays: list[Unknown] = []
        others: list[Unknown] = []
        most = _MOST_REPLAYED if ":" in stage.spec.uses else len(prints)
        # A node that is an activity is not to be run but once: it may do what must not be repeated.
        replayable = stage.spec.placement == "batch"
        for index, row in enumerate(prints):
            if row in answers or hash(row) in counts.sure or hash(row) in counts.maybe:
                continue
            record = self.known.rows.get((stage.fingerprint, row))
            if record is not None:
                answers[row] = answer_of(record)
                continue
            try:
                prepared = stage.prepare(values.row(index, named=True) if stage.reads else {})
            except RowError:
                answers[row] = RowAnswer()
                continue
            if isinstance(prepared, Answered):
                answers[row] = RowAnswer(prepared.answer)
                continue
            unknown = row, self.ids[positions[index]], prepared
            if replayable and unknown[1] in self.called and len(replays) < most:
                replays.append(unknown)
            elif replayable:
                others.append(unknown)
            counts.measured += 1
            counts.prompt_bytes += _size(prepared)
        if replays:
            found = asyncio.run(replay(stage, self.known, replays))
            answers |= {row: RowAnswer(answer) for row, answer in found.answers.items()}
            counts.asking.update(map(hash, found.asking))
        answers |= self._by_request(stage, others)
        return prints, answers

    def _by_request(self, stage: GraphStage, rows: Sequence[Unknown]) -> dict[str, RowAnswer]:
        """Return the answers of rows whose requests were answered for other rows, or other stages."""
        answers: dict[str, RowAnswer] = {}
        tried = 0
        while tried < len(rows) and (some := self.probe.sample(stage, rows[tried:])):
            found = asyncio.run(replay(stage, self.known, some, self.probe.finder))
            answers |= {row: RowAnswer(answer) for row, answer in found.answers.items()}
            tried += len(some)
            if found.answers:
                self.probe.found.add(stage.name)
            elif stage.name not in self.probe.found:
                break
        return answers

    def _open_ones(self, stage: GraphStage, counts: CountedRows) -> None:
        if not self.open.height:
            return
        if not set(stage.reads) <= set(self.open.columns):
            counts.rows += self.open.height
            return
        prints, answers = self._answers(stage, self.open, counts)
        fingerprint_set = counts.maybe if self.open_may_leave else counts.sure
        fingerprint_set.update(hash(row) for row in prints if row not in answers)

    def _open(self, stage: GraphStage, waiting: pl.DataFrame) -> None:
        """Add rows to the open ones; the columns that this stage writes are unknown for all of them."""
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
