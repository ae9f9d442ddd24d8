"""A sink without room: the cause is named, the exit code is 4, and with room again the run is finished."""

from __future__ import annotations

import contextlib
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.cli.support import Project, eventually
from tests.harness.model_server import ModelServer

SIZE = 2 << 20


@contextlib.contextmanager
def small_disk(folder: Path, size: int = SIZE) -> Iterator[None]:
    """A file system of `size` bytes at a folder."""
    folder.mkdir()
    made = subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(folder)], capture_output=True)
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
        project.tandem("run", "--json").ok()  # some partitions may have been published before
        assert sum(file["rows"] for file in project.tandem("outputs", "files", "--json").ok().json) == 30


def test_a_full_home_is_named_before_anything_is_started(tmp_path: Path) -> None:
    project = Project.make(tmp_path)
    with small_disk(tmp_path / "home"):
        result = project.tandem("run", "--json", TANDEM_HOME=str(tmp_path / "home" / "tandem"))
    assert (result.code, "TANDEM_HOME" in result.out) == (4, True), result


def fill(path: Path) -> None:
    with path.open("wb") as file, contextlib.suppress(OSError):
        while True:
            file.write(b"x" * 65_536)
            file.flush()


def test_a_home_that_fills_up_during_a_run_is_named_and_the_run_is_carried_on(
    tmp_path: Path, model_server: ModelServer
) -> None:
    model_server.script({"latency_ms": 300})
    home = tmp_path / "home"
    env = {**model_server.env(), "TANDEM_SPOOL": str(tmp_path / "spool"), "TANDEM_HOME": str(home / "tandem")}
    project = Project.make(tmp_path, env, count=600, model="openai:test-model")
    project.spec["limits"] = {"rows_in_flight": 8}
    project.write()
    with small_disk(home, 60 << 20):
        with project.start("run", "--name", "one", "--json") as run:
            eventually(lambda: model_server.stats().answered_ok >= 50, "calls")
            fill(home / "filler")
            ended = run.wait(60)
        assert (ended.code, ended.json["error"]["code"]) == (4, "NoRoom"), ended
        assert "TANDEM_HOME" in ended.json["error"]["message"]
        assert model_server.stats().answered_ok < 600
        (home / "filler").unlink()
        model_server.script({})
        report = project.tandem("run", "--name", "one", "--json", timeout_s=200).ok().json
    assert report["rows"]["ok"] == report["usage"]["calls"] == model_server.stats().answered_ok == 600
