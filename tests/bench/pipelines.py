"""Tables and specs that the benchmarks run on, and `tandem` as a process."""

import contextlib
import json
import os
import random
import subprocess
import sys
import threading
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil

WORDS = ["invoice", "broken", "refund", "please", "help", "urgent", "login", "crash", "payment", "late", "thanks"]


def write_table(path: Path, rows: int, days: int = 5) -> None:
    """`rows` rows over `days` days, in order of time, every text different."""
    rng = random.Random(1)
    with path.open("w") as out:
        out.write("id,created_at,text\n")
        for number in range(rows):
            day, second = divmod(number * days * 86400 // rows, 86400)
            clock = f"2026-11-{day + 1:02d}T{second // 3600:02d}:{second // 60 % 60:02d}:{second % 60:02d}"
            out.write(f'{number},{clock},"{" ".join(rng.choices(WORDS, k=30))} {number}"\n')


def write_spec(folder: Path, model: str) -> None:
    folder.joinpath("tandem.yaml").write_text(
        f"""\
name: bench
source: {{path: t.csv, key: [id]}}
partition: {{by: time, column: created_at, every: day}}
stages:
  - name: triage
    uses: extract
    model: {model}
    prompt: "{{{{ text }}}}"
    output: {{category: {{type: enum, values: [a, b, c]}}, urgency: {{type: int, ge: 1, le: 5}}, summary: str}}
sink: {{path: out}}
"""
    )


@dataclass(frozen=True)
class Ran:
    """A finished command: its document, wall and CPU seconds, peak memory in MB; of all its processes together, pages
    that several share counted once. `temporal_cpu_s`: of the embedded server, up to half a second before its end."""

    report: Any
    wall_s: float
    cpu_s: float
    peak_mb: float
    temporal_cpu_s: float


def run(folder: Path, *arguments: str, env: dict[str, str] | None = None, memory: bool = True) -> Ran:
    return tandem(folder, "run", "--json", "-q", *arguments, env=env, memory=memory)


def tandem(folder: Path, *arguments: str, env: dict[str, str] | None = None, memory: bool = True) -> Ran:
    """Run a command to its end. Without `memory` that is not measured: summing pages takes tens of ms of a core for
    each process, twice a second."""
    command = [sys.executable, "-m", "pipeline.cli", *arguments]
    began = time.monotonic()
    process = psutil.Popen(command, cwd=folder, env={**os.environ, **(env or {})}, stdout=subprocess.PIPE, text=True)
    peak, cpu, temporal = [0.0], dict[int, float](), dict[int, float]()

    def sample() -> None:
        while process.is_running():
            try:
                family = [process, *process.children(recursive=True)]
            except psutil.Error:
                return
            with contextlib.suppress(psutil.Error, OSError, ValueError):
                server = psutil.Process(json.loads((folder / ".tandem" / "server.json").read_text())["pid"])
                temporal[server.pid] = server.cpu_times().user + server.cpu_times().system
            held = 0.0
            for one in family:
                with contextlib.suppress(psutil.Error):
                    times = one.cpu_times()
                    cpu[one.pid] = times.user + times.system
                    held += one.memory_full_info().pss / 1e6 if memory else 0.0
            peak[0] = max(peak[0], held)
            time.sleep(0.5)

    watcher = threading.Thread(target=sample, daemon=True)
    watcher.start()
    out, _ = process.communicate()
    report = json.loads(out)
    if process.returncode:
        raise RuntimeError(f"exit {process.returncode}: {report}")
    return Ran(report, time.monotonic() - began, sum(cpu.values()), peak[0], sum(temporal.values()))
