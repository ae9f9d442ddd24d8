"""A run: its workflow, its plan, its budget, its end, and what is told of it while it goes."""

import datetime as dt

from schemas.manifest import Counts, Reuse, Shares, Usage, shares_added
from schemas.messages.base import Concurrency, Message, RunRef, RunState
from schemas.messages.batch import Spent
from schemas.messages.partition import PartitionResult


class RunOptions(Message):
    """How a run goes about its partitions. No part of its identity: a resumed run may take another course."""

    max_active: int | None = None  # partitions at once; None: what the spec says
    backwards: bool = False
    max_failures: int | None = None  # so many failed partitions stop the run; 1: the first does
    canary_rows: int = 0  # of a sample over all partitions, which has to pass before the rest begins


class SetLimits(Message):
    """What is asked for a live run; what is None stays as it is. `rows_in_flight` is per worker process and model."""

    partitions: int | None = None
    rows_in_flight: int | None = None
    max_cost_usd: float | None = None


class SetLimitsRequest(Message):
    """Write them down where the run's workers look."""

    ref: RunRef
    limits: SetLimits


# Planning ----------------------------------------------------------------------------------------------------------


class PlanRequest(Message):
    ref: RunRef
    request: str  # key of request.json
    course: RunOptions = RunOptions()
    code: str = ""


class PlanRef(Message):
    """The plan lies at `key`, its partitions in `pages` objects beside it. A canary is one page more, after them."""

    key: str
    plan_id: str
    pages: int
    partitions: int
    to_run: int
    rows: int
    windows: Concurrency
    hooks: tuple[tuple[str, ...], ...] = ()  # of each entry of `notify:`, what it wants to hear of
    canary_rows: int = 0
    max_reject_rate: float = 1.0


class PageRequest(Message):
    ref: RunRef
    plan: str
    page: int


class PlannedPartition(Message):
    """One line of a plan page. `run` false: it was selected and is up to date."""

    key: str
    run: bool
    reason: str = ""
    rows: int = 0


class Page(Message):
    partitions: tuple[PlannedPartition, ...]


# A partition -------------------------------------------------------------------------------------------------------


# A run -------------------------------------------------------------------------------------------------------------


class Failure(Message):
    partition: str
    error: str
    message: str


class Totals(Message):
    """What a run has come to so far: small, carried through continue-as-new."""

    total: int = 0
    published: int = 0
    unchanged: int = 0
    failed: int = 0
    cancelled: int = 0
    not_run: int = 0
    counts: Counts = Counts()
    reuse: Reuse = Reuse()
    shares: Shares = {}
    usage: Usage = Usage()

    def with_result(self, result: PartitionResult) -> "Totals":
        return self.model_copy(
            update={
                result.outcome: getattr(self, result.outcome) + 1,
                "counts": self.counts + result.counts,
                "reuse": self.reuse + result.reuse,
                "shares": shares_added(self.shares, result.shares),
                "usage": self.usage + result.usage,
            }
        )


class CarriedState(Message):
    """The state of a run that outlives one Temporal execution."""

    plan: PlanRef
    next_page: int
    totals: Totals
    failures: tuple[Failure, ...] = ()
    stop: Failure | None = None


class BudgetShortfall(Message):
    """From a partition to its run: no batch of it is at work, and the next call needs so much."""

    partition: str
    nanos: int
    tokens: int


class BudgetCheck(Message):
    """Nothing of the run is in flight: is there room in its budget for a call of this size?"""

    ref: RunRef
    nanos: int
    tokens: int


class BudgetVerdict(Message):
    """`message`: why not, with the numbers and what to do; `until`: when there is again, where that comes by itself."""

    go_on: bool
    message: str = ""
    until: dt.datetime | None = None


class RunInput(Message):
    """`waits`: for a partition that another run holds; without, it is reported as not run. `code`: the digest of the
    user code that the command saw; a worker that has other code makes no plan. Empty: whatever a worker has."""

    ref: RunRef
    request: str
    task_queue: str
    course: RunOptions = RunOptions()
    waits: bool = True
    code: str = ""
    carried: CarriedState | None = None


class FinaliseRequest(Message):
    ref: RunRef
    plan: str
    state: RunState
    totals: Totals
    failures: tuple[Failure, ...] = ()
    stop: Failure | None = None
    started_at: dt.datetime


class RunResult(Message):
    """The report lies at `report`; the rest is enough for a watcher to print and to choose its exit code."""

    state: RunState
    report: str
    totals: Totals
    stop: Failure | None = None
    hooks: tuple[tuple[str, ...], ...] = ()
    recovered: bool = False  # the pipeline's run before this one failed


class NotifyRequest(Message):
    """Tell the entry number `hook` of the spec's `notify:` of an event."""

    ref: RunRef
    hook: int
    event: str
    state: RunState
    message: str
    totals: Totals = Totals()


class Notified(Message):
    """Somebody was told."""


class Progress(Message):
    """The answer to the query `progress`. `rows_done` counts rows of finished batches of running partitions too;
    `spent`, of a partition that answers, what those of its batches spent that are over."""

    state: RunState
    detail: str
    totals: Totals
    rows_total: int
    rows_done: int
    rejected: int
    running: tuple[str, ...]
    held: tuple[str, ...] = ()  # of those: by another run
    finished: tuple[PartitionResult, ...] = ()
    finished_before: int = 0  # finished ones that are not in `finished`, which holds the latest
    waiting: str = ""
    waits_for_code: str = ""  # of which stage; no worker at hand has it
    spent: Spent = Spent()
    stop: Failure | None = None  # what a paused run has run into


# A schedule ---------------------------------------------------------------------------------------------------------


# Limits of a fleet -------------------------------------------------------------------------------------------------
