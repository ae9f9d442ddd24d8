"""Provider batch jobs: calls of many partitions that wait for them, and the workflow of a run and a pool."""

from typing import Literal

from schemas.jobs import JobState
from schemas.messages.base import Message, RunRef

# What becomes of calls that no job has answered in time.
Late = Literal["next-job", "standard", "reject"]

JOB_STATES = ("waiting", "queued", "running", "ended")  # of jobs that are out; ended: to be collected


class Waves(Message):
    """How often a partition has waited for jobs: `wave` times, `most` at most (0: not at all; its calls are live then).
    `late`: what becomes of its earlier calls that have no answer still."""

    wave: int = 0
    most: int = 0
    late: Late = "next-job"

    @property
    def may_park(self) -> bool:
        return self.wave < self.most


class JobTerms(Message):
    """The limits of a spec that concern provider jobs."""

    gather_s: float = 600.0
    deadline_s: float = 86_400.0
    after_deadline: Late = "next-job"
    max_waves: int = 12


class ParkedCalls(Message):
    """The calls of a partition, or of one of its batches, that wait for jobs: the pools whose jobs may hold them, and
    the keys of the files that list them."""

    calls: int = 0
    pools: tuple[str, ...] = ()
    files: tuple[str, ...] = ()

    def __add__(self, other: "ParkedCalls") -> "ParkedCalls":
        pools = tuple(sorted({*self.pools, *other.pools}))
        return ParkedCalls(calls=self.calls + other.calls, pools=pools, files=(*self.files, *other.files))


class ParkedPartitionCalls(Message):
    """Signal of a run to the jobs of a pool: a partition waits."""

    partition: str
    parked: ParkedCalls


class JobAnswers(Message):
    """Signal of the jobs of a pool to their run: all calls of these partitions are over. `late`: some have no answer,
    and this becomes of them; `error` and `message`: every further job would fail."""

    pool: str
    partitions: tuple[str, ...]
    late: Late = "next-job"
    error: str = ""
    message: str = ""


class JobNews(Message):
    """Signal of the jobs of a pool to their run: how many are out, their requests, how many of these are done, and when
    the first has to be over (seconds since the epoch). `states`: jobs by state; `ended`: jobs that were collected."""

    pool: str
    jobs: int
    requests: int
    done: int
    deadline: float | None = None
    detail: str = ""
    states: dict[str, int] = {}
    ended: int = 0


class JobGroup(Message):
    """Partitions that wait for the same jobs. `late`: see JobAnswers."""

    partitions: tuple[str, ...]
    jobs: tuple[str, ...]
    late: Late = "next-job"


class OpenJob(Message):
    """A job that is not collected. `submitted_at`: seconds since the epoch; `tried`: it may have been submitted; it was
    looked at `looks` times."""

    job: str
    submitted_at: float | None = None
    looks: int = 0
    cancelled: bool = False
    day: str = ""
    tried: bool = False


class CarriedJobs(Message):
    """The state of a JobsWorkflow that outlives one Temporal execution, signals of its run included."""

    pending: tuple[ParkedPartitionCalls, ...] = ()
    open_files: tuple[str, ...] = ()
    waiting: tuple[str, ...] = ()
    gathered_since: float | None = None
    groups: tuple[JobGroup, ...] = ()
    jobs: tuple[OpenJob, ...] = ()
    limit: int | None = None
    nothing_else: bool = False
    paused: bool = False
    stop: str = ""
    vain: int = 0
    ended: int = 0


class JobsInput(Message):
    """The input of the workflow of a run's jobs in one pool; `run_workflow` is the id of the run's."""

    ref: RunRef
    plan: str
    pool: str
    terms: JobTerms
    run_workflow: str
    carried: CarriedJobs = CarriedJobs()


class JobsResult(Message):
    """The workflow of a pool's jobs has ended: none is out."""


class FormRequest(Message):
    """Form jobs of these files; with `closing`, of all their calls, else full ones."""

    ref: RunRef
    plan: str
    pool: str
    files: tuple[str, ...]
    closing: bool


class FormedJobs(Message):
    """See `pipeline.provider_jobs.forming.Formed`; `limit`: the most requests of one job."""

    jobs: tuple[str, ...]
    open_files: tuple[str, ...] = ()
    open_requests: int = 0
    limit: int = 0


class JobRequest(Message):
    """A request about one job. `looks`: so often it was looked at before."""

    ref: RunRef
    plan: str
    pool: str
    job: str
    looks: int = 0
    day: str = ""


class JobProgress(Message):
    """How far a job has come, and when to look again. `needed`: what it may cost, in USD / 10^9 and tokens, if that
    does not fit the budget; `day`: whose budget it is charged to; `parts`: the jobs in its place, of which the first
    fits."""

    state: JobState
    look_again_s: float
    needed: tuple[int, int] | None = None
    day: str = ""
    parts: tuple[str, ...] = ()


class CancelJobs(Message):
    """Cancel these jobs at the provider."""

    ref: RunRef
    plan: str
    pool: str
    jobs: tuple[str, ...]


class CancelledJobs(Message):
    """So many jobs were cancelled, or were over already. `undecided_s`: seconds after which it may be known whether the
    others were created; then they are to be cancelled again."""

    jobs: int
    undecided_s: float | None = None
