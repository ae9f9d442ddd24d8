"""The warm parent of worker processes: what it is forked from, and its rest between two children."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import psutil
import pytest

from pipeline.processes.children import Child
from pipeline.processes.fork_server import resting, serving
from pipeline.processes.fork_server.handle import ForkServer

_IMPORTS = """
import importlib, pkgutil, time
import pipeline.cli.__main__
import pipeline.cli
from pipeline.processes.fork_server import handle as fork_server, serving
for module in pkgutil.walk_packages(pipeline.cli.__path__, "pipeline.cli."):
    importlib.import_module(module.name)
serving.work_of_children()
print(fork_server._polars_has_threads())
import polars as pl
pl.DataFrame({"a": [1]}).select(pl.col("a") + 1)
for _ in range(500):  # a thread names itself, when it first runs
    if not fork_server._polars_has_threads():
        time.sleep(0.01)
print(fork_server._polars_has_threads())
fork_server.prepare()
print(len(fork_server._servers))
"""


def _printed(code: str) -> list[str]:
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()


def test_no_import_of_ours_lets_polars_compute_and_what_computed_is_not_forked() -> None:
    assert _printed(_IMPORTS) == ["False", "True", "0"]


_ENVIRONMENT_OF_A_BOOT = """
import os, sys
from pipeline.processes.fork_server import serving
serving.work_of_children = lambda: None
serving.socket.socket = lambda fileno: None
serving.serve = lambda *_: print(os.environ.get("PYTHONPATH"))
serving.boot(int(sys.argv[1]), sys.argv[2])
"""


@pytest.mark.parametrize("path", [None, "of/the/user"])
def test_processes_of_nodes_have_the_users_path_after_a_rest_too(
    monkeypatch: pytest.MonkeyPatch, path: str | None
) -> None:
    monkeypatch.delenv("PYTHONPATH", raising=False)
    if path is not None:
        monkeypatch.setenv("PYTHONPATH", path)
    python, flag, _, *arguments = serving.boot_command(0)
    command, env = [python, flag, _ENVIRONMENT_OF_A_BOOT, *arguments], serving.boot_environment()
    ran = subprocess.run(command, env=env, capture_output=True, text=True, check=True)
    assert ran.stdout.split() == [str(path)]


_IMPORTS_OF_A_RUN = """
import sys
import pipeline.cli.commands.work.run
from pipeline.processes.fork_server import serving
serving.work_of_children()
print(*(name for name in ("langgraph.graph", "pandas", "boto3", "sqlglot", "openai") if name in sys.modules))
"""


def test_what_most_runs_do_without_is_not_imported_before_the_fork() -> None:
    assert _printed(_IMPORTS_OF_A_RUN) == []


_BEGIN = {"role": "rows", "owner": "", "max_memory": 0}


async def _until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(30):
        while not condition():  # noqa: ASYNC110  another process's state
            await asyncio.sleep(0.02)


def _rests(server: psutil.Process) -> bool:
    return str(Path(resting.__file__)) in server.cmdline()


@contextlib.asynccontextmanager
async def _resting(server: ForkServer) -> AsyncIterator[tuple[Child, psutil.Process]]:
    """A child of a server that rests."""
    child = await Child.started(server, "rows", print, {}, _BEGIN)
    assert server._spawned is not None
    process = psutil.Process(server._spawned.pid)
    assert not _rests(process)
    server.let_rest()
    await _until(lambda: _rests(process))
    try:
        yield child, process
    finally:
        server.close()


async def test_a_server_that_rests_holds_little_and_reports_the_ends_of_its_children() -> None:
    server = ForkServer.spawned()
    async with _resting(server) as (child, process):
        held = process.memory_full_info().uss
        await _until(lambda: child.ready)
        assert held < 10_000_000 < psutil.Process(child.pid).memory_full_info().rss
        os.kill(child.pid, signal.SIGKILL)
        assert (await child.death).status == -signal.SIGKILL
        assert _rests(process)


async def test_a_server_that_rests_starts_another_child_after_its_imports() -> None:
    server = ForkServer.spawned()
    async with _resting(server) as (first, process):
        second = await Child.started(server, "rows", print, {}, _BEGIN)
        assert not _rests(process)
        assert {first.pid, second.pid} == {child.pid for child in process.children()}
        await _until(lambda: second.ready)
        await asyncio.gather(first.stop(), second.stop())
        assert [(await child.death).status for child in (first, second)] == [0, 0]


async def test_a_start_that_is_given_up_does_not_take_the_answer_of_the_next() -> None:
    server = ForkServer.spawned()
    async with _resting(server) as (first, process):
        given_up = asyncio.create_task(Child.started(server, "rows", print, {}, _BEGIN))
        await asyncio.sleep(0)
        given_up.cancel()
        second = await Child.started(server, "rows", print, {}, _BEGIN)
        await _until(lambda: second.ready)
        await _until(lambda: {child.pid for child in process.children()} == {first.pid, second.pid})


async def test_children_end_with_a_server_that_rests_and_is_killed() -> None:
    server = ForkServer.spawned()
    async with _resting(server) as (child, process):
        worker = psutil.Process(child.pid)
        process.kill()
        assert (await child.death).status == -signal.SIGKILL
        assert not server.alive
        await _until(lambda: not worker.is_running() or worker.status() == psutil.STATUS_ZOMBIE)


def test_a_server_that_rests_ends_with_its_command(tmp_path: Path) -> None:
    code = f"""
import asyncio, os, sys
sys.path.insert(0, {str(Path(__file__).parents[3])!r})
from tests.pipeline.processes.test_fork_server import _resting
from pipeline.processes.fork_server.handle import ForkServer

async def main():
    async with _resting(ForkServer.spawned()) as (child, process):
        print(process.pid, child.pid, flush=True)
        await asyncio.sleep(60)

asyncio.run(main())
"""
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True, cwd=tmp_path) as command:
        assert command.stdout is not None
        left = [psutil.Process(int(pid)) for pid in command.stdout.readline().split()]
        assert len(left) == 2
        command.kill()
    _, alive = psutil.wait_procs(left, timeout=10)
    assert [process for process in alive if process.status() != psutil.STATUS_ZOMBIE] == []
