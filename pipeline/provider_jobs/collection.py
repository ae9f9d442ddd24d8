"""Collect the answers of a job that is over: records in the journal of every partition that parked one of its requests.

Results are spilled to a local file, and joined with the parked files one file at a time, so memory does not grow with
the job. All that is written has a name of its content, so a job may be collected again: after an interruption, and for
files that came late. The row that a request was sent for pays; copies for all others are `carried`.
"""

import asyncio
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import orjson

from pipeline.provider_jobs import learned, refusals
from pipeline.provider_jobs.answer_files import AnswerFiles, Total
from pipeline.provider_jobs.answers import Answering, Outcome
from pipeline.provider_jobs.base import JobClient
from pipeline.provider_jobs.late_files import CollectedAnswers
from pipeline.provider_jobs.provider_files import delete_files
from pipeline.provider_jobs.requests import Pool, asked_key
from pipeline.provider_jobs.spill import Spill
from pipeline.stores import Store
from schemas import ids
from schemas.errors import TransientModelError
from schemas.job_requests import GivenBack, JobRequests, encode_given_back
from schemas.jobs import JobEnd, Submitted
from schemas.parked import ParkedCall
from stages.journal.records import CallKey
from stages.models.backend import Backend
from stages.models.wires.jobs.form import JobStatus


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
            if before is None:
                await self._collect(done, late)
            elif not set(late) <= set(before.late):
                await asyncio.to_thread(self._hand_on, before, late)
            else:
                await delete_files(self.pool, self.job, self.client)
                return before

    async def _collect(self, done: Submitted, late: Sequence[str]) -> None:
        """Write the records of one file after the other."""
        held = await asyncio.to_thread(self.pool.requests_of, self.job)
        status = await self._status(done)
        with tempfile.TemporaryDirectory(prefix="tandem-results-") as folder:
            spill = Spill(Path(folder) / "answers.jsonl")
            answers = self.client.results(status.id, Path(folder)) if done.id and status.state != "failed" else _none()
            await spill.fill(answers, f"{self.job}-", (one.key for one in held.requests))
            if await asyncio.to_thread(self.pool.ended, self.job) is not None:
                return  # another worker overtook this one and deleted the files, so what was read may be a part of them
            reading = await asyncio.to_thread(self._reading, held, spill, status)
            files, total = AnswerFiles(self.pool, self.job, held), Total(self.backend.price)
            for number, file in enumerate([*held.parked, *late]):
                formed = number if number < len(held.parked) else None
                await asyncio.to_thread(files.write, file, formed, reading.outcomes, total)
            await asyncio.to_thread(self._end, reading, total, tuple(late))

    def _hand_on(self, before: JobEnd, late: Sequence[str]) -> None:
        """Write records of files that came late, of answers that are in journals already. Blocks."""
        total = Total(self.backend.price)
        files = AnswerFiles(self.pool, self.job, self.pool.requests_of(self.job))
        collected = CollectedAnswers(self.pool, self.job, before.id)
        for file in late:
            if file not in before.late:
                files.write(file, None, collected.outcomes, total)
        if collected.lost:
            kept = [*self.pool.given_back(self.job), *collected.lost.values()]
            self.pool.store.put(ids.job_given_back(*self._place), encode_given_back(kept))
        again = dict.fromkeys((*before.again, *self.pool.put_again(self.job, total.again)))
        self._put_end(before.model_copy(update={"late": tuple(late), "again": tuple(again)}))

    async def _status(self, done: Submitted) -> JobStatus:
        if not done.id:
            return refusals.status_of(done)
        status = await self.client.status(done.id)
        if status.state in ("queued", "running"):
            raise TransientModelError(f"the job {self.job} is not over yet")
        return status

    def _reading(self, held: JobRequests, spill: Spill, status: JobStatus) -> "_Reading":
        failures = Counter(one.key for job in self.pool.jobs() if job != self.job for one in self._failed_in(job))
        verdict = refusals.Verdict()
        if status.state == "failed":
            verdict = refusals.verdict(self.pool.store, self.client, status, held)
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

    def _end(self, reading: "_Reading", total: Total, late: tuple[str, ...]) -> None:
        self.pool.store.put(ids.job_given_back(*self._place), encode_given_back(total.given_back))
        reading.learn(self.pause_s)
        self._put_end(reading.end(total, late))

    def _put_end(self, end: JobEnd) -> None:
        self.pool.store.put(ids.job_ended(*self._place), end.model_dump_json().encode())

    @property
    def _place(self) -> tuple[str, str, str]:
        return self.pool.run, self.pool.name, self.job


@dataclass
class _Reading:
    """A job's results."""

    pool: Pool
    job: str
    held: JobRequests
    spill: Spill
    status: JobStatus
    verdict: "refusals.Verdict"
    answering: Answering

    def outcomes(self, calls: Sequence[ParkedCall], batch: int) -> Callable[[ParkedCall], Outcome]:
        """Return what became of calls of a batch."""

        def outcome_of(call: ParkedCall) -> Outcome:
            key = asked_key(call)
            return self.verdict.outcome(key) or self.answering.outcome(call, batch, *self.spill.get(key))

        return outcome_of

    def learn(self, pause_s: float) -> None:
        """Keep what the job's refusal shows of the provider's limits."""
        place = self.pool.store, self.pool.run, self.pool.name
        if self.verdict.kind == "full":
            learned.note_full_queue(*place, self.status.message, pause_s)
        elif self.verdict.kind == "too_large":
            intent = self.pool.intent(self.job)
            learned.note_too_large(*place, len(self.held.requests), intent.bytes if intent is not None else 0)

    def end(self, total: Total, late: tuple[str, ...]) -> JobEnd:
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
            least=self.answering.client.limits.least if self.verdict.kind == "too_small" else 0,
        )


def _message(status: JobStatus, requests: int, missing: int, unknown: int) -> str:
    parts = [status.message] if status.message else []
    if missing:
        parts.append(f"{missing:,} of {requests:,} requests have no result; they are asked again")
    if unknown:
        parts.append(f"{unknown:,} results are of requests that were not made, or came twice; they are not used")
    return "; ".join(parts)


async def _none() -> Any:
    return
    yield
