"""A run: its workflow, plan, budget, end and live progress."""

import datetime as dt

from schemas.manifest import Counts, Reuse, Shares, Usage, shares_added
from schemas.messages.base import Concurrency, Message, RunRef, RunState
from schemas.messages.batch import Spent
from schemas.messages.jobs import JobNews, JobTerms, Late, Waves
from schemas.messages.partition import PartitionResult
from schemas.tier import Tier


class RunOptions(Message):
    """Options of a run over its partitions. Not part of its identity: a resumed run may have other options."""

    max_active: int | None = None  # partitions at once; None: as in the spec
    backwards: bool = False
    max_failures: int | None = None  # this many failed partitions stop the run; 1: the first does
    canary_rows: int = 0  # a sample over all partitions, which must pass before the rest begins


class SetLimits(Message):
    """New limits for a live run; None leaves a limit as it is. `rows_in_flight` is per worker process and model;
    `tier`: the price tier of all models, from the next batch on."""

    partitions: int | None = None
    rows_in_flight: int | None = None
    max_cost_usd: float | None = None
    tier: Tier | None = None


class SetLimitsRequest(Message):
    """Write new limits to the object that the run's workers poll."""

    ref: RunRef
    limits: SetLimits


# Planning ----------------------------------------------------------------------------------------------------------


class PlanRequest(Message):
    ref: RunRef
    request: str  # key of request.json
    course: RunOptions = RunOptions()
    code: str = ""


class PlanRef(Message):
    """The plan is the object `key`, its partitions are `pages` objects beside it. A canary is one more page, after
    them."""

    key: str
    plan_id: str
    pages: int
    partitions: int
    to_run: int
    rows: int
    windows: Concurrency
    hooks: tuple[tuple[str, ...], ...] = ()  # for each entry of `notify:`, its events
    canary_rows: int = 0
    max_reject_rate: float = 1.0
    jobs: JobTerms | None = None  # None: of a plan of an earlier version


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


# A run -------------------------------------------------------------------------------------------------------------


class Failure(Message):
    partition: str
    error: str
    message: str


class Totals(Message):
    """The totals of a run so far: small, carried through continue-as-new."""

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


class WaitingPartition(Message):
    """A partition of a run that waits for provider jobs of these pools. `late`: what becomes of calls that the jobs of
    others, which have ended, did not answer."""

    partition: PlannedPartition
    waves: Waves
    pools: tuple[str, ...] = ()
    calls: int = 0
    late: Late = "next-job"


class CarriedState(Message):
    """The state of a run that outlives one Temporal execution."""

    plan: PlanRef
    next_page: int
    totals: Totals
    failures: tuple[Failure, ...] = ()
    stop: Failure | None = None
    waiting: tuple[WaitingPartition, ...] = ()
    pools: tuple[str, ...] = ()  # whose jobs have a workflow


class BudgetShortfall(Message):
    """Signal of a partition to its run: it has no batch in flight, and its next call needs this much."""

    partition: str
    nanos: int
    tokens: int


class BudgetCheck(Message):
    """Request if the budget has room for a call of this size, while nothing of the run is in flight."""

    ref: RunRef
    nanos: int
    tokens: int


class BudgetVerdict(Message):
    """`message`: the reason of a no, with numbers and the next step; `until`: the time from which there is room
    again."""

    go_on: bool
    message: str = ""
    until: dt.datetime | None = None


class RunInput(Message):
    """`waits`: wait for a partition that another run holds; otherwise it is reported as not run. `code`: the digest of
    the user code of the command; a worker with other code makes no plan. Empty: any code."""

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
    """`report` is the key of the report; the rest is enough for a command to print and to choose its exit code."""

    state: RunState
    report: str
    totals: Totals
    stop: Failure | None = None
    hooks: tuple[tuple[str, ...], ...] = ()
    recovered: bool = False  # the pipeline's run before this one failed


class NotifyRequest(Message):
    """Call the entry number `hook` of the spec's `notify:` for an event."""

    ref: RunRef
    hook: int
    event: str
    state: RunState
    message: str
    totals: Totals = Totals()


class Notified(Message):
    """The result of a call of a hook."""


class Progress(Message):
    """The answer to the query `progress`. Of a partition, `rows_done` counts rows of its finished
    batches, and `spent` is the cost of those batches."""

    state: RunState
    detail: str
    totals: Totals
    rows_total: int
    rows_done: int
    rejected: int
    running: tuple[str, ...]
    held: tuple[str, ...] = ()  # the running ones that another run holds
    finished: tuple[PartitionResult, ...] = ()
    finished_before: int = 0  # finished ones that are not in `finished`, which holds the latest
    waiting: str = ""
    waits_for_code: str = ""  # of this stage; no available worker has it
    spent: Spent = Spent()
    stop: Failure | None = None  # the reason of a pause by the budget
    jobs: tuple[JobNews, ...] = ()  # provider jobs that are out, by pool
    waiting_for_jobs: int = 0  # partitions that wait for them
    jobs_text: str = ""  # what they wait for, in words
