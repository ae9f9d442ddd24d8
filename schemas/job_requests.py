"""Which requests a provider job holds, and which of them it gave back: lists in the sink."""

import itertools
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

import orjson

from schemas.compressed_lines import compress, decompress

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
    first = orjson.dumps({"parked": requests.parked, **head})
    rest = (orjson.dumps((one.asked, one.ordinal, one.file, one.line)) for one in requests.requests)
    return compress(itertools.chain([first], rest))


def decode_requests(content: bytes) -> JobRequests:
    """Return a job's requests. Raises ValueError."""
    first, *rest = decompress(content, "the list of requests")
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
    return compress(orjson.dumps((one.asked, one.ordinal, one.failed)) for one in requests)


def decode_given_back(content: bytes) -> Iterator[GivenBack]:
    """Yield what a job gave back. Raises ValueError."""
    for line in decompress(content, "the list of requests"):
        yield GivenBack(*orjson.loads(line))
