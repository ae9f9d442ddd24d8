"""Who is certainly dead: an owner of this machine whose lock the kernel has freed."""

import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from pipeline.processes.owner import Owner, identity_of, is_dead
from pipeline.settings import read_again

_CHILD = """
import sys
from pipeline.processes.owner import Owner, identity_of
owner = Owner.new()
print(identity_of(owner.name), flush=True)
sys.stdin.read()
"""


@pytest.fixture(autouse=True)
def spools(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv("TANDEM_SPOOL", str(tmp_path / "spool"))
    read_again()
    yield
    monkeypatch.undo()
    read_again()


def test_an_owner_is_dead_once_it_was_killed_and_not_before() -> None:
    command = [sys.executable, "-c", _CHILD]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        identity = process.stdout.readline().strip()
        assert not is_dead(identity)
        process.kill()
        process.wait()
        assert is_dead(identity)


def test_of_others_nothing_is_certain() -> None:
    owner = Owner.new()
    here = socket.gethostname()
    assert not is_dead(identity_of(owner.name))
    assert not is_dead(f"1@{here}-elsewhere/{owner.name}")
    assert not is_dead(f"1@{here}")
    assert not is_dead(f"1@{here}/{'0' * 32}")
    owner.release()
    assert is_dead(identity_of(owner.name))


def test_an_owner_without_a_place_for_its_lock_works_all_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("TANDEM_SPOOL", str(tmp_path / "file"))
    read_again()
    owner = Owner.new()
    owner.release()
    assert not is_dead(identity_of(owner.name))
