"""Small steps are tried again by one policy: with growing pauses after a failure, with random ones against rivals."""

from __future__ import annotations

import random
from collections.abc import Iterator
from unittest import mock

import pytest
import stamina

from pipeline.retry_policy import Overtaken, after_failure, after_failure_async, until_first


@pytest.fixture
def pauses() -> Iterator[list[float]]:
    """Pauses are noted in place of being waited."""
    noted: list[float] = []
    with mock.patch("tenacity.nap.time", mock.Mock(sleep=noted.append)):
        yield noted


class Failing:
    """Raises the same failure for its first calls."""

    def __init__(self, failure: Exception, times: int) -> None:
        self.failure = failure
        self.left = times
        self.calls = 0

    def __call__(self) -> str:
        self.calls += 1
        if self.calls <= self.left:
            raise self.failure
        return "done"


def test_pauses_after_failures_grow_and_stay_short(pauses: list[float]) -> None:
    with pytest.raises(OSError, match="down"):
        after_failure(Failing(OSError("down"), 100), on=OSError, attempts=9)
    assert len(pauses) == 8
    assert 0.05 <= pauses[0] <= 0.1
    assert pauses[1] >= 0.1
    assert max(pauses) == 2.0
    assert sum(pauses) < 10


def test_only_what_is_named_is_tried_again(pauses: list[float]) -> None:
    work = Failing(ValueError("a bug"), 1)
    with pytest.raises(ValueError, match="a bug"):
        after_failure(work, on=lambda exc: isinstance(exc, OSError), attempts=9)
    assert (work.calls, pauses) == (1, [])


def test_losers_of_one_round_do_not_meet_in_the_next(pauses: list[float]) -> None:
    random.seed(1)
    assert until_first(Failing(Overtaken(), 40), attempts=60, spread_s=0.2) == "done"
    assert len(set(pauses)) == 40
    assert max(pauses) <= 0.2
    assert max(pauses) - min(pauses) > 0.15


def test_a_write_has_a_budget_of_attempts(pauses: list[float]) -> None:
    work = Failing(Overtaken(), 100)
    with pytest.raises(Overtaken):
        until_first(work, attempts=7, spread_s=0.1)
    assert work.calls == 7


async def test_a_coroutine_is_tried_again_too() -> None:
    work = Failing(RuntimeError("no server"), 2)

    async def connect() -> str:
        return work()

    with stamina.set_testing(True, attempts=100, cap=True):
        assert await after_failure_async(connect, on=RuntimeError, attempts=5) == "done"
    assert work.calls == 3
