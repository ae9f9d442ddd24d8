"""Batches and rows: `enrich_batch`, `step_row` and the row workflow."""

import datetime as dt
from collections import Counter
from typing import Literal

from schemas.messages.base import Message, RunRef
from schemas.messages.jobs import ParkedCalls, Waves

_MOST_CLASSES = 8


class BatchRequest(Message):
    ref: RunRef
    plan: str
    partition: str
    opened: str
    batch: int
    rows: int = 0  # of no use: workflows know no batch's rows, which are those of the opened partition
    answered: bool = False  # the batch ran once before, and people have answered since
    waves: Waves = Waves()


class RowsOfBatch(Message):
    """Rows of a batch that each run as a workflow in one stage. The object `rows` holds the columns that it reads."""

    stage: str
    rows: str
    ids: tuple[str, ...]

    def row_of(self, batch: BatchRequest, number: int) -> "RowInput":
        return RowInput(
            ref=batch.ref, plan=batch.plan, partition=batch.partition, opened=batch.opened, batch=batch.batch,
            answered=batch.answered, stage=self.stage, rows=self.rows, row=number, id=self.ids[number],
            waves=batch.waves,
        )  # fmt: skip


class Spent(Message):
    """The cost of an activity by its own count, the rows that it rejected and the calls that it had to make again, by
    class; for live progress. A report counts from the journal."""

    calls: int = 0
    cost_usd: float = 0.0
    rejects: dict[str, int] = {}
    failed_calls: dict[str, int] = {}

    def __add__(self, other: "Spent") -> "Spent":
        return Spent(
            calls=self.calls + other.calls,
            cost_usd=self.cost_usd + other.cost_usd,
            rejects=largest(Counter(self.rejects) + Counter(other.rejects)),
            failed_calls=largest(Counter(self.failed_calls) + Counter(other.failed_calls)),
        )


def largest(classes: Counter[str]) -> dict[str, int]:
    """Return the largest classes, the others together as `other`: a message has no room for hundreds."""
    found = dict(classes.most_common(_MOST_CLASSES))
    if (rest := classes.total() - sum(found.values())) > 0:
        found["other"] = found.get("other", 0) + rest
    return found


class ModelLoad(Message):
    """The calls of a process to a model: in flight, and if more wait for their turn; how many a minute may be sent now,
    None if no rate is limited; `out` while its provider seems to be down."""

    model: str
    in_flight: int = 0
    waiting: bool = False
    per_minute: float | None = None
    out: bool = False


class Heartbeat(Message):
    """The progress of a running batch and the reason of its wait; for live progress only, as a heartbeat may get lost.
    `spool` names the folder of the records that its worker has not flushed: only a worker that sees this folder can
    take the batch over. `loads` are those of the whole process, of which `process` is the id on its machine."""

    rows: int = 0
    calls: int = 0
    cost_usd: float = 0.0
    waiting: str = ""
    spool: str = ""
    rejects: dict[str, int] = {}
    failed_calls: dict[str, int] = {}
    process: int = 0
    loads: tuple[ModelLoad, ...] = ()


class BatchResult(Message):
    """`done` with the digest of the receipt, `waiting` until a time for a reason, `handed_back` by a worker that
    drains, `rows` that must first run one by one (`placement: node`), `short`: the budget has no room for the next
    call, which may cost `needed`, in USD / 10^9 and in tokens; or `parked`: its other rows wait for provider batch
    jobs with `parked_calls`. Only `done` has counts; `parked` rows block the publication until a person has answered.
    """

    state: Literal["done", "waiting", "handed_back", "short", "rows", "parked"]
    receipt: str = ""
    rows: int = 0
    rejected: int = 0
    parked: int = 0
    until: dt.datetime | None = None
    reason: str = ""
    needed: tuple[int, int] = (0, 0)
    by_row: RowsOfBatch | None = None
    spent: Spent = Spent()
    parked_calls: ParkedCalls = ParkedCalls()


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
    waves: Waves = Waves()


class StepResult(Message):
    """`more`: the graph's next step is another activity; `done`: the row's outcome is in the journal. The others are
    the same as those of a batch."""

    state: Literal["more", "done", "waiting", "handed_back", "short", "parked"]
    until: dt.datetime | None = None
    reason: str = ""
    needed: tuple[int, int] = (0, 0)
    spent: Spent = Spent()
    parked_calls: ParkedCalls = ParkedCalls()


class RowResult(Message):
    """The row's outcome is in the journal, the budget is `short`, or the row waits for provider jobs with its calls."""

    short: bool = False
    needed: tuple[int, int] = (0, 0)
    spent: Spent = Spent()
    parked_calls: ParkedCalls = ParkedCalls()
