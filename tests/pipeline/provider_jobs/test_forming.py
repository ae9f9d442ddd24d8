"""Parked calls become the same jobs whoever packs them, and each request is in one job at a time."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.forgetting.identities import Identities
from pipeline.forgetting.parked_calls import remove_parked
from pipeline.provider_jobs.base import JobClient
from pipeline.provider_jobs.clients import client_for, no_jobs_because
from pipeline.provider_jobs.forming import Formed, form_jobs
from pipeline.provider_jobs.learned import load_limits, note_full_queue, note_too_large, tokens_in
from pipeline.provider_jobs.requests import Pool, write_content
from pipeline.stores import Store
from pipeline.stores.memory import MemoryStore
from schemas.digests import digest
from schemas.job_requests import AskedKey
from schemas.parked import ParkedCall
from stages.models.wires.clients import client_of
from stages.models.wires.jobs.form import JobLimits
from tests.pipeline.provider_jobs.support import OPENAI, POOL, RUN, park

MODEL = client_of("openai", "gpt-test", {"base_url": "http://127.0.0.1:9/v1", "api_key": "sk"}, 5)


def a_client(requests: int = 50_000, size: int = 200_000_000) -> JobClient:
    client = client_for(MODEL)
    assert client is not None
    client.limits = JobLimits(requests, size)
    return client


def call(number: int, *, ordinal: int = 0, pool: str = POOL, length: int = 1) -> ParkedCall:
    request = digest(str(number))
    body = {"model": "gpt-test", "messages": [{"role": "user", "content": "x" * length}]}
    return ParkedCall(request, ordinal, request, f"row{number}", "s", OPENAI.name, pool, body)


def formed(store: Store, keys: Sequence[str], client: JobClient, *, closing: bool = True) -> Formed:
    return form_jobs(store, RUN, POOL, keys, client=client, closing=closing)


def held(store: Store, jobs: Sequence[str]) -> Counter[AskedKey]:
    """How many jobs hold each request."""
    return Counter(one.key for job in jobs for one in Pool(store, RUN, POOL).requests_of(job).requests)


def test_full_jobs_are_formed_at_once_and_the_rest_when_it_closes() -> None:
    """Seven requests of a limit of three: two jobs, and a third of one."""
    store, client = MemoryStore(), a_client(requests=3)
    counts = (3, 3, 1)
    keys = [park(store, "p=1", batch, [call(batch * 10 + n) for n in range(counts[batch])]) for batch in range(3)]
    first = formed(store, keys, client, closing=False)
    assert (len(first.jobs), first.open_requests, first.open_files) == (2, 1, (keys[2],))
    last = formed(store, first.open_files, client)
    assert (len(last.jobs), last.open_requests) == (1, 0)
    assert set(held(store, [*first.jobs, *last.jobs]).values()) == {1}


def test_a_job_is_no_larger_than_its_bytes_allow(tmp_path: Path) -> None:
    """What is counted is what is sent: the content of each job is within the limit, and no job could take one more."""
    store, client = MemoryStore(), a_client(size=2_000)
    key = park(store, "p=1", 0, [call(n, length=300) for n in range(20)])
    jobs = formed(store, [key], client).jobs
    sizes = [write_content(Pool(store, RUN, POOL), job, client, tmp_path / "content").bytes for job in jobs]
    assert max(sizes) <= 2_000
    assert len(jobs) == 5  # four of some 480 bytes each
    assert sum(held(store, jobs).values()) == 20


def test_the_same_files_give_the_same_jobs_and_the_same_content(tmp_path: Path) -> None:
    """Called again, by anybody, in any order, there is nothing new; content is the same to the byte."""
    store, client = MemoryStore(), a_client(requests=4)
    keys = [park(store, f"p={batch}", batch, [call(batch * 10 + n) for n in range(5)]) for batch in range(3)]
    first = formed(store, keys, client)
    before = {info.key for info in store.list("")}
    assert set(formed(store, keys[::-1], client).jobs) == set(first.jobs)
    assert {info.key for info in store.list("")} == before
    contents = {
        write_content(Pool(store, RUN, POOL), first.jobs[0], client, tmp_path / "content").digest for _ in range(2)
    }
    assert len(contents) == 1


def test_two_sinks_never_have_jobs_of_one_name() -> None:
    """Names are random for each pool of a run, or an account would show one sink the jobs of another."""
    jobs = set[str]()
    for _ in range(2):
        store = MemoryStore()
        jobs.update(formed(store, [park(store, "p=1", 0, [call(1)])], a_client()).jobs)
    assert len(jobs) == 2


def test_calls_of_other_pools_and_equal_ones_are_left_out() -> None:
    """The n-th equal call of a row is a request of its own; two rows with the same one are not."""
    store, client = MemoryStore(), a_client()
    calls = [call(1), call(1), call(1, ordinal=1), call(2, pool="f" * 16)]
    (job,) = formed(store, [park(store, "p=1", 0, calls), park(store, "p=2", 0, [call(1)])], client).jobs
    assert sorted(held(store, [job])) == [(digest("1"), 0), (digest("1"), 1)]
    assert len(Pool(store, RUN, POOL).requests_of(job).parked) == 2


def test_equal_requests_under_different_caps_are_different_requests() -> None:
    store, client = MemoryStore(), a_client()
    calls = [call(1), replace(call(1), capped=digest("a smaller cap"))]
    (job,) = formed(store, [park(store, "p=1", 0, calls)], client).jobs
    assert len(held(store, [job])) == 2


@given(
    st.lists(st.lists(st.integers(0, 30), max_size=12), min_size=1, max_size=6),
    st.integers(1, 7),
    st.lists(st.booleans(), min_size=6, max_size=6),
)
def test_every_request_is_in_exactly_one_job_however_files_come(
    files: list[list[int]], limit: int, closings: list[bool]
) -> None:
    """Files one after the other, with what is open so far, closing or not: nothing is lost, nothing is in two jobs."""
    store, client = MemoryStore(), a_client(requests=limit)
    jobs: dict[str, None] = {}
    still_open: tuple[str, ...] = ()
    for number, numbers in enumerate(files):
        key = park(store, "p=1", number, [call(n) for n in numbers])
        found = formed(store, [*still_open, key], client, closing=closings[number])
        jobs.update(dict.fromkeys(found.jobs))
        still_open = found.open_files
    jobs.update(dict.fromkeys(formed(store, still_open, client).jobs))
    counts = held(store, list(jobs))
    assert counts == Counter({(digest(str(n)), 0): 1 for n in {n for numbers in files for n in numbers}})
    assert all(len(Pool(store, RUN, POOL).requests_of(job).requests) <= limit for job in jobs)


@pytest.mark.parametrize(
    ("message", "tokens"),
    [
        ("Enqueued token limit reached for gpt-4o-mini. Limit: 2,000,000 enqueued tokens. Please try", 2_000_000),
        ("The number of enqueued tokens has surpassed the configured limit of 30K for the deployment", 30_000),
        ("too many batches are in progress", None),
    ],
)
def test_the_limit_of_tokens_is_read_from_a_refusal(message: str, tokens: int | None) -> None:
    assert tokens_in(message) == tokens


@pytest.mark.parametrize(("requests", "sizes"), [(21, [16, 5]), (24, [19, 5]), (40, [20, 20]), (7, [7]), (3, [3])])
def test_a_job_has_the_least_number_of_requests_if_the_one_before_it_can_give_them(
    requests: int, sizes: list[int]
) -> None:
    """Limits of 20 requests and of 5 at least: a rest of one is filled up, each request is in one job, and all that the
    jobs say of themselves is right."""
    store, client = MemoryStore(), a_client(requests=20)
    client.limits = replace(client.limits, least=5)
    calls = [replace(call(n), most_nano_usd=n, most_tokens=1) for n in range(requests)]
    keys = [park(store, "p=1", batch, calls[batch::2]) for batch in range(2)]
    jobs = formed(store, keys, client).jobs
    found = [Pool(store, RUN, POOL).requests_of(job) for job in jobs]
    assert [len(job.requests) for job in found] == sizes
    assert set(held(store, jobs).values()) == {1}
    assert len(held(store, jobs)) == requests
    assert sum(job.most_nano_usd for job in found) == sum(range(requests))
    assert [job.most_tokens for job in found] == sizes
    assert set(formed(store, keys, client).jobs) == set(jobs)


def test_a_file_with_a_call_that_a_full_job_gives_on_waits_for_the_job_that_has_it() -> None:
    """The call is in two files, and only one of them pays for it."""
    store, client = MemoryStore(), a_client(requests=20)
    client.limits = replace(client.limits, least=5)
    files = [park(store, "p=1", 0, [call(n) for n in range(21)]), park(store, "p=2", 0, [call(19)])]
    pool = Pool(store, RUN, POOL)
    jobs = formed(store, files, client).jobs
    (holder,) = [job for job in jobs if (digest("19"), 0) in held(store, [job])]
    assert len(pool.requests_of(holder).requests) == 5
    assert set(pool.requests_of(holder).parked) == set(files)
    assert set(formed(store, files, client).jobs) == set(jobs)
    assert pool.late_files(holder) == []


def test_calls_of_forgotten_rows_are_in_no_job() -> None:
    """They are empty, and lie in files that form jobs still: those of a run that waits, or that is begun again."""
    store, client = MemoryStore(), a_client()
    key = park(store, "p=1", 0, [call(1), call(2)])
    remove_parked(store, Identities(frozenset(("row1",))))
    assert sorted(held(store, formed(store, [key], client).jobs)) == [(digest("2"), 0)]


def test_what_was_learned_is_kept_by_packing() -> None:
    """After a refusal, jobs have half the requests, and no more tokens than may be out at once."""
    store, client = MemoryStore(), a_client()
    note_too_large(store, RUN, POOL, 8, 10**6)
    key = park(store, "p=1", 0, [call(n, length=4_000) for n in range(8)])
    assert len(formed(store, [key], client).jobs) == 2
    store = MemoryStore()
    first = note_full_queue(store, RUN, POOL, "Limit: 3,000 enqueued tokens", 60)
    second = note_full_queue(store, RUN, POOL, "Limit: 3,000 enqueued tokens", 60)
    assert second.not_before - first.not_before > 50
    assert load_limits(store, RUN, POOL).tokens == 3_000
    key = park(store, "p=1", 0, [call(n, length=4_000) for n in range(8)])
    assert len(formed(store, [key], client).jobs) == 4


def test_models_without_jobs_are_named_with_the_next_step() -> None:
    """Azure needs a deployment of its own, Bedrock a role and a place."""
    azure = {"base_url": "https://me.openai.azure.com/openai/v1", "api_key": "sk"}
    assert "params.batch_deployment" in no_jobs_because(client_of("openai", "gpt-5", azure, 5))
    assert no_jobs_because(client_of("openai", "gpt-5", {**azure, "batch_deployment": "b"}, 5)) == ""
    bedrock = client_of("bedrock_converse", "anthropic.claude", {"base_url": "http://127.0.0.1:9"}, 5)
    assert client_for(bedrock) is None
    assert "params.batch_role" in no_jobs_because(bedrock)
