"""How far jobs are: one asked of its provider, or all of a run as they were last seen; and their cancellation."""

import asyncio

from pipeline.limits.job_budget import job_names
from pipeline.provider_jobs import learned
from pipeline.provider_jobs.base import JobClient
from pipeline.provider_jobs.requests import Pool
from pipeline.provider_jobs.submission import Patience, state_of, withdraw
from pipeline.stores import Store
from pipeline.stores.documents import read_document
from schemas import ids
from schemas.errors import ObjectMissing, RowError
from schemas.job_requests import JobRequests
from schemas.jobs import JobFacts, JobState
from stages.models.wires.jobs.form import JobStatus


async def poll(store: Store, run: str, pool: str, job: str, client: JobClient) -> JobState:
    """Return how far a job is at its provider. Raises TransientModelError, FatalModelError, StoreError."""
    places = Pool(store, run, pool)
    done = await asyncio.to_thread(places.submitted, job)
    if done is None:
        return JobState(job=job, state="waiting", message="not submitted yet")
    if not done.id:
        return state_of(job, done)
    state = _state(job, await client.status(done.id))
    await asyncio.to_thread(_note, places, state)
    return state


def _state(job: str, status: JobStatus) -> JobState:
    return JobState(
        job=job,
        state=status.state,
        id=status.id,
        requests=status.total,
        done=status.done,
        failed=status.failed,
        deadline=status.deadline,
        message=status.message,
    )


def _note(pool: Pool, state: JobState) -> None:
    """Keep the state for people; a job that is worked on shows that the provider's queue has room."""
    pool.store.put(ids.job_state(pool.run, pool.name, state.job), state.model_dump_json().encode())
    if state.state in ("running", "ended"):
        learned.note_room(pool.store, pool.run, pool.name)


async def cancel(
    store: Store, run: str, pool: str, job: str, client: JobClient, *, patience: Patience | None = None
) -> JobState:
    """Ask the provider to stop a job; one that was not created never will be. What it has finished is to be collected
    when it is over. Returns `waiting` as long as it is not known whether it was created: it is to be cancelled again
    then. Raises TransientModelError, FatalModelError, StoreError."""
    state = await withdraw(store, run, pool, job, client, patience=patience)
    if not state.id:
        return state
    try:
        await client.cancel(state.id)
    except RowError:
        state = await poll(store, run, pool, job, client)
        if state.over:  # it has ended just then, and a job that is over cannot be cancelled
            return state
        raise
    return await poll(store, run, pool, job, client)


# Facts for people ----------------------------------------------------------------------------------------------------


def described(store: Store, run: str, pool: str, job: str) -> JobRequests:
    """Return the requests of a job, with the most that it may cost. Blocks; raises StoreError, Damaged."""
    return Pool(store, run, pool).requests_of(job)


def jobs_of(store: Store, run: str) -> list[JobFacts]:
    """Return the jobs of a run as they were last seen, in the order of their submission. Blocks; raises StoreError,
    Damaged."""
    places = [(Pool(store, run, name), job) for name, job in job_names(store, run)]
    found = [_facts(pool, job) for pool, job in places if pool.has(job) and pool.split_of(job) is None]
    return sorted(found, key=lambda facts: (facts.submitted_at or float("inf"), facts.job))


def _facts(pool: Pool, job: str) -> JobFacts:
    intent, done, end = pool.intent(job), pool.submitted(job), pool.ended(job)
    facts = JobFacts(pool=pool.name, job=job)
    if intent is not None:
        facts = facts.model_copy(update={"model": intent.model, "requests": intent.requests, "state": "waiting"})
    if done is not None:
        facts = facts.model_copy(
            update={"id": done.id, "submitted_at": done.at, "state": state_of(job, done).state} | _last_seen(pool, job)
        )
    if end is not None:
        facts = facts.model_copy(
            update={
                "state": end.state,
                "ended_at": end.at,
                "done": end.answered,
                "failed": end.refused,
                "cost_usd": end.cost_usd,
                "saved_usd": end.saved_usd,
                "message": end.message,
            }
        )
    return facts


def _last_seen(pool: Pool, job: str) -> dict[str, object]:
    try:
        state = read_document(pool.store, ids.job_state(pool.run, pool.name, job), JobState)
    except ObjectMissing:
        return {}
    return {name: getattr(state, name) for name in ("state", "deadline", "done", "failed", "message")}
