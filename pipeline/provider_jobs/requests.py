"""The requests of a pool's jobs: which job holds which, and the content that it sends."""

import hashlib
import uuid
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby, islice
from pathlib import Path

import orjson

from pipeline.provider_jobs.base import Content, JobClient
from pipeline.stores import Store
from pipeline.stores.documents import Document, read_document
from schemas import ids
from schemas.digests import digest
from schemas.errors import Damaged, ObjectMissing
from schemas.job_requests import (
    AskedKey,
    GivenBack,
    JobRequest,
    JobRequests,
    custom_id,
    decode_given_back,
    decode_requests,
    encode_requests,
)
from schemas.jobs import Intent, JobEnd, Split, Submitted
from schemas.parked import ParkedCall, decode
from stages.journal.records import now
from stages.text.tokens import tokens_of_bytes


@dataclass(frozen=True)
class Pool:
    """The jobs of a run with one model at one address, paid for by one account; `name`: 16 hex digits."""

    store: Store
    run: str
    name: str

    def jobs(self) -> Sequence[str]:
        """Return the names of the jobs that were formed, and not split."""
        return [job for job in self.formed() if self.split_of(job) is None]

    def formed(self) -> Sequence[str]:
        """Return the names of the jobs that were formed, those among them that were split."""
        return [job for job in self.store.folders(ids.pool_folder(self.run, self.name)) if self.has(job)]

    def has(self, job: str) -> bool:
        return self.store.head(ids.job_requests(self.run, self.name, job)) is not None

    def requests_of(self, job: str) -> JobRequests:
        """Return the requests of a job. Raises ObjectMissing, Damaged, StoreError."""
        key = ids.job_requests(self.run, self.name, job)
        try:
            return decode_requests(self.store.get(key))
        except ValueError as exc:
            raise Damaged(f"{self.store.uri}/{key}: {exc}.", hint="Run it again under another --name.") from exc

    def put_requests(self, job: str, requests: JobRequests) -> None:
        self.store.put_absent(ids.job_requests(self.run, self.name, job), encode_requests(requests))

    def split_of(self, job: str) -> Split | None:
        """Return the two jobs that are in the place of this one; None if it was not split."""
        return self._document(ids.job_split(self.run, self.name, job), Split)

    def put_split(self, job: str, split: Split) -> Split | None:
        """Decide how a job is split, unless that was decided before. Returns what is decided."""
        self.store.put_absent(ids.job_split(self.run, self.name, job), split.model_dump_json().encode())
        return self.split_of(job)

    def given_back(self, job: str) -> Iterator[GivenBack]:
        """Yield the requests that a job was formed with and that another one may hold: it ended without their
        answers."""
        try:
            content = self.store.get(ids.job_given_back(self.run, self.name, job))
        except ObjectMissing:
            return
        yield from decode_given_back(content)

    def submitted(self, job: str) -> Submitted | None:
        """Return how a job was submitted; None if it was not."""
        return self._document(ids.job_submitted(self.run, self.name, job), Submitted)

    def ended(self, job: str) -> JobEnd | None:
        """Return how a job ended; None if it was not collected."""
        return self._document(ids.job_ended(self.run, self.name, job), JobEnd)

    def is_out(self, job: str, since: float = 0.0) -> bool:
        """True if the provider may be at work on a job that was submitted after a time."""
        done = self.submitted(job)
        return done is not None and bool(done.id) and done.at > since and self.ended(job) is None

    def intent(self, job: str) -> Intent | None:
        """Return what is to be submitted; None if nothing was sent yet."""
        return self._document(ids.job_intent(self.run, self.name, job), Intent)

    def _document(self, key: str, kind: type[Document]) -> Document | None:
        try:
            return read_document(self.store, key, kind)
        except ObjectMissing:
            return None

    def collected_at(self, job: str) -> float:
        """Return when a job's answers were first read, in seconds since the epoch: the first time, that is now."""
        key = ids.job_collected(self.run, self.name, job)
        self.store.put_absent(key, orjson.dumps({"at": now()}))
        at: float = orjson.loads(self.store.get(key))["at"]
        return at

    def expanded(self, keys: Iterable[str]) -> Iterator[str]:
        """Yield parked files, those of lists of what a job gave back among them."""
        for key in keys:
            if ids.is_job_again(key):
                yield from orjson.loads(self.store.get(key))
            else:
                yield key

    def put_again(self, job: str, files: Sequence[str]) -> tuple[str, ...]:
        """Store a list of parked files with what a job gave back; return its key, nothing for an empty list."""
        if not files:
            return ()
        content = orjson.dumps(sorted(files))
        key = ids.job_again(self.run, self.name, job, digest(content))
        self.store.put_absent(key, content)
        return (key,)

    def note_late(self, job: str, parked_key: str) -> None:
        """Note that a parked file came after its job was formed."""
        content = orjson.dumps({"parked": parked_key})
        self.store.put_absent(ids.job_late(self.run, self.name, job, parked_key), content)

    def late_files(self, job: str) -> list[str]:
        infos = self.store.list(ids.job_late(self.run, self.name, job))
        return [orjson.loads(self.store.get(info.key))["parked"] for info in infos]

    def seed(self) -> str:
        """Return the text that makes the names of this pool's jobs its own: the first process writes it."""
        key = ids.pool_seed(self.run, self.name)
        self.store.put_absent(key, orjson.dumps({"seed": uuid.uuid4().hex}))
        seed: str = orjson.loads(self.store.get(key))["seed"]
        return seed


def asked_key(call: ParkedCall) -> AskedKey:
    """Return the key by which calls are equal: two of one request under different caps are not."""
    return call.capped or call.request, call.ordinal


def load_parked(store: Store, key: str) -> list[ParkedCall]:
    """Return the calls of a parked file. Raises ObjectMissing, Damaged, StoreError."""
    try:
        return decode(store.get(key))
    except ValueError as exc:
        raise Damaged(f"{store.uri}/{key}: {exc}.", hint="Run it again under another --name.") from exc


def write_content(pool: Pool, job: str, client: JobClient, path: Path) -> Content:
    """Write what a job sends to a local file, one parked file in memory at a time: the same bytes each time."""
    state, size, tokens, count = hashlib.sha256(), 0, 0, 0
    held = pool.requests_of(job)
    with path.open("wb") as out:
        pieces = [client.framing.head]
        for lines in _lines(pool, job, client, held):
            for line in lines:
                tokens += tokens_of_bytes(len(line))
                pieces += [line] if count == 0 else [client.framing.between, line]
                count += 1
            piece = b"".join(pieces)
            out.write(piece)
            state.update(piece)
            size += len(piece)
            pieces = []
        out.write(client.framing.tail)
        state.update(client.framing.tail)
    return Content(path, size + len(client.framing.tail), state.hexdigest(), tokens, count)


def _lines(pool: Pool, job: str, client: JobClient, held: JobRequests) -> Iterator[list[bytes]]:
    """Yield the lines of each parked file, in the order of the job's requests."""
    for sent in _sent(pool.store, held):
        yield [client.line(custom_id(job, one.key), call.body) for one, call in sent]


def _sent(store: Store, held: JobRequests) -> Iterator[list[tuple[JobRequest, ParkedCall]]]:
    """Yield the requests of each parked file that are sent: the call of a row that was forgotten is empty."""
    for file, requests in groupby(held.requests, key=lambda request: request.file):
        calls = load_parked(store, held.parked[file])
        yield [(one, calls[one.line]) for one in requests if calls[one.line].body]


def request_at(store: Store, held: JobRequests, line: int) -> JobRequest | None:
    """Return the request in a line of the content, counted from 1; None if there is no such line. Blocks; raises
    StoreError, Damaged."""
    if line < 1:
        return None
    requests = (one for sent in _sent(store, held) for one, _ in sent)
    return next(islice(requests, line - 1, None), None)
