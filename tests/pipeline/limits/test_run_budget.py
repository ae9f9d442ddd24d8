"""Budgets shared by processes: what is spent never passes them, most of them gets used, and no kill resets them."""

from __future__ import annotations

import asyncio
import datetime as dt
import os
import random
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.limits import ledger
from pipeline.limits.budget import set_to
from pipeline.limits.ledger import BudgetLimits, Ledger, share
from pipeline.limits.run_budget import RunBudget, RunBudgets
from pipeline.limits.spend_file import reconcile
from pipeline.stores import LocalStore, MemoryStore, Store
from schemas.errors import BudgetReached, StoreError
from schemas.manifest import Usage
from schemas.messages.base import RunRef
from stages.limits.budget import NANOS, NOTHING, Amount

RUN = "run-1"
CALL = Amount(10_000, 100)  # at most; half of it in truth


def budget(store: Store, usd: float | None = None, tokens: int | None = None, day_usd: float | None = None) -> None:
    nanos, day = (None if said is None else round(said * NANOS) for said in (usd, day_usd))
    limits = BudgetLimits(nanos=nanos, tokens=tokens, day_nanos=day)
    ledger.of_run(store, RUN).change(lambda before: before.model_copy(update={"limits": limits}))


def state(store: Store) -> Ledger:
    found = ledger.of_run(store, RUN).read()
    assert found is not None
    return found


def run_budget(
    store: Store, folder: Path, day_usd: float | None = None, today: dt.date = dt.date(2026, 11, 1)
) -> RunBudget:
    day = None if day_usd is None else round(day_usd * NANOS)
    return RunBudget(store, RUN, folder, day, lambda: today)


async def spend(purse: RunBudget, calls: int = 10**9, at_once: int = 16, most: Amount = CALL) -> int:
    """Calls made until so many are, or the budget is reached."""
    made = 0
    places = asyncio.Semaphore(at_once)

    async def one() -> None:
        nonlocal made
        async with places:
            held = await purse.reserve(most)
            held.sending()
            await asyncio.sleep(random.uniform(0, 0.001))
            held.settle(most.nanos / 2 / NANOS, most.tokens // 2)
            made += 1

    while made < calls:
        done = await asyncio.gather(*(one() for _ in range(min(at_once, calls - made))), return_exceptions=True)
        failed = [found for found in done if isinstance(found, BaseException)]
        if failed:
            assert all(isinstance(found, BudgetReached) for found in failed), failed
            break
    return made


# One process --------------------------------------------------------------------------------------------------------


async def test_a_budget_is_used_up_to_the_last_call_that_fits(tmp_path: Path) -> None:
    store = MemoryStore("m")
    budget(store, usd=0.001)  # 100 calls by their bound, 200 by what they are
    mine = run_budget(store, tmp_path)
    assert await spend(mine) == 199
    await mine.close()
    assert state(store).spent == Amount(199 * 5_000, 199 * 50)
    assert not state(store).slices
    assert not os.listdir(tmp_path)


async def test_tokens_bound_as_money_does(tmp_path: Path) -> None:
    store = MemoryStore("m")
    budget(store, tokens=1_000)
    assert await spend(run_budget(store, tmp_path)) == 19


async def test_what_is_known_to_be_unbilled_is_free_and_what_is_unknown_is_charged_in_full(tmp_path: Path) -> None:
    store = MemoryStore("m")
    budget(store, usd=0.001)
    mine = run_budget(store, tmp_path)
    never_sent = await mine.reserve(CALL)
    never_sent.close()
    refused = await mine.reserve(CALL)
    refused.sending()
    refused.unbilled()
    refused.close()
    lost = await mine.reserve(CALL)
    lost.sending()
    lost.close()
    unpriced = await mine.reserve(CALL)
    unpriced.sending()
    unpriced.settle(None, 7)
    unpriced.close()
    await mine.close()
    assert state(store).spent == Amount(2 * CALL.nanos, CALL.tokens + 7)


async def test_a_call_waits_for_those_in_flight_before_it_is_refused(tmp_path: Path) -> None:
    store = MemoryStore("m")
    budget(store, usd=0.000_015)
    mine = run_budget(store, tmp_path)
    first = await mine.reserve(CALL)
    second = asyncio.create_task(mine.reserve(CALL))
    await asyncio.sleep(0.05)
    assert not second.done()
    first.sending()
    first.settle(0.000_005, 1)
    (await second).close()


async def test_a_day_has_a_budget_of_its_own_and_the_next_one_another(tmp_path: Path) -> None:
    store = MemoryStore("m")
    budget(store, usd=1.0, day_usd=0.001)
    assert await spend(run_budget(store, tmp_path, 0.001)) == 199
    assert await spend(run_budget(store, tmp_path, 0.001)) == 0
    assert await spend(run_budget(store, tmp_path, 0.001, dt.date(2026, 11, 2)), calls=50) == 50


async def test_reserving_from_the_slice_touches_no_store(tmp_path: Path) -> None:
    store = MemoryStore("m")
    budget(store, usd=1.0)
    mine = run_budget(store, tmp_path)
    (await mine.reserve(CALL)).close()
    store.list = None  # type: ignore[method-assign,assignment]
    assert await spend(mine, calls=200, at_once=1) == 200


# Processes ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(5))
async def test_three_spenders_never_pass_a_budget_and_use_most_of_it(tmp_path: Path, seed: int) -> None:
    random.seed(seed)
    store = MemoryStore("m")
    budget(store, usd=0.002)
    spent = 0
    for _ in range(20):  # as the run does: once nothing is in flight, what came back is spent as well
        mine = [run_budget(store, tmp_path) for _ in range(3)]
        made = sum(await asyncio.gather(*(spend(one) for one in mine)))
        await asyncio.gather(*(one.close() for one in mine))
        spent += made * CALL.nanos // 2
        assert state(store).charged.nanos == spent <= 2_000_000
        if not made:
            break
    assert 2_000_000 - spent < CALL.nanos


async def test_budgets_are_shared_by_batches_and_close_with_the_last(tmp_path: Path) -> None:
    store = MemoryStore("m")
    ref = RunRef(pipeline="p", run=RUN, sink=store.uri)
    budgets = RunBudgets(tmp_path)
    async with budgets.of(store, ref) as none:
        assert not none.limited, "nothing is counted in a run without a budget"
    budget(store, usd=1.0)
    async with budgets.of(store, ref) as one:
        async with budgets.of(store, ref) as two:
            assert one is two
            await spend(one, calls=3)
        assert len(state(store).slices) == 1
    assert state(store).charged == Amount(15_000, 150)


async def test_a_budget_that_is_lowered_is_in_force_at_the_next_look(tmp_path: Path) -> None:
    """What is reserved may end above it, and nothing new begins, also where calls cost less than was set aside."""
    store = MemoryStore("m")
    budget(store, usd=1.0)
    mine = run_budget(store, tmp_path)
    out = [await mine.reserve(CALL) for _ in range(8)]
    for held in out:
        held.sending()
    budget(store, usd=4 * CALL.nanos / NANOS)
    await mine.look()
    for held in out:
        held.settle(CALL.nanos / 2 / NANOS, CALL.tokens // 2)
    with pytest.raises(BudgetReached):
        await mine.reserve(CALL)
    assert state(store).charged.nanos == 8 * CALL.nanos // 2
    budget(store, usd=1.0)
    (await mine.reserve(CALL)).close()
    await mine.close()


async def test_a_budget_may_be_set_on_a_run_that_had_none(tmp_path: Path) -> None:
    store = MemoryStore("m")
    ref = RunRef(pipeline="p", run=RUN, sink=store.uri)
    budgets = RunBudgets(tmp_path)
    async with budgets.of(store, ref) as mine:
        before = mine.limited
        set_to(store, RUN, 0.001, lambda: Usage(calls=1, cost_usd=0.0002))
        await budgets.was_set(ref)
        await mine.look()
        assert (before, mine.limited) == (False, True)
        assert await spend(mine) == (1_000_000 - 200_000) // (CALL.nanos // 2) - 1
    assert state(store).charged.nanos <= 1_000_000


async def test_who_holds_some_gives_to_who_finds_no_room(tmp_path: Path) -> None:
    """One process has taken all that is left; another comes, and both go on."""
    store = MemoryStore("m")
    budget(store, usd=0.01)
    first, second = run_budget(store, tmp_path), run_budget(store, tmp_path)
    (await first.reserve(CALL)).close()
    assert state(store).charged.nanos == 10_000_000, "a sole holder takes the end of a budget at once"
    wanting = asyncio.create_task(second.reserve(CALL))
    async with asyncio.timeout(10):
        while not state(store).wanted:  # noqa: ASYNC110  the ledger is an object
            await asyncio.sleep(0.01)
    await first.look()
    (await asyncio.wait_for(wanting, 10)).close()
    assert first.of_run.granted != NOTHING != second.of_run.granted
    await first.close()
    await second.close()


SPENDER = """
import asyncio, sys
from pathlib import Path
from pipeline.stores import LocalStore
from tests.pipeline.limits.test_run_budget import CALL, run_budget

async def main():
    mine = run_budget(LocalStore(Path(sys.argv[1])), Path(sys.argv[2]))
    for at in range(int(sys.argv[3])):
        held = await mine.reserve(CALL)
        held.sending()
        if at % 10:
            held.settle(CALL.nanos / 2 / 1e9, 50)
    print("ready", flush=True)
    await asyncio.sleep(60)

asyncio.run(main())
"""


def spender(tmp_path: Path, calls: int) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", SPENDER, str(tmp_path / "sink"), str(tmp_path / "counts"), str(calls)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    return process


def test_a_killed_process_stays_charged_until_its_count_is_read(tmp_path: Path) -> None:
    """Its calls in flight stay charged in full; while it lives nobody takes its slice away."""
    store = LocalStore(tmp_path / "sink")
    budget(store, usd=0.01)
    book = ledger.of_run(store, RUN)
    process = spender(tmp_path, 100)
    try:
        before = state(store)
        assert reconcile(book, tmp_path / "counts") == before
        assert before.charged.nanos > 100 * CALL.nanos
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait()
        assert process.stdout is not None
        process.stdout.close()
    assert reconcile(book, tmp_path / "elsewhere") == before, "another machine knows nothing, and frees nothing"
    after = reconcile(book, tmp_path / "counts")
    assert after.charged == Amount(90 * 5_000 + 10 * CALL.nanos, 90 * 50 + 10 * CALL.tokens)
    assert not after.slices
    assert not list((tmp_path / "counts").iterdir())


def test_a_frozen_process_keeps_its_slice(tmp_path: Path) -> None:
    """It may thaw, and go on spending."""
    store = LocalStore(tmp_path / "sink")
    budget(store, usd=0.01)
    process = spender(tmp_path, 10)
    try:
        process.send_signal(signal.SIGSTOP)
        before = state(store)
        assert reconcile(ledger.of_run(store, RUN), tmp_path / "counts") == before
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait()
        assert process.stdout is not None
        process.stdout.close()


# The ledger ---------------------------------------------------------------------------------------------------------


class Unlucky(MemoryStore):
    """Each second reply to a put is lost after it was done."""

    lost = 0

    def put_new(self, key: str, data: bytes) -> None:
        super().put_new(key, data)
        self.lost += 1
        if self.lost % 2:
            raise StoreError("the reply was lost")


async def test_a_lost_reply_charges_a_slice_once(tmp_path: Path) -> None:
    store = Unlucky("m")
    budget(store, usd=0.001)
    mine = run_budget(store, tmp_path)
    made = await spend(mine)
    await mine.close()
    assert (made, state(store).charged.nanos) == (199, 199 * 5_000)


def test_old_versions_are_removed_and_the_latest_stays(tmp_path: Path) -> None:
    store = LocalStore(tmp_path)
    book = ledger.of_run(store, RUN)
    for at in range(120):
        book.change(lambda before, at=at: before.model_copy(update={"nanos": at}))  # type: ignore[misc]
        if at == 60:
            for path in tmp_path.rglob("*.json"):
                os.utime(path, (0, 0))
    assert len(list(store.list())) < 60
    assert (ledger.of_run(store, RUN).read() or Ledger()).nanos == 119
    assert (book.read() or Ledger()).nanos == 119


amounts = st.builds(Amount, st.integers(0, 10**12), st.integers(0, 10**9))


@given(need=amounts, left=amounts)
def test_a_slice_holds_a_call_and_is_never_more_than_there_is(need: Amount, left: Amount) -> None:
    taken = share(need, left)
    if need.nanos > left.nanos or need.tokens > left.tokens:
        assert taken is None
    else:
        assert taken is not None
        assert need.nanos <= taken.nanos <= left.nanos
        assert need.tokens <= taken.tokens <= left.tokens


def test_a_budget_takes_few_slices() -> None:
    """Each is an object: some hundreds, for a cent as for ten thousand dollars."""
    for usd in (0.01, 25, 10_000):
        left, slices = Amount(int(usd * NANOS), 10**12), 0
        while (taken := share(Amount(2_000_000, 1_000), left)) is not None:
            left, slices = left - Amount(taken.nanos, 0), slices + 1
        assert slices < 600


def test_changes_by_many_at_once_are_all_made(tmp_path: Path) -> None:
    from concurrent.futures import ThreadPoolExecutor

    store = LocalStore(tmp_path)

    def add(_: int) -> None:
        ledger.of_run(store, RUN).change(lambda before: before.model_copy(update={"nanos": before.nanos + 1}))

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(add, range(100)))
    assert state(store).nanos == 100
