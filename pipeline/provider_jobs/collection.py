"""Collect the answers of a job that is over: records in the journal of every partition that parked one of its requests.

Results are spilled to a local file, and joined with the parked files one file at a time, so memory does not grow with
the job. All that is written has a name of its content, so a job may be collected again: after an interruption, and for
files that came late. The row that a request was sent for pays; copies for all others are `carried`.
"""

import asyncio
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import orjson

from pipeline.provider_jobs import learned, refusals
from pipeline.provider_jobs.answers import Answering, Outcome
from pipeline.provider_jobs.base import JobClient
from pipeline.provider_jobs.requests import Pool, asked_key, load_parked
from pipeline.provider_jobs.spill import Spill
from pipeline.stores import Store
from schemas import ids
from schemas.digests import digest
from schemas.errors import FatalModelError, ObjectMissing, TransientModelError
from schemas.job_requests import AskedKey, GivenBack, JobRequests, encode_given_back
from schemas.jobs import JobEnd, Submitted
from schemas.parked import ParkedCall, encode
from stages import observer
from stages.journal.records import CallKey, CallRecord, Record, encode_record
from stages.journal.requests import KeptRequests, RequestText
from stages.journal.segments import line_of, segment_of
from stages.limits.budget import amount_of
from stages.limits.prices import Pricer
from stages.models.backend import Backend
from stages.models.wires.jobs.form import JobStatus

_SEGMENT_BYTES = 4_000_000


async def collect(
    store: Store, run: str, pool: str, job: str, client: JobClient, backend: Backend, *, pause_s: float = 60.0
) -> JobEnd:
    """Collect a job that is over, and return how it ended; a second time, only what is new. `pause_s`: the first wait
    after a full queue. Raises TransientModelError if the job is not over or cannot be read now, FatalModelError,
    StoreError, Damaged."""
    return await _Collection(Pool(store, run, pool), job, client, backend, pause_s).run()


def refused_calls(store: Store, run: str, partition: str) -> dict[CallKey, dict[str, Any]]:
    """Return the errors of a partition's calls that a provider refused in jobs, as rejects have them. Blocks; raises
    StoreError."""
    found: dict[CallKey, dict[str, Any]] = {}
    for info in store.list(ids.refused_calls(run, partition)):
        for line in store.get(info.key).splitlines():
            request, ordinal, error = orjson.loads(line)
            found[request, ordinal] = error
    return found


@dataclass
class _Sum:
    """What became of a job's requests, each counted once; of the row that pays. `price`: the standard one."""

    price: Pricer
    counts: Counter[str] = field(default_factory=Counter)
    given_back: list[GivenBack] = field(default_factory=list)
    again: list[str] = field(default_factory=list)
    cost_usd: float | None = 0.0
    standard_usd: float = 0.0
    nano_usd: int = 0
    tokens: int = 0
    fatal: FatalModelError | None = None

    def add(self, key: AskedKey, outcome: Outcome, *, missing: bool) -> None:
        self.fatal = self.fatal or outcome.fatal
        if outcome.again:
            self.given_back.append(GivenBack(*key, outcome.failed))
            self.counts["missing"] += missing
        elif outcome.refused is not None:
            self.counts["refused"] += 1
        else:
            self.counts["answered"] += 1
        if (record := outcome.record) is None or record.raw is None:
            return
        amount = amount_of(record.cost_usd, record.usage["input"] + record.usage["output"])
        self.nano_usd += amount.nanos
        self.tokens += amount.tokens
        known = self.cost_usd is not None and record.cost_usd is not None
        self.cost_usd = (self.cost_usd or 0.0) + (record.cost_usd or 0.0) if known else None
        self.standard_usd += self.price(record.usage) or 0.0
        if (seen := observer.current) is not None:
            seen.call_answered(record.model, record.usage, record.cost_usd, "batch")


@dataclass
class _Collection:
    """One attempt to collect a job."""

    pool: Pool
    job: str
    client: JobClient
    backend: Backend
    pause_s: float

    async def run(self) -> JobEnd:
        done = await asyncio.to_thread(self.pool.submitted, self.job)
        if done is None:
            raise TransientModelError(f"the job {self.job} is not submitted yet")
        while True:  # files may come meanwhile
            before = await asyncio.to_thread(self.pool.ended, self.job)
            late = await asyncio.to_thread(self.pool.late_files, self.job)
            if before is not None and set(late) <= set(before.late):
                return before
            await self._collect(done, before, late)

    async def _collect(self, done: Submitted, before: JobEnd | None, late: Sequence[str]) -> None:
        held = await asyncio.to_thread(self.pool.requests_of, self.job)
        status = await self._status(done)
        with tempfile.TemporaryDirectory(prefix="tandem-results-") as folder:
            spill = Spill(Path(folder) / "answers.jsonl")
            answers = self.client.results(status.id, Path(folder)) if done.id and status.state != "failed" else _none()
            await spill.fill(answers, f"{self.job}-", (one.key for one in held.requests))
            reading = await asyncio.to_thread(self._reading, held, spill, status)
            await self._write(reading, before, late)

    async def _status(self, done: Submitted) -> JobStatus:
        if not done.id:
            return refusals.status_of(done)
        status = await self.client.status(done.id)
        if status.state in ("queued", "running"):
            raise TransientModelError(f"the job {self.job} is not over yet")
        return status

    def _reading(self, held: JobRequests, spill: Spill, status: JobStatus) -> "_Reading":
        failures = Counter(one.key for job in self.pool.jobs() if job != self.job for one in self._failed_in(job))
        verdict = refusals.Verdict() if status.state != "failed" else refusals.verdict(self.client, status, held)
        return _Reading(
            pool=self.pool,
            job=self.job,
            held=held,
            spill=spill,
            status=status,
            verdict=verdict,
            answering=Answering(
                client=self.client,
                backend=self.backend,
                run=self.pool.run,
                job=self.job,
                id=status.id,
                at=self.pool.collected_at(self.job),
                early=status.state in ("expired", "cancelled"),
                tries=lambda call: failures[asked_key(call)],
            ),
        )

    def _failed_in(self, job: str) -> Iterator[GivenBack]:
        return (one for one in self.pool.given_back(job) if one.failed)

    async def _write(self, reading: "_Reading", before: JobEnd | None, late: Sequence[str]) -> None:
        """Write the records of one file after the other; of a job that was collected before, those of late files."""
        total = _Sum(self.backend.price)
        formed = reading.held.parked if before is None else []
        known = before.late if before is not None else ()
        for number, file in enumerate([*formed, *(file for file in late if file not in known)]):
            await asyncio.to_thread(reading.write_file, file, number if number < len(formed) else None, total)
        await asyncio.to_thread(self._end, reading, total, before, tuple(late))

    def _end(self, reading: "_Reading", total: _Sum, before: JobEnd | None, late: tuple[str, ...]) -> None:
        store, run, pool = self.pool.store, self.pool.run, self.pool.name
        if before is not None:
            again = dict.fromkeys((*before.again, *self.pool.put_again(self.job, total.again)))
            end = before.model_copy(update={"late": late, "again": tuple(again)})
        else:
            content = encode_given_back(total.given_back)
            store.put(ids.job_given_back(run, pool, self.job), content)
            reading.learn(self.pause_s)
            end = reading.end(total, late)
        store.put(ids.job_ended(run, pool, self.job), end.model_dump_json().encode())


@dataclass
class _Reading:
    """A job's results, and the files that wait for them."""

    pool: Pool
    job: str
    held: JobRequests
    spill: Spill
    status: JobStatus
    verdict: "refusals.Verdict"
    answering: Answering

    def __post_init__(self) -> None:
        self._payers = {one.key: (one.file, one.line) for one in self.held.requests}

    def write_file(self, file: str, number: int | None, total: _Sum) -> None:
        """Write what became of the calls of a parked file, the `number`-th of those that the job was formed from."""
        _, partition, batch = ids.parse_parked(file)
        records = _Records(self.pool, partition, batch, digest(self.job, file))
        refused, again = list[tuple[ParkedCall, Mapping[str, Any]]](), list[ParkedCall]()
        try:
            calls = load_parked(self.pool.store, file)
        except ObjectMissing:  # taken out with the rows that it held
            return
        for line, call in enumerate(calls):
            key = asked_key(call)
            payer = self._payers.get(key)
            if payer is None or call.pool != self.pool.name:
                continue
            pays = payer == (number, line)
            answer, size = self.spill.get(key)
            outcome = self.verdict.outcome(key) or self.answering.outcome(call, batch, answer, size)
            if pays:
                total.add(key, outcome, missing=answer is None and not self.answering.early)
            if outcome.refused is not None:
                refused.append((call, outcome.refused))
            if outcome.again:
                again.append(call)
            records.add(call, outcome.record, pays=pays)
        records.close()
        self._put_refused(partition, file, refused)
        if again:
            content = encode(again)
            key_again = ids.parked_file(self.pool.run, partition, batch, digest(self.job, file, content))
            self.pool.store.put_absent(key_again, content)
            total.again.append(key_again)

    def _put_refused(self, partition: str, file: str, refused: Sequence[tuple[ParkedCall, Mapping[str, Any]]]) -> None:
        if not refused:
            return
        lines = [orjson.dumps((call.request, call.ordinal, error)) for call, error in refused]
        key = ids.refused_calls_of(self.pool.run, partition, self.job, digest(file))
        self.pool.store.put_absent(key, b"\n".join(lines) + b"\n")

    def learn(self, pause_s: float) -> None:
        """Keep what the job's refusal shows of the provider's limits."""
        place = self.pool.store, self.pool.run, self.pool.name
        if self.verdict.kind == "full":
            learned.note_full_queue(*place, self.status.message, pause_s)
        elif self.verdict.kind == "too_large":
            intent = self.pool.intent(self.job)
            learned.note_too_large(*place, len(self.held.requests), intent.bytes if intent is not None else 0)

    def end(self, total: _Sum, late: tuple[str, ...]) -> JobEnd:
        fatal = self.verdict.fatal or total.fatal
        missing, unknown = total.counts["missing"], self.spill.unknown
        return JobEnd(
            job=self.job,
            id=self.status.id,
            state=self.status.state,
            requests=len(self.held.requests),
            answered=total.counts["answered"],
            refused=total.counts["refused"],
            given_back=len(total.given_back),
            missing=missing,
            unknown_ids=unknown,
            again=self.pool.put_again(self.job, total.again),
            cost_usd=total.cost_usd,
            saved_usd=None if total.cost_usd is None else total.standard_usd - total.cost_usd,
            nano_usd=total.nano_usd,
            tokens=total.tokens,
            message=_message(self.status, len(self.held.requests), missing, unknown),
            fatal=fatal.message if fatal is not None else "",
            hint=fatal.hint if fatal is not None else "",
            at=time.time(),
            late=late,
        )


def _message(status: JobStatus, requests: int, missing: int, unknown: int) -> str:
    parts = [status.message] if status.message else []
    if missing:
        parts.append(f"{missing:,} of {requests:,} requests have no result; they are asked again")
    if unknown:
        parts.append(f"{unknown:,} results are of requests that were not made, or came twice; they are not used")
    return "; ".join(parts)


@dataclass
class _Records:
    """The segments of one parked file: its calls with their requests, each under a name of the job and the file."""

    pool: Pool
    partition: str
    batch: int
    name: str
    _lines: list[bytes] = field(default_factory=list)
    _bytes: int = 0
    _written: int = 0
    _kept: KeptRequests = field(default_factory=KeptRequests)
    _copied: set[tuple[CallKey, str]] = field(default_factory=set)

    def add(self, call: ParkedCall, record: CallRecord | None, *, pays: bool) -> None:
        """Add the record of a call. One row needs one copy only."""
        if record is None or (record.raw is None and not pays) or (record.key, call.row) in self._copied:
            return
        self._copied.add((record.key, call.row))
        if not pays:
            record = replace(record, carried=True)
        if call.messages:
            for kept in self._kept.records_of(record, RequestText(call.common.encode(), call.messages.encode())):
                self._kept.has(kept)
                self._note(kept)
        self._note(record)
        if self._bytes >= _SEGMENT_BYTES:
            self.close()

    def _note(self, record: Record) -> None:
        line = line_of(encode_record(record))
        self._lines.append(line)
        self._bytes += len(line)

    def close(self) -> None:
        """Store what was added since."""
        if self._lines:
            nonce = digest(self.name, str(self._written))
            key = ids.journal_segment(self.partition, self.pool.run, self.batch, nonce)
            self.pool.store.put_absent(key, segment_of(self._lines))
            self._lines, self._bytes = [], 0
            self._written += 1


async def _none() -> Any:
    return
    yield
