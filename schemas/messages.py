"""All that crosses Temporal: references and counts, never rows, prompts or secrets. One input and one result object
for each workflow and activity, so that fields can be added without breaking histories.

Payloads are capped at 64 KiB by `pipeline.activities`; a list that may grow goes by reference (an object key).
"""

import datetime as dt
from typing import Literal

from pydantic import BaseModel, ConfigDict

from schemas.manifest import Counts, Reuse, Shares, Usage, shares_added

MAX_PAYLOAD_BYTES = 64 * 1024
RunState = Literal["completed", "failed", "paused", "cancelled", "running"]
Outcome = Literal["published", "unchanged", "failed", "cancelled", "not_run"]


class Message(BaseModel):
    model_config = ConfigDict(frozen=True, extra="ignore")


class RunRef(Message):
    """Which run, and where its objects are. `sink` is a URI or an absolute folder."""

    pipeline: str
    run: str
    sink: str


class Windows(Message):
    """How many children and batches may be in flight; changed on a live run by `set_limits`."""

    partitions: int = 8
    batches: int = 2


class Course(Message):
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
    course: Course = Course()


class PlanRef(Message):
    """The plan lies at `key`, its partitions in `pages` objects beside it. A canary is one page more, after them."""

    key: str
    plan_id: str
    pages: int
    partitions: int
    to_run: int
    rows: int
    windows: Windows
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


class PartitionInput(Message):
    """`rehearsal`: the first `rows` rows are enriched and checked, and nothing is published."""

    ref: RunRef
    plan: str
    partition: str
    rows: int
    windows: Windows
    rehearsal: bool = False


class OpenRequest(Message):
    """`limit` rows at most. `lost_to`: the base that a CommitConflict was met on."""

    ref: RunRef
    plan: str
    partition: str
    limit: int
    lost_to: int | None = None


class Opened(Message):
    """The opened partition: `opened` is the key of the object with its batches; base is the current generation."""

    opened: str
    base: int
    batches: int
    rows: int
    up_to_date: bool = False


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


class Spent(Message):
    """What an activity paid for, as it counted: who watches a run adds it up. The journal is what a report counts."""

    calls: int = 0
    cost_usd: float = 0.0

    def __add__(self, other: "Spent") -> "Spent":
        return Spent(calls=self.calls + other.calls, cost_usd=self.cost_usd + other.cost_usd)


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


class AnswersRequest(Message):
    """How far are people with what these batches ask? `tell`: let them know that it is asked."""

    ref: RunRef
    plan: str
    partition: str
    opened: str
    receipts: tuple[str, ...]
    tell: bool


class Answers(Message):
    """Questions that hold the publication up, without and with an answer."""

    missing: int
    given: int


class ParkedPartition(Message):
    """Told to the run by its partition: it waits for answers to this many questions, no longer where it is none."""

    partition: str
    questions: int


class PublishRequest(Message):
    ref: RunRef
    plan: str
    partition: str
    opened: str
    receipts: tuple[str, ...]
    rehearsal: bool = False


class HolderRequest(Message):
    """Which run is at work on a partition?"""

    ref: RunRef
    partition: str


class Holder(Message):
    """The name of the run; empty where nobody holds the partition any more."""

    run: str = ""


class CloseRequest(Message):
    """Write down how a partition ended without a publication. With `fence`, a tombstone goes in first."""

    ref: RunRef
    plan: str
    partition: str
    outcome: Outcome
    error: str = ""
    message: str = ""
    base: int = 0
    fence: str = ""  # the nonce of the tombstone to put first; none without


class PartitionResult(Message):
    """How a partition ended. `error` and `message` only where it was not published; `warnings`: how many its manifest
    has."""

    partition: str
    outcome: Outcome
    generation: int | None = None
    counts: Counts = Counts()
    reuse: Reuse = Reuse()
    shares: Shares = {}
    usage: Usage = Usage()
    error: str = ""
    message: str = ""
    stops_run: bool = False
    warnings: int = 0


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


class Carried(Message):
    """The state of a run that outlives one Temporal execution."""

    plan: PlanRef
    next_page: int
    totals: Totals
    failures: tuple[Failure, ...] = ()
    stop: Failure | None = None


class Shortage(Message):
    """From a partition to its run: no batch of it is at work, and the next call needs so much."""

    partition: str
    nanos: int
    tokens: int


class Reckoning(Message):
    """Nothing of the run is in flight: is there room in its budget for a call of this size?"""

    ref: RunRef
    nanos: int
    tokens: int


class Reckoned(Message):
    """`message`: why not, with the numbers and what to do; `until`: when there is again, where that comes by itself."""

    go_on: bool
    message: str = ""
    until: dt.datetime | None = None


class RunInput(Message):
    """`waits`: for a partition that another run holds; without, it is reported as not run."""

    ref: RunRef
    request: str
    task_queue: str
    course: Course = Course()
    waits: bool = True
    carried: Carried | None = None


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
    spent: Spent = Spent()
    stop: Failure | None = None  # what a paused run has run into


# A schedule ---------------------------------------------------------------------------------------------------------


class Terms(Message):
    """When a schedule fires, and what a firing takes: as people read and compare them. Durations as `6h`. `when`: `due`
    takes the partitions that are over, `new-files` what changed, where the source's listing did."""

    cron: str
    time_zone: str = "UTC"
    overlap_policy: str = "skip"
    catchup_window: str = "6h"
    jitter: str = "0s"
    lookback: str = "7d"
    pause_on_failure: bool = False
    when: Literal["due", "new-files"] = "due"


class ScheduledInput(Message):
    """`spec` is the key of the frozen spec, `ref.run` empty. `attributes`: the server knows our search attributes."""

    ref: RunRef
    spec: str
    base: str
    task_queue: str
    terms: Terms
    attributes: bool = False


class AskRequest(Message):
    """Ask for the run of a firing at `at`. `since`: the firing before that; `seen`: the listing that needs no run."""

    ref: RunRef
    spec: str
    base: str
    at: dt.datetime
    since: dt.datetime | None
    lookback: str
    when: Literal["due", "new-files"]
    seen: str = ""


class Asked(Message):
    """The name of the run; empty where nothing is to be done, with the reason. `listing` is the source's fingerprint,
    where it was looked at."""

    run: str = ""
    listing: str = ""
    note: str = ""


class ScheduledResult(Message):
    """What became of a firing: Temporal hands it to the next. `run` is empty where there was nothing to do; `state` and
    `tried_at` are then those of the latest that had."""

    at: dt.datetime
    run: str = ""
    state: RunState = "completed"
    listing: str = ""
    tried_at: dt.datetime | None = None
    note: str = ""


# Limits of a fleet -------------------------------------------------------------------------------------------------


class PerMinute(Message):
    """Requests and tokens a minute; None where there is no bound."""

    requests: float | None = None
    tokens: float | None = None


class LeaseRequest(Message):
    """A worker's wish for its share of a limit: what its specs allow, what it used of late, whether it was held back.
    `holds` is the number of the lease that it got last. With `leaving`, it wants none."""

    worker: str
    limit: PerMinute = PerMinute()
    used: PerMinute = PerMinute()
    hungry: bool = False
    holds: int = 0
    leaving: bool = False


class Lease(Message):
    """So much a minute. Worth `seconds` to who gives it, half of that to who holds it, counted from when it asked."""

    number: int
    share: PerMinute
    seconds: float


class Leaseholder(Message):
    """A worker as the limiter knows it. `before` is what it may be using still, until it says that it has `lease`."""

    limit: PerMinute
    used: PerMinute
    hungry: bool
    lease: Lease
    before: PerMinute
    until: float


class LimiterInput(Message):
    """The holders that outlive one Temporal execution."""

    holders: dict[str, Leaseholder] = {}
    number: int = 0
