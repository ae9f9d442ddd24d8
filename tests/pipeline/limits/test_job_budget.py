"""The budget of provider jobs: charged before they are submitted, settled by what they cost, both repeatable."""

import datetime as dt
from typing import Any

import pytest

from pipeline.limits import budget, job_budget, ledger
from pipeline.limits.ledger import BudgetLimits, Ledger
from pipeline.limits.run_budget import utc_today
from pipeline.stores.memory import MemoryStore
from schemas import ids
from schemas.jobs import Intent, JobEnd, Submitted
from schemas.manifest import TierUsage, Usage
from schemas.spec.sections import Limits
from stages.limits.budget import Amount


@pytest.fixture
def store() -> MemoryStore:
    return MemoryStore("job-budget")


def limited(store: MemoryStore, **limits: int) -> None:
    ledger.of_run(store, "r").change(lambda seen: seen.model_copy(update={"limits": BudgetLimits(**limits)}))


def charged(store: MemoryStore) -> Amount:
    return (ledger.of_run(store, "r").read() or Ledger()).charged


def test_a_job_is_charged_once_and_settled_once(store: MemoryStore) -> None:
    limited(store, nanos=1_000)
    for _ in range(2):
        assert job_budget.reserve(store, "r", "a", Amount(600, 5)) == ""
    assert charged(store) == Amount(600, 5)
    assert job_budget.reserve(store, "r", "b", Amount(401, 5)) is None
    for _ in range(2):
        job_budget.settle(store, "r", "a", "", Amount(250, 3))
    assert charged(store) == Amount(250, 3)
    assert job_budget.reserve(store, "r", "b", Amount(401, 5)) == ""


def test_a_day_without_room_charges_the_run_nothing(store: MemoryStore) -> None:
    limited(store, nanos=1_000, day_nanos=100)
    assert job_budget.reserve(store, "r", "a", Amount(101, 0)) is None
    assert charged(store) == Amount(0, 0)
    day = job_budget.reserve(store, "r", "a", Amount(90, 0))
    assert day == utc_today().isoformat()
    job_budget.settle(store, "r", "a", day, Amount(40, 0))
    assert (ledger.of_day(store, utc_today()).read() or Ledger()).charged == Amount(40, 0)


def test_a_run_without_a_budget_writes_no_ledger(store: MemoryStore) -> None:
    assert job_budget.reserve(store, "r", "a", Amount(10**12, 1)) == ""
    job_budget.settle(store, "r", "a", "", Amount(1, 1))
    assert ledger.of_run(store, "r").read() is None


def test_a_job_is_settled_on_the_day_that_it_was_charged_to(
    store: MemoryStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Though the reservation is repeated after midnight, and nobody else remembers the day."""
    limited(store, nanos=1_000, day_nanos=1_000)
    today = utc_today()
    assert job_budget.reserve(store, "r", "a", Amount(600, 0)) == today.isoformat()
    tomorrow = today + dt.timedelta(days=1)
    monkeypatch.setattr(job_budget, "utc_today", lambda: tomorrow)
    assert job_budget.reserve(store, "r", "a", Amount(600, 0)) == today.isoformat()
    job_budget.settle(store, "r", "a", "", Amount(200, 0))
    assert (ledger.of_day(store, today).read() or Ledger()).charged == Amount(200, 0)
    assert ledger.of_day(store, tomorrow).read() is None


def test_what_is_left_is_the_least_of_the_run_and_its_day(store: MemoryStore) -> None:
    limited(store, nanos=1_000, day_nanos=700)
    job_budget.reserve(store, "r", "a", Amount(200, 0))
    assert job_budget.left(store, "r").nanos == 500


def a_job(store: MemoryStore, job: str, most: int, *, id: str | None = None, cost: int | None = None) -> None:
    """A job that is being submitted; with an id, submitted; with its cost, over."""
    pool = "0" * 16
    intent = Intent(job=job, digest="", requests=1, bytes=1, prefix="", at=0.0, most_nano_usd=most, most_tokens=most)
    found: dict[str, Any] = {ids.job_intent("r", pool, job): intent}
    if id is not None:
        found[ids.job_submitted("r", pool, job)] = Submitted(id=id, at=0.0)
    if cost is not None:
        end = JobEnd(job=job, id=id or "", state="ended", requests=1, nano_usd=cost, tokens=cost)
        found[ids.job_ended("r", pool, job)] = end
    for key, document in found.items():
        store.put(key, document.model_dump_json().encode())


def test_a_budget_that_is_set_while_jobs_are_out_charges_them(store: MemoryStore) -> None:
    """Ended ones cost what they did, though their answers are in the journal too; those that are out, or are being
    submitted, hold the most that they may cost until they are settled; a refused one holds nothing."""
    a_job(store, "ended", 900, id="b1", cost=200)
    a_job(store, "out", 300, id="b2")
    a_job(store, "begun", 50)
    a_job(store, "refused", 70, id="")
    of_jobs = TierUsage(calls=1, cost_usd=0.5, tokens=200)
    paid = Usage(calls=2, cost_usd=0.75, input_tokens=120, output_tokens=90, by_tier={"batch": of_jobs})
    found = budget.set_to(store, "r", 1.0, lambda: paid)
    live = 250_000_000
    assert found.spent == Amount(live + 200, 210)
    assert charged(store) == Amount(live + 550, 560)
    job_budget.settle(store, "r", "out", "", Amount(100, 100))
    assert charged(store) == Amount(live + 350, 360)


def test_a_job_that_ends_while_a_budget_is_set_is_settled(store: MemoryStore) -> None:
    a_job(store, "out", 300, id="b2")

    def ends(operation: str, key: str) -> None:
        if operation == "put_new" and "/budget/" in key:
            store.fault = lambda operation, key: None
            a_job(store, "out", 300, id="b2", cost=100)

    store.fault = ends
    assert budget.declare(store, "r", Limits(max_cost_usd=1.0), Usage)
    assert charged(store) == Amount(100, 100)


@pytest.mark.parametrize("again", [1, 2])
def test_a_job_is_charged_though_the_budget_was_set_just_before_it_was_sent(store: MemoryStore, again: int) -> None:
    """Its budget was asked when there was none, and its intent was not written when there was one."""
    assert job_budget.reserve(store, "r", "a", Amount(300, 3)) == ""
    assert budget.declare(store, "r", Limits(max_cost_usd=0.0000001), Usage)
    a_job(store, "a", 300, id="b1")
    for _ in range(again):
        job_budget.hold(store, "r", "a", Amount(300, 3))
    assert charged(store) == Amount(300, 3)
    job_budget.settle(store, "r", "a", "", Amount(100, 1))
    assert charged(store) == Amount(100, 1)


def test_a_job_without_a_budget_holds_nothing(store: MemoryStore) -> None:
    job_budget.hold(store, "r", "a", Amount(300, 3))
    assert ledger.of_run(store, "r").read() is None
