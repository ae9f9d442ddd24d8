"""A command that is killed at any step, given again, finishes: nothing of the rows is left, all else is as it was."""

from __future__ import annotations

import asyncio
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from pipeline.forgetting.note import read_note
from pipeline.operations.forget import forget, look_for
from pipeline.outputs.verify import verify
from pipeline.stores import LocalStore
from schemas import ids
from tests.pipeline.forgetting.killed import Died, FatalStore, die, spec_of
from tests.pipeline.forgetting.planted import PLANTED, TOKEN, Planted, hits, traces
from tests.pipeline.jobs import Bench

Rows = list[tuple[object, ...]]


@pytest.fixture
async def published(tmp_path: Path) -> tuple[Path, Rows]:
    """A folder with a published sink, and its rows without the planted ones."""
    planted = await Planted.published(tmp_path)
    return tmp_path, [row for row in planted.rows() if not any(TOKEN in str(value) for value in row)]


def finished(base: Path, kept: Rows, rows: list[str]) -> None:
    """Give the command again, and look for the rows in all bytes."""
    planted = Planted(Bench(base, LocalStore(base / "out")))
    found = look_for(spec_of(), base, planted.store, rows)
    if not found.is_empty:
        done = forget(found)
        assert len(done.receipt.rows) == len(PLANTED)
        assert done.receipt.kept_answers == 2
    assert hits(planted.store, *traces(planted)) == set()
    assert planted.rows() == kept
    assert verify(planted.store).problems == []
    assert read_note(planted.store) is None
    assert len(list(planted.store.list(ids.FORGOTTEN))) == 1


def copied(base: Path, name: str) -> Path:
    return Path(shutil.copytree(base, base.parent / f"{base.name}-{name}"))


@pytest.mark.parametrize("step", [pytest.param(9, marks=pytest.mark.slow), pytest.param(1, marks=pytest.mark.prove)])
async def test_ended_before_any_of_its_changes(published: tuple[Path, Rows], step: int) -> None:
    base, kept = published
    keys = Planted(Bench(base)).keys
    at = 1 - step
    while True:
        at += step
        copy = copied(base, f"at-{at}")
        try:
            forget(look_for(spec_of(), copy, FatalStore(copy / "out", at, die), keys))
        except Died:
            finished(copy, kept, keys)
            shutil.rmtree(copy)
            continue
        break
    assert at > 40


@pytest.mark.parametrize("at", [2, 9, 17, 30, 45])
async def test_a_sigkill_and_the_same_command_again(published: tuple[Path, Rows], at: int) -> None:
    base, kept = published
    keys = Planted(Bench(base)).keys
    command = [sys.executable, "-m", "tests.pipeline.forgetting.killed", str(base), str(at), *keys]
    done = await asyncio.to_thread(subprocess.run, command, check=False)
    assert done.returncode == -signal.SIGKILL
    finished(base, kept, keys)


async def test_a_killed_command_is_finished_without_naming_the_rows_again(published: tuple[Path, Rows]) -> None:
    """Its note has salted digests only, by which the rows are found."""
    base, kept = published
    planted = Planted(Bench(base, LocalStore(base / "out")))
    with pytest.raises(Died):
        forget(look_for(spec_of(), base, FatalStore(base / "out", 20, die), planted.keys))
    note = planted.store.get(ids.FORGETTING).decode()
    assert not any(trace in note for trace in traces(planted))
    finished(base, kept, [])
