"""Split a job that does not fit its budget as a whole: what fits is one job, the rest another one.

The division is decided by one object, put if absent, before either of the two exists; whoever finds it writes both.
"""

from collections.abc import Iterator
from itertools import groupby, islice

from pipeline.provider_jobs.requests import Pool, load_parked
from schemas.digests import digest
from schemas.job_requests import JobRequest, JobRequests
from schemas.jobs import Split
from stages.limits.budget import NOTHING, Amount

_NAME_BYTES = 8


def split(pool: Pool, job: str, left: Amount, least: int = 1) -> Split | None:
    """Return the two jobs that a job is split in, now or before, each of the least number of requests or more; None if
    all of it fits into the amount that is left, no such part does, or it may have been sent. Blocks; raises StoreError,
    Damaged."""
    done = pool.split_of(job)
    if done is None and pool.intent(job) is None:
        held = pool.requests_of(job)
        number = len(held.requests)
        first = _fitting(pool, held, left)
        part = min(first, number - least)  # the rest is a job, too
        if first < number and part >= least:
            names = [digest(pool.seed(), job, which, str(part), size=_NAME_BYTES) for which in ("part", "rest")]
            done = pool.put_split(job, Split(part=names[0], rest=names[1], requests=part))
    if done is not None:
        _put_parts(pool, job, done)
    return done


def first_most(pool: Pool, job: str, least: int = 1) -> Amount:
    """Return the most that the first part of a job may cost, of the least number of requests, without which nothing of
    it can be submitted: all of it, where the rest would be too small. Blocks; raises StoreError, Damaged."""
    held = pool.requests_of(job)
    number = least if len(held.requests) >= 2 * least else len(held.requests)
    return sum((most for _, most in islice(_amounts(pool, held), number)), NOTHING)


def _fitting(pool: Pool, held: JobRequests, left: Amount) -> int:
    """Return the number of requests, from the first, that fit into an amount."""
    total = NOTHING
    for number, (_, most) in enumerate(_amounts(pool, held)):
        total += most
        if total.nanos > left.nanos or total.tokens > left.tokens:
            return number
    return len(held.requests)


def _amounts(pool: Pool, held: JobRequests) -> Iterator[tuple[JobRequest, Amount]]:
    """Yield the requests of a job with the most that each may cost, one parked file in memory at a time."""
    for file, requests in groupby(held.requests, key=lambda request: request.file):
        calls = load_parked(pool.store, held.parked[file])
        for one in requests:
            call = calls[one.line]
            yield one, Amount(call.most_nano_usd, call.most_tokens)


def _put_parts(pool: Pool, job: str, done: Split) -> None:
    """Write the two jobs, and hand on what came late to the one that they were."""
    held = pool.requests_of(job)
    found = list(_amounts(pool, held))
    late = pool.late_files(job)
    for name, part in ((done.part, found[: done.requests]), (done.rest, found[done.requests :])):
        most = sum((amount for _, amount in part), NOTHING)
        requests = JobRequests(held.parked, [one for one, _ in part], held.model, most.nanos, most.tokens)
        pool.put_requests(name, requests)
        for file in late:
            pool.note_late(name, file)
