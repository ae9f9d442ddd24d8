"""Tables and specs that the benchmarks run on, and `tandem` as a process."""

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
    """A finished command: its document, wall and CPU seconds, peak resident memory in MB."""

    report: Any
    wall_s: float
    cpu_s: float
    peak_mb: float


def run(folder: Path, *arguments: str, env: dict[str, str] | None = None) -> Ran:
    return tandem(folder, "run", "--json", "-q", *arguments, env=env)


def tandem(folder: Path, *arguments: str, env: dict[str, str] | None = None) -> Ran:
    command = [sys.executable, "-m", "pipeline.cli", *arguments]
    began = time.monotonic()
    process = psutil.Popen(command, cwd=folder, env={**os.environ, **(env or {})}, stdout=subprocess.PIPE, text=True)
    peak, cpu = [0.0], [0.0]

    def sample() -> None:
        while process.is_running():
            try:
                peak[0] = max(peak[0], process.memory_info().rss / 1e6)
                times = process.cpu_times()
                cpu[0] = times.user + times.system
            except psutil.Error:
                return
            time.sleep(0.05)

    watcher = threading.Thread(target=sample, daemon=True)
    watcher.start()
    out, _ = process.communicate()
    report = json.loads(out)
    if process.returncode:
        raise RuntimeError(f"exit {process.returncode}: {report}")
    return Ran(report, time.monotonic() - began, cpu[0], peak[0])
