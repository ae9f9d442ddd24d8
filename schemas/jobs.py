"""What is kept of provider jobs in the sink: which requests each holds, and how far it has come."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Literal

import orjson

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
    the job was formed, and have their answers."""

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


AskedKey = tuple[str, int]


@dataclass(frozen=True, slots=True)
class JobRequest:
    """One request of a job: its digest and ordinal, and where its body is: the number of a line in one of the job's
    parked files. Its row is the one that pays."""

    asked: str
    ordinal: int
    file: int
    line: int

    @property
    def key(self) -> AskedKey:
        return self.asked, self.ordinal


@dataclass
class JobRequests:
    """The requests of a job in the order in which they are sent, the parked files that hold them, or equal ones, and
    the most that all of it may cost."""

    parked: list[str] = field(default_factory=list)
    requests: list[JobRequest] = field(default_factory=list)
    model: str = ""
    most_nano_usd: int = 0
    most_tokens: int = 0


def custom_id(job: str, key: AskedKey) -> str:
    """Return the id under which a provider returns the answer: 51 characters and the ordinal, at most 64."""
    return f"{job}-{key[0]}-{key[1]}"


def encode_requests(requests: JobRequests) -> bytes:
    head = {"model": requests.model, "most_nano_usd": requests.most_nano_usd, "most_tokens": requests.most_tokens}
    lines = [orjson.dumps({"parked": requests.parked, **head})]
    lines += [orjson.dumps((one.asked, one.ordinal, one.file, one.line)) for one in requests.requests]
    return _packed(lines)


def decode_requests(content: bytes) -> JobRequests:
    """Return a job's requests. Raises ValueError."""
    first, *rest = _lines(content)
    return JobRequests(requests=[JobRequest(*orjson.loads(line)) for line in rest], **orjson.loads(first))


@dataclass(frozen=True, slots=True)
class GivenBack:
    """A request that ended without an answer. `failed`: the provider tried, and may do so only some times."""

    asked: str
    ordinal: int
    failed: bool

    @property
    def key(self) -> AskedKey:
        return self.asked, self.ordinal


def encode_given_back(requests: Iterable[GivenBack]) -> bytes:
    return _packed(orjson.dumps((one.asked, one.ordinal, one.failed)) for one in requests)


def decode_given_back(content: bytes) -> Iterator[GivenBack]:
    """Yield what a job gave back. Raises ValueError."""
    for line in _lines(content):
        yield GivenBack(*orjson.loads(line))


def _packed(lines: Iterable[bytes]) -> bytes:
    import pyarrow as pa  # workflows import this module, and do without

    sink = pa.BufferOutputStream()
    with pa.CompressedOutputStream(sink, "zstd") as stream:
        for line in lines:
            stream.write(line + b"\n")
    return bytes(sink.getvalue())


def _lines(content: bytes) -> list[bytes]:
    import pyarrow as pa

    try:
        found: list[bytes] = pa.CompressedInputStream(pa.BufferReader(content), "zstd").read().splitlines()
    except OSError as exc:
        raise ValueError(f"the list of requests cannot be read: {exc}") from exc
    return found
