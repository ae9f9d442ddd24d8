"""A sink without room: the cause is named, the exit code is 4, and with room again the run is finished."""

from __future__ import annotations

import contextlib
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.cli.support import Project

SIZE = 2 << 20


@contextlib.contextmanager
def small_disk(folder: Path) -> Iterator[None]:
    """A file system of SIZE bytes at a folder."""
    folder.mkdir()
    made = subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={SIZE}", "tmpfs", str(folder)], capture_output=True)
    if made.returncode:
        pytest.skip("mounting is not allowed here")
    try:
        yield
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=True)


@pytest.mark.parametrize("room", [60_000, 150_000])
def test_a_full_sink_is_named_and_ends_with_4(tmp_path: Path, room: int) -> None:
    project = Project.make(tmp_path)
    with small_disk(tmp_path / "out"):
        filler = tmp_path / "out" / "filler"
        filler.write_bytes(b"x" * (SIZE - room))
        result = project.tandem("run", "--json")
        assert (result.code, "no space is left on the disk" in result.out) == (4, True), result
        filler.unlink()
        assert project.tandem("run", "--json").ok().json["rows"]["out"] == 30


def test_a_full_home_is_named_before_anything_is_started(tmp_path: Path) -> None:
    project = Project.make(tmp_path)
    with small_disk(tmp_path / "home"):
        result = project.tandem("run", "--json", TANDEM_HOME=str(tmp_path / "home" / "tandem"))
    assert (result.code, "TANDEM_HOME" in result.out) == (4, True), result
