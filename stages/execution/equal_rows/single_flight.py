"""Equal rows once: rows with one fingerprint share one run of the graph, over all partitions of a run in a process."""

import asyncio
from dataclasses import dataclass, field

from stages.execution.equal_rows.recent_answers import RecentAnswers
from stages.execution.questions import PENDING
from stages.execution.unsettled import is_shareable
from stages.journal.records import CallKey, CallRecord, RowKey, RowRecord


@dataclass(eq=False)
class Shared:
    """State that the batches of one run share within a process: rows and calls in flight, recent answers, and calls
    of pending rows, kept so that an identical row can resume from them. `claimed` are rows that batches in this process
    run, and other processes wait for."""

    rows: dict[RowKey, "asyncio.Future[RowRecord]"] = field(default_factory=dict)
    calls: dict[CallKey, "asyncio.Future[CallRecord]"] = field(default_factory=dict)
    recent: RecentAnswers = field(default_factory=RecentAnswers)
    parked: dict[RowKey, list[CallRecord]] = field(default_factory=dict)
    claimed: set[RowKey] = field(default_factory=set)

    def remember(self, record: RowRecord) -> None:
        """Keep an outcome for equal rows of later batches, unless an equal row need not share it."""
        if record.status == PENDING or is_shareable(record):
            self.recent.remember(record)

    def recalled(self, key: RowKey) -> RowRecord | None:
        """Return the outcome of an equal row; the caller sets `run` and `at`."""
        return self.recent.recalled(key)
