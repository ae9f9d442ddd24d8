"""What is kept of provider jobs in the sink: how far each has come. Workflows know these nouns, too."""

from typing import Literal

from schemas.manifest import Noun

# Of a job at a provider. `ended`: every request was worked on; the last three ended early, perhaps with some answers.
ProviderState = Literal["queued", "running", "ended", "failed", "expired", "cancelled"]
OVER: frozenset[str] = frozenset(("ended", "failed", "expired", "cancelled"))


class Intent(Noun):
    """The intention to submit a job, written before anything is sent. `digest`: of the content that is sent; `prefix`:
    of its custom ids, which no other job has; `at`: seconds since the epoch; `tokens`: its input, estimated.
    `most_nano_usd` and `most_tokens` are what it may cost at most."""

    job: str
    digest: str
    requests: int
    bytes: int
    tokens: int = 0
    prefix: str
    at: float
    model: str = ""
    most_nano_usd: int = 0
    most_tokens: int = 0


class Claim(Noun):
    """One process's turn to create a job. Before `until` it may still do so; `file`: the content at the provider."""

    at: float
    until: float
    by: str
    file: str = ""


class Refusal(Noun):
    """Why a provider refused a job as a whole; `line`: of the request at fault, from 1."""

    message: str
    code: str = ""
    line: int | None = None


class Submitted(Noun):
    """The id by which the provider knows a job; empty if it refused to create it, by `refusals`. `adopted`: it was
    found there after an interruption."""

    id: str
    at: float
    adopted: bool = False
    refusals: tuple[Refusal, ...] = ()


class Split(Noun):
    """The two jobs in the place of one that did not fit its budget: its first `requests`, and the rest."""

    part: str
    rest: str
    requests: int


class LearnedLimits(Noun):
    """Limits of a pool's jobs that a provider's refusals have shown. None: as documented. `tokens`: of all jobs that
    are out at once; `not_before`: when to submit again, in seconds since the epoch; `refusals`: so many in a row."""

    requests: int | None = None
    bytes: int | None = None
    tokens: int | None = None
    not_before: float = 0.0
    refusals: int = 0


class JobState(Noun):
    """How far a job has come. `waiting`: not submitted yet, to be tried again after `wait_s`. `deadline`: when the
    provider gives up, in seconds since the epoch; `done` and `failed` count its requests so far."""

    job: str
    state: Literal["waiting"] | ProviderState
    id: str = ""
    requests: int = 0
    done: int = 0
    failed: int = 0
    deadline: float | None = None
    message: str = ""
    wait_s: float = 0.0

    @property
    def over(self) -> bool:
        """True if the provider does nothing more with it: it is to be collected."""
        return self.state in OVER


class JobEnd(Noun):
    """How a job ended. requests = answered + refused + given_back. `given_back`: not answered, for another job; `again`
    names lists of parked files with these calls, of every row that waits for them, which `form_jobs` takes. `missing`:
    those of them of which the provider said nothing; `unknown_ids`: answers to requests that we did not make.
    `saved_usd`: against the standard price; both amounts are None if a price is not known. `nano_usd` and `tokens`:
    what was spent. `fatal`: why every further job would fail, with `hint`, the next step. `late`: files that came after
    the job was formed, and have their answers. `least`: the provider takes no job with fewer requests; 0 if this one
    was large enough."""

    job: str
    id: str
    state: ProviderState
    requests: int
    answered: int = 0
    refused: int = 0
    given_back: int = 0
    missing: int = 0
    unknown_ids: int = 0
    again: tuple[str, ...] = ()
    cost_usd: float | None = 0.0
    saved_usd: float | None = 0.0
    nano_usd: int = 0
    tokens: int = 0
    message: str = ""
    fatal: str = ""
    hint: str = ""
    at: float = 0.0
    late: tuple[str, ...] = ()
    least: int = 0


class JobFacts(Noun):
    """A job for people: `model` as users write it; times in seconds since the epoch."""

    pool: str
    job: str
    id: str = ""
    model: str = ""
    state: Literal["formed", "waiting"] | ProviderState = "formed"
    requests: int = 0
    submitted_at: float | None = None
    ended_at: float | None = None
    deadline: float | None = None
    done: int = 0
    failed: int = 0
    cost_usd: float | None = None
    saved_usd: float | None = None
    message: str = ""
