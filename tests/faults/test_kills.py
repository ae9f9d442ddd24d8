"""Whatever is killed, whenever: the same command finishes the work, and pays again only for what was in flight."""

from __future__ import annotations

import json
import random
import signal
import time
from functools import partial

import pytest

from tests.cli.support import Started, eventually
from tests.faults.conftest import MakeRig
from tests.faults.rig import FLUSH_S, HEARTBEAT_S, IN_FLIGHT, Rig, Twins, answered_within, measured, table

# Real processes and real seconds. In full by `make prove`, on a quiet machine; CI runs the reduced ones.
pytestmark = pytest.mark.timeout(900)

ROWS, FEWER, FEW = 2000, 800, 240
SIZES = [FEW, pytest.param(ROWS, marks=pytest.mark.prove)]


def _killed_at_half(rig: Rig) -> float:
    """Start the work, kill it at half; when that was."""
    with rig.run() as process:
        rig.answered(rig.rows.height // 2)
        moment = time.time()
        process.end(signal.SIGKILL)
    return moment


@pytest.mark.parametrize("rows", SIZES)
def test_a_kill_at_half_costs_only_the_calls_in_flight(make_rig: MakeRig, twins: Twins, rows: int) -> None:
    """SIGKILL of everything at half of the rows, then the same command: no row twice, and only what was in flight is
    paid for again."""
    rig = make_rig(table(rows))
    twin = twins.of(rig)
    with rig.read():
        _killed_at_half(rig)
        report = rig.finish().json
    seen = rig.check(twin, again=IN_FLIGHT)
    measured("kill at half", billed=rig.billed, needed=twin.calls, usage=report["usage"], torn=seen.torn)
    assert rig.model.stats().max_in_flight <= IN_FLIGHT
    assert report["rows"]["ok"] == rows


@pytest.mark.prove
@pytest.mark.parametrize("strict", [False, True], ids=["flushed", "strict"])
def test_another_machine_pays_again_for_a_flush_interval_at_most(make_rig: MakeRig, twins: Twins, strict: bool) -> None:
    """Carried on without the dead process's spool: what the last flush interval held is lost, in `strict` nothing."""
    rig = make_rig(table(FEWER), journal={"strict": strict})
    twin = twins.of(rig)
    with rig.read():
        moment = _killed_at_half(rig)
        lost = 0 if strict else answered_within(rig.calls(), moment, FLUSH_S + 0.5)
        report = rig.finish(TANDEM_SPOOL=str(rig.folder / "elsewhere")).json
    rig.check(twin, again=IN_FLIGHT + lost, untold=IN_FLIGHT + lost)
    assert report["billed_over_needed"] is None, "calls of the dead machine that nobody can know"
    assert "died with a worker" in report["billed_over_needed_unknown"]
    measured(
        f"another machine, strict={strict}", billed=rig.billed, needed=twin.calls, allowed=IN_FLIGHT + lost,
        usage=report["usage"],
    )  # fmt: skip


# Points between the steps of a run, by the object that the step before has written.
POINTS = {
    "requested": "_tandem/runs/*/request.json",
    "planned": "_tandem/runs/*/plan-*/plan.json",
    "opened": "_tandem/staging/*/*/open-*.json",
    "flushed": "_tandem/journal/*/segments/*/*/*.jsonl",
    "staged": "_tandem/staging/*/*/b*-receipt-*.json",
    "uploaded": "data/*/part-*.parquet",
    "committed": "_tandem/commits/*/*.json",
    "ended": "_tandem/runs/*/outcomes/*.json",
    "reported": "_tandem/runs/*/report.json",
}
_IN_CI = ("uploaded", "committed")


@pytest.mark.parametrize(
    "point", [pytest.param(name, marks=() if name in _IN_CI else pytest.mark.prove) for name in POINTS]
)
def test_a_kill_between_two_steps(make_rig: MakeRig, twins: Twins, point: str) -> None:
    rig = make_rig(table(120), latency_ms=20)
    twin = twins.of(rig)
    with rig.read():
        with rig.run() as process:
            rig.appears(POINTS[point])
            process.end(signal.SIGKILL)
        before = rig.billed
        rig.finish()
    rig.check(twin, again=IN_FLIGHT)
    measured(f"kill when {point}", billed=rig.billed, before=before, needed=twin.calls)


def _under_way(process: Started) -> bool:
    return "Run " in process.err or process.process.poll() is not None


def _begun(process: Started) -> bool:
    """It says which run it starts or carries on."""
    return "Run " in process.err or process.process.poll() is not None


def _killed_at_random(rig: Rig, twins: Twins, seed: int, kills: int) -> None:
    """So many kills, each at a random instant once the run has started (plan, open, calls or publish), then the end."""
    rng = random.Random(seed)
    twin = twins.of(rig)
    # A restart first waits for the heartbeat timeout of what was killed, so its window is longer.
    instants = [round(rng.uniform(0.0, 6.0 if at == 0 else HEARTBEAT_S + 4.0), 3) for at in range(kills)]
    answered = []
    with rig.read():
        for instant in instants:
            with rig.run() as process:
                eventually(partial(_under_way, process), "it is under way")
                until = time.monotonic() + instant
                while time.monotonic() < until and process.process.poll() is None:
                    time.sleep(0.005)
                answered.append(rig.model.stats().answered_ok)
                process.end(signal.SIGKILL)
        report = rig.finish().json
    seen = rig.check(twin, again=IN_FLIGHT * kills)
    measured(
        f"seed {seed}",
        instants=instants,
        answered=answered,
        billed=rig.billed,
        needed=twin.calls,
        usage=report["usage"],
    )
    _same_money(rig, [r["totals"]["usage"] for r in seen.reports.values()])


def _same_money(rig: Rig, usage: list[dict[str, float]]) -> None:
    """Tokens and money of the reports are those of the model server's own count, but for unknown outcomes."""
    stats = rig.model.stats()
    if not sum(u["unknown"] for u in usage):
        assert sum(u["calls"] for u in usage) == rig.billed
        assert sum(u["input_tokens"] for u in usage) == stats.prompt_tokens
        cost = (stats.prompt_tokens * 1.0 + stats.completion_tokens * 2.0) / 1e6
        assert sum(u["cost_usd"] for u in usage) == pytest.approx(cost)


@pytest.mark.prove
@pytest.mark.timeout(900)
def test_three_kills_at_random_instants(make_rig: MakeRig, twins: Twins) -> None:
    _killed_at_random(make_rig(table(FEWER)), twins, seed=7, kills=3)


@pytest.mark.prove
@pytest.mark.parametrize("seed", range(20))
def test_a_kill_at_a_random_instant(make_rig: MakeRig, twins: Twins, seed: int) -> None:
    _killed_at_random(make_rig(table(FEWER), limits={"rows_in_flight": 32}), twins, seed, kills=1)


def test_usage_is_the_model_servers_own_count(make_rig: MakeRig, twins: Twins) -> None:
    """Without a fault: calls, tokens and money to the last one."""
    rig = make_rig(table(120), latency_ms=0)
    twin = twins.of(rig)
    with rig.read():
        report = rig.finish().json
    seen = rig.check(twin)
    assert report["usage"]["calls"] == rig.billed == 120
    assert report["billed_over_needed"] == 1.0
    _same_money(rig, [r["totals"]["usage"] for r in seen.reports.values()])
    assert json.dumps(report)
