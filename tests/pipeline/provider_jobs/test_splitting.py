"""A job that does not fit its budget is split: what fits is submitted, the rest waits, and nothing is in two jobs."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from pipeline.provider_jobs.collection import collect
from pipeline.provider_jobs.forming import form_jobs
from pipeline.provider_jobs.requests import Pool
from pipeline.provider_jobs.splitting import first_most, split
from pipeline.stores.memory import MemoryStore
from schemas.jobs import Split
from stages.limits.budget import Amount
from tests.harness.model_server import ModelServer
from tests.pipeline.provider_jobs.support import OPENAI, POOL, RUN, calls, over, park, some, submitted

MOST = Amount(5, 7)  # of each request


def a_pool(server: ModelServer, rows: Sequence[int] = range(6)) -> tuple[Pool, str]:
    store = MemoryStore()
    keys = [
        park(store, "day=1", 0, some(OPENAI.model(server), OPENAI, rows[:4])),
        park(store, "day=2", 0, some(OPENAI.model(server), OPENAI, rows[4:])),
    ]
    (job,) = form_jobs(store, RUN, POOL, keys, client=OPENAI.client(server), closing=True).jobs
    return Pool(store, RUN, POOL), job


def a_split(pool: Pool, job: str, requests: int) -> Split:
    done = split(pool, job, Amount(5 * requests, 7 * requests))
    assert done is not None
    return done


async def test_what_fits_is_one_job_and_the_rest_another(model_server: ModelServer) -> None:
    pool, job = a_pool(model_server)
    done = a_split(pool, job, 4)
    assert sorted(pool.jobs()) == sorted([done.part, done.rest])
    first, rest = pool.requests_of(done.part), pool.requests_of(done.rest)
    assert (len(first.requests), first.most_nano_usd, first.most_tokens) == (4, 20, 28)
    assert (len(rest.requests), rest.most_nano_usd, rest.most_tokens) == (2, 10, 14)
    client = OPENAI.client(model_server)
    for name in (done.part, done.rest):
        await over(pool.store, name, client)
        await collect(pool.store, RUN, POOL, name, client, OPENAI.backend())
    assert len(calls(pool.store, "day=1")) == 4
    assert len(calls(pool.store, "day=2")) == 2
    counts = model_server.jobs()
    assert (counts["submitted"], counts["most_submitted"]) == (6, 1)


def test_a_job_is_split_once_whatever_is_left_later(model_server: ModelServer) -> None:
    """The rest may be split again."""
    pool, job = a_pool(model_server)
    done = a_split(pool, job, 4)
    assert split(pool, job, Amount(10**6, 10**6)) == done
    again = a_split(pool, done.rest, 1)
    assert len(pool.requests_of(again.rest).requests) == 1


@pytest.mark.parametrize("left", [Amount(4, 10**6), Amount(10**6, 6), Amount(30, 42)])
def test_a_job_of_which_nothing_fits_or_all_is_not_split(model_server: ModelServer, left: Amount) -> None:
    pool, job = a_pool(model_server)
    assert split(pool, job, left) is None
    assert first_most(pool, job) == MOST


@pytest.mark.parametrize(("fit", "part"), [(1, None), (2, 2), (5, 4)])
def test_both_parts_have_the_least_number_of_requests(model_server: ModelServer, fit: int, part: int | None) -> None:
    """Or their provider would take neither, and their calls would go from job to job for ever. What is needed is the
    cost of the smallest part, so that a run whose budget has less is paused."""
    pool, job = a_pool(model_server)
    done = split(pool, job, Amount(5 * fit, 7 * fit), 2)
    assert (done and done.requests) == part
    assert first_most(pool, job, 2) == Amount(10, 14)


def test_a_job_that_is_too_small_to_be_split_needs_all_that_it_may_cost(model_server: ModelServer) -> None:
    pool, job = a_pool(model_server)
    assert split(pool, job, Amount(25, 35), 4) is None
    assert first_most(pool, job, 4) == Amount(30, 42)


async def test_a_job_that_may_have_been_sent_is_not_split(model_server: ModelServer) -> None:
    pool, job = a_pool(model_server)
    await submitted(pool.store, job, OPENAI.client(model_server))
    assert split(pool, job, Amount(5, 7)) is None


async def test_a_split_that_is_interrupted_puts_nothing_into_two_jobs(model_server: ModelServer) -> None:
    """Between the decision and the two jobs, a partition parks the same calls: they are held."""
    pool, job = a_pool(model_server)
    store = pool.store
    assert isinstance(store, MemoryStore)

    def dies(operation: str, key: str) -> None:
        if operation == "put_new" and key.endswith("requests.zst"):
            raise RuntimeError("killed")

    store.fault = dies
    with pytest.raises(RuntimeError):
        split(pool, job, Amount(20, 28))
    store.fault = lambda operation, key: None
    client = OPENAI.client(model_server)
    late = park(store, "day=3", 0, some(OPENAI.model(model_server), OPENAI, range(6)))
    formed = form_jobs(store, RUN, POOL, [late], client=client, closing=True)
    done = a_split(pool, job, 1)
    assert done.requests == 4
    assert set(formed.jobs) == {done.part, done.rest}
    for name in formed.jobs:
        await over(store, name, client)
        await collect(store, RUN, POOL, name, client, OPENAI.backend())
    assert [record.carried for record in calls(store, "day=3")] == [True] * 6
    assert model_server.jobs()["submitted"] == 6


async def test_files_that_came_late_are_handed_on(model_server: ModelServer) -> None:
    pool, job = a_pool(model_server)
    client = OPENAI.client(model_server)
    late = park(pool.store, "day=3", 0, some(OPENAI.model(model_server), OPENAI, range(6)))
    assert form_jobs(pool.store, RUN, POOL, [late], client=client, closing=True).jobs == (job,)
    done = a_split(pool, job, 4)
    await over(pool.store, done.rest, client)
    await collect(pool.store, RUN, POOL, done.rest, client, OPENAI.backend())
    assert len(calls(pool.store, "day=3")) == 2
