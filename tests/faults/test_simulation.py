"""Journal and commit by seed: no invariant breaks, and a seed is a history. `make simulate SEEDS=10000` tries more."""

from __future__ import annotations

import os
from typing import Any
from unittest import mock

import pytest

from pipeline.sinks.commits import Committed
from pipeline.stores import Store
from schemas.manifest import Manifest
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
    wanted = ["is killed", "taken for dead", "put_new", "fails", ": fenced", ": published", "tombstone", "Conflict"]
    assert [text for text in (*wanted, "committed_first") if text not in said] == []


def _puts_without_looking(store: Store, draft: Manifest, **options: Any) -> Committed:
    """What a commit must not be: last writer wins."""
    store.put(f"_tandem/commits/{draft.partition}/{draft.generation:020d}.json", draft.model_dump_json().encode())
    return Committed(draft, "committed")


@pytest.mark.parametrize(
    ("target", "planted", "found"),
    [
        ("pipeline.journal.compacted.earlier_records", lambda *args: [], "pays for"),
        ("pipeline.sinks.commits.fence", lambda *args, **options: "fenced", "after it was fenced"),
        ("pipeline.sinks.commits.commit", _puts_without_looking, "was written 2 times"),
        ("stages.journal.writer.Journal._start_timer", lambda self: None, "are not stored yet"),
    ],
    ids=["earlier attempts unread", "no fence", "last writer wins", "no flush in time"],
)
def test_the_simulation_finds_planted_bugs(target: str, planted: Any, found: str) -> None:
    with mock.patch(target, planted):
        assert any(found in said for seed in range(400) for said in simulate(seed).violations)
