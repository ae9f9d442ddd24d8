"""Batches and rows: `enrich_batch`, `step_row` and the row workflow."""

import datetime as dt
from typing import Literal

from schemas.messages.base import Message, RunRef


class BatchRequest(Message):
    ref: RunRef
    plan: str
    partition: str
    opened: str
    batch: int
    rows: int
    answered: bool = False  # the batch was done once, and people answered since


class RowsOfBatch(Message):
    """Rows of a batch that are workflows of their own in a stage: what it reads of them is the object `rows`."""

    stage: str
    rows: str
    ids: tuple[str, ...]

    def row_of(self, batch: BatchRequest, number: int) -> "RowInput":
        return RowInput(
            ref=batch.ref, plan=batch.plan, partition=batch.partition, opened=batch.opened, batch=batch.batch,
            answered=batch.answered, stage=self.stage, rows=self.rows, row=number, id=self.ids[number],
        )  # fmt: skip


class Spent(Message):
    """What an activity paid for, as it counted: who watches a run adds it up. The journal is what a report counts."""

    calls: int = 0
    cost_usd: float = 0.0

    def __add__(self, other: "Spent") -> "Spent":
        return Spent(calls=self.calls + other.calls, cost_usd=self.cost_usd + other.cost_usd)


class Heartbeat(Message):
    """What a batch at work has done so far, and what it waits for; for who watches, as a heartbeat may get lost.
    `spool` names the folder that holds what its worker has not flushed, as only who sees that folder can take it
    over."""

    rows: int = 0
    calls: int = 0
    cost_usd: float = 0.0
    waiting: str = ""
    spool: str = ""


class BatchResult(Message):
    """`done` with the digest of the receipt, `waiting` until a time for a reason, `handed_back` by a worker that
    drains, `rows` that have to be run one by one before (`placement: node`), or `short` of money: the next call may
    take what is `needed`, in USD / 10^9 and in tokens, and the budget has no room for it. Only `done` has counts;
    `parked` rows hold the publication up until a person has answered."""

    state: Literal["done", "waiting", "handed_back", "short", "rows"]
    receipt: str = ""
    rows: int = 0
    rejected: int = 0
    parked: int = 0
    until: dt.datetime | None = None
    reason: str = ""
    needed: tuple[int, int] = (0, 0)
    by_row: RowsOfBatch | None = None
    spent: Spent = Spent()


class RowInput(Message):
    ref: RunRef
    plan: str
    partition: str
    opened: str
    batch: int
    answered: bool
    stage: str
    rows: str
    row: int
    id: str


class StepResult(Message):
    """`more`: the graph's next step is another activity; `done`: the row's outcome is in the journal. The others are
    those of a batch."""

    state: Literal["more", "done", "waiting", "handed_back", "short"]
    until: dt.datetime | None = None
    reason: str = ""
    needed: tuple[int, int] = (0, 0)
    spent: Spent = Spent()


class RowResult(Message):
    """The row's outcome is in the journal, or it is `short` of money."""

    short: bool = False
    needed: tuple[int, int] = (0, 0)
    spent: Spent = Spent()
