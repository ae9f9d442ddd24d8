"""Journal and commit by seed: no invariant breaks, and a seed is a history. `make simulate SEEDS=10000` tries more."""

from __future__ import annotations

import os

import pytest

from tests.faults.simulation import simulate

SEEDS = int(os.environ.get("SEEDS", "500"))
_PARTS = 10


@pytest.mark.timeout(60 + SEEDS)
@pytest.mark.parametrize("part", range(_PARTS))
def test_simulated_histories_keep_every_promise(part: int) -> None:
    failed = {}
    for seed in range(part, SEEDS, _PARTS):
        world = simulate(seed)
        if world.violations:
            failed[seed] = world.violations
    assert not failed, "\n".join(
        f"seed {seed}: {found[0]}   (python -m tests.faults.simulation {seed})" for seed, found in failed.items()
    )


@pytest.mark.parametrize("seed", [1, 17, 123])
def test_a_simulated_seed_replays_identically(seed: int) -> None:
    one, other = simulate(seed), simulate(seed)
    assert one.trace == other.trace
    assert one.digest == other.digest


def test_simulated_histories_differ_and_hold_what_they_should() -> None:
    """The simulation is worth something only if kills, zombies, faults, cancels and lost races really come."""
    said = "\n".join("\n".join(simulate(seed).trace) for seed in range(60))
    for wanted in (
        "is killed", "taken for dead", "put_new done", "fails", ": fenced", ": published", "tombstone", "committed_first",
    ):  # fmt: skip
        assert wanted in said, wanted
