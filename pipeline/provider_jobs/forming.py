"""Pack parked calls into jobs: up to the provider's limits, each request once, the same jobs from the same files."""

from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass, field

from pipeline.provider_jobs.base import JobClient
from pipeline.provider_jobs.learned import load_limits
from pipeline.provider_jobs.requests import Pool, asked_key, load_parked
from pipeline.stores import Store
from schemas.digests import digest
from schemas.job_requests import AskedKey, JobRequest, JobRequests, custom_id
from schemas.jobs import LearnedLimits
from schemas.parked import ParkedCall
from stages.models.wires.jobs.form import JobLimits
from stages.text.tokens import tokens_of_bytes

_NAME_BYTES = 8
_LONGEST_ID = custom_id("0" * 16, ("0" * 32, 999))


@dataclass(frozen=True)
class Formed:
    """The jobs that hold requests of the files, formed now or before; the files with requests that are in no job yet,
    or equal ones, and how many these requests are."""

    jobs: tuple[str, ...]
    open_files: tuple[str, ...]
    open_requests: int


def form_jobs(
    store: Store,
    run: str,
    pool: str,
    parked_keys: Iterable[str],
    *,
    client: JobClient,
    closing: bool,
) -> Formed:
    """Form jobs of the requests of these parked files, or of the lists of them in the `again` of an ended job: full
    jobs; with `closing`, one of the rest, too. Blocks; raises StoreError, Damaged.

    A request that a job holds is never put into another one before that job has given it back. A job that is named
    though it was collected already has a file that came late: it is to be collected once more."""
    places = Pool(store, run, pool)
    files = set(places.expanded(parked_keys))
    packing = _Packing(places, client, _limits(client.limits, load_limits(store, run, pool)), _Holders.of(places))
    for key in sorted(files):
        packing.add_file(key)
    return packing.end(closing=closing)


def _limits(documented: JobLimits, learned: LearnedLimits) -> "_Most":
    return _Most(
        min(documented.requests, learned.requests or documented.requests),
        min(documented.bytes, learned.bytes or documented.bytes),
        learned.tokens,
    )


@dataclass(frozen=True)
class _Most:
    requests: int
    bytes: int
    tokens: int | None


def _number(key: AskedKey) -> int:
    """Return a key as one number, which takes a fifth of its memory."""
    return int(key[0], 16) << 32 | key[1]


@dataclass
class _Holders:
    """The job that holds each request, in how many jobs a request was before that gave it back, and the parked files
    that each job was formed from."""

    jobs: dict[int, str] = field(default_factory=dict)
    files: dict[str, set[str]] = field(default_factory=dict)
    tries: dict[int, int] = field(default_factory=dict)

    @classmethod
    def of(cls, pool: Pool) -> "_Holders":
        holders = cls()
        formed = pool.formed()
        splits = {job: split for job in formed if (split := pool.split_of(job)) is not None}
        for job in formed:
            if job in splits:
                continue
            free = {_number(one.key) for one in pool.given_back(job)}
            held = pool.requests_of(job)
            holders.files[job] = set(held.parked)
            for request in held.requests:
                number = _number(request.key)
                if number in free:
                    holders.tries[number] = holders.tries.get(number, 0) + 1
                else:
                    holders.jobs[number] = job
        for job, split in splits.items():
            held = pool.requests_of(job)
            for name, part in (
                (split.part, held.requests[: split.requests]),
                (split.rest, held.requests[split.requests :]),
            ):
                if name not in formed:  # it is being split just now
                    holders.jobs.update((_number(request.key), name) for request in part)
                    holders.files[name] = set(held.parked)
        return holders


@dataclass
class _Open:
    """A job that is being packed."""

    files: dict[str, int] = field(default_factory=dict)
    requests: list[JobRequest] = field(default_factory=list)
    keys: set[int] = field(default_factory=set)
    bytes: int = 0
    tokens: int = 0
    model: str = ""
    most_nano_usd: int = 0
    most_tokens: int = 0
    last: deque[tuple[str, int, ParkedCall, int]] = field(default_factory=deque)  # what was added last

    def fits(self, size: int, most: _Most) -> bool:
        if not self.requests:
            return True
        if len(self.requests) >= most.requests or self.bytes + size > most.bytes:
            return False
        return most.tokens is None or self.tokens + tokens_of_bytes(size) <= most.tokens

    def add(self, file: str, line: int, call: ParkedCall, size: int) -> None:
        key = asked_key(call)
        self.requests.append(JobRequest(*key, self.files.setdefault(file, len(self.files)), line))
        self.keys.add(_number(key))
        self.bytes += size
        self.tokens += tokens_of_bytes(size)
        self.model = call.model
        self.most_nano_usd += call.most_nano_usd
        self.most_tokens += call.most_tokens
        self.last.append((file, line, call, size))

    def give_last(self, other: "_Open") -> None:
        """Let another job have the request that was added last. Any of our files may hold an equal one, and wait for
        it."""
        file, line, call, size = self.last.pop()
        self.requests.pop()
        self.keys.remove(_number(asked_key(call)))
        self.bytes -= size
        self.tokens -= tokens_of_bytes(size)
        self.most_nano_usd -= call.most_nano_usd
        self.most_tokens -= call.most_tokens
        for one in self.files:
            other.files.setdefault(one, len(other.files))
        other.add(file, line, call, size)

    def as_requests(self) -> JobRequests:
        return JobRequests(list(self.files), self.requests, self.model, self.most_nano_usd, self.most_tokens)


class _Packing:
    """Packs files one after the other. A job is written when no more fits into it, and the next one has as many
    requests as the provider wants at least: what that one lacks, this one gives it."""

    def __init__(self, pool: Pool, client: JobClient, most: _Most, holders: _Holders) -> None:
        self._pool = pool
        self._client = client
        self._most = most
        self._holders = holders
        self._seed = pool.seed()
        self._named: dict[str, None] = {}
        self._frame = len(client.framing.head) + len(client.framing.tail)
        self._least = client.limits.least
        self._full: _Open | None = None
        self._open = self._new()

    def _new(self) -> _Open:
        return _Open(bytes=self._frame, last=deque(maxlen=self._least))

    def add_file(self, file: str) -> None:
        late: dict[str, None] = {}
        for line, call in enumerate(load_parked(self._pool.store, file)):
            if call.pool != self._pool.name or not call.body:  # its row was forgotten
                continue
            number = _number(asked_key(call))
            holder = self._holders.jobs.get(number)
            if holder is not None:
                late[holder] = None
            elif (packed := self._packed(number)) is not None:
                packed.files.setdefault(file, len(packed.files))
            else:
                size = len(self._client.line(_LONGEST_ID, call.body)) + len(self._client.framing.between)
                if not self._open.fits(size, self._most):
                    self._write_full()
                    self._full, self._open = self._open, self._new()
                self._open.add(file, line, call, size)
                if len(self._open.requests) >= self._least:
                    self._write_full()
        for job in late:
            self._named[job] = None
            if file not in self._holders.files[job]:
                self._pool.note_late(job, file)

    def _packed(self, number: int) -> _Open | None:
        """Return the job that a request is in and that is not written yet."""
        jobs = [job for job in (self._open, self._full) if job is not None]
        return next((job for job in jobs if number in job.keys), None)

    def _write_full(self) -> None:
        if self._full is not None:
            self._write(self._full)
            self._full = None

    def _write(self, packed: _Open) -> None:
        """Write a job. Its name is of its requests, and of how often each was in a job before."""
        requests = packed.as_requests()
        tries = self._holders.tries
        parts = [f"{one.asked} {one.ordinal} {tries.get(_number(one.key), 0)}" for one in requests.requests]
        job = digest(self._seed, *sorted(parts), size=_NAME_BYTES)
        self._pool.put_requests(job, requests)
        self._named[job] = None
        self._holders.jobs.update(dict.fromkeys(packed.keys, job))
        self._holders.files[job] = set(requests.parked)

    def end(self, *, closing: bool) -> Formed:
        full, packed = self._full, self._open
        if closing and full is not None and len(full.requests) + len(packed.requests) >= 2 * self._least:
            while len(packed.requests) < self._least:
                full.give_last(packed)
        self._write_full()
        if packed.requests and (closing or len(packed.requests) >= self._most.requests):
            self._write(packed)
            self._open = self._new()
        return Formed(tuple(self._named), tuple(sorted(self._open.files)), len(self._open.requests))
