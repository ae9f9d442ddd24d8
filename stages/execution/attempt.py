"""One attempt of one batch: its context, and the outcomes of its rows."""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from schemas.errors import TandemError
from stages.execution.equal_rows.claims import Announced, Claims
from stages.execution.equal_rows.single_flight import Shared
from stages.execution.guards.isolation import Isolation, RowWatch
from stages.execution.guards.row_memory import RowMemory
from stages.journal.records import RowKey, RowRecord
from stages.journal.writer import Journal
from stages.limits.budget import Budget
from stages.limits.semaphore import ANYWHERE, Place
from stages.models.row.parking import BatchParking
from stages.models.row.scope import Tally
from stages.observer import BatchObserver


class RowLeft(Exception):
    """A row's graph was left before its next step, which another activity takes."""


@dataclass
class Steps:
    """The steps of one row in one activity, where each node is one. `running`: the number of the step whose nodes are
    run; `more`: the graph was left before its end."""

    key: RowKey
    id: str
    run: str
    journal: Journal
    running: int | None = None
    more: bool = False


@dataclass
class BatchContext:
    """One attempt of one batch. `drain` is set when the worker has to stop; `on_row` is called with the number of
    finished rows; `on_step`, if set, with (row fingerprint, node, update). `place`: where its rows wait for slots."""

    run: str
    batch: int
    journal: Journal
    shared: Shared
    drain: asyncio.Event
    on_row: Callable[[int], None] = lambda rows: None
    on_step: Callable[[str, str, Any], None] | None = None
    tally: Tally = field(default_factory=Tally)
    budget: Budget | None = None
    damage: list[str] = field(default_factory=list)
    steps: Steps | None = None  # of the one row of this batch, where nodes are activities
    watch: RowWatch | None = None
    on_stuck: Callable[[str], None] = lambda row: None  # called with the id of a row whose thread cannot be stopped
    elsewhere: frozenset[RowKey] = frozenset()  # rows whose known outcome only other journals have
    claims: Claims | None = None  # where other processes may run equal rows
    no_calls: bool = False  # only known answers are used
    announced: Announced | None = None  # where other commands may have equal rows
    memory: RowMemory | None = None  # where rows in flight are bounded by bytes, too
    isolation: Isolation | None = None  # where rows that may kill a process can have one of their own
    observer: BatchObserver | None = None
    parking: BatchParking | None = None  # where calls may wait for provider batch jobs
    place: Place = ANYWHERE


@dataclass
class StageOutcome:
    """Outcomes by position in the batch's frame; `stopped` is the error that kept the others from finishing."""

    records: list[RowRecord | None]
    stopped: TandemError | None = None
    drained: bool = False

    @property
    def finished(self) -> bool:
        return all(record is not None for record in self.records)

    @property
    def done(self) -> list[RowRecord]:
        """The records of finished rows: one a row if all are finished."""
        return [record for record in self.records if record is not None]
