"""The budget of provider jobs: charged before they are submitted, settled by what they cost, both repeatable."""

import pytest

from pipeline.limits import job_budget, ledger
from pipeline.limits.ledger import BudgetLimits, Ledger
from pipeline.limits.run_budget import utc_today
from pipeline.stores.memory import MemoryStore
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
