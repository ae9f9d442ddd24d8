"""A command that is killed with all its processes, at random instants: how soon the same command calls again."""

import json
import os
import random
import signal
import statistics
import tempfile
import time
from pathlib import Path

import psutil

from tests.cli.support import Project, Started
from tests.harness.model_server import ModelServer

ROWS, IN_FLIGHT, LATENCY_MS = 4_000, 16, 250
KILLS = 20


def main(kills: int = KILLS, seed: int = 1) -> str:
    chance = random.Random(seed)
    waits: list[float] = []
    with ModelServer.start() as server, tempfile.TemporaryDirectory() as folder:
        server.script({"latency_ms": LATENCY_MS})
        project = Project.make(Path(folder), server.env(), count=ROWS, model="openai:test-model")
        project.spec["limits"] = {"rows_in_flight": IN_FLIGHT}
        project.write()
        running = project.start("run")
        _first_call(server, 0)
        for _ in range(kills):
            time.sleep(chance.uniform(0.0, 4.0))
            _kill(running, Path(folder) / ".home")
            before = server.stats().requests
            began = time.monotonic()
            running = project.start("run")
            _first_call(server, before)
            waits.append(time.monotonic() - began)
        _kill(running, Path(folder) / ".home")
        stats = server.stats()
        again = stats.answered_ok - stats.contents
    load = os.getloadavg()[0]
    return (
        f"first call after {kills} kills: median {statistics.median(waits):.1f} s, worst {max(waits):.1f} s; "
        f"{again} of {stats.answered_ok} calls paid again, {IN_FLIGHT} in flight (load {load:.0f})"
    )


def _first_call(server: ModelServer, before: int, within_s: float = 120) -> None:
    until = time.monotonic() + within_s
    while server.stats().requests <= before:
        assert time.monotonic() < until, "no call"
        time.sleep(0.02)


def _kill(running: Started, home: Path) -> None:
    """The command, its processes, and the embedded server with its supervisor."""
    dead = [running.process.pid]
    try:
        dead += [child.pid for child in psutil.Process(running.process.pid).children(recursive=True)]
        note = json.loads((home / "server.json").read_text())
        dead += [note["supervisor_pid"], note["pid"]]
    except (psutil.NoSuchProcess, OSError):
        pass
    for pid in dead:
        try:
            os.kill(pid, signal.SIGKILL)
        except ProcessLookupError:
            continue
    running.process.wait()
