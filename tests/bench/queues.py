"""Servers that queue instead of refusing, by `tandem run` with 256 rows at once: what they answer, and how fast,
against the best fixed number of rows. Nothing names that number. `ROWS` sets the rows of a run, `ONLY` its case."""

import os
import tempfile
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

from tests.bench.pipelines import run, write_spec, write_table
from tests.harness.ledger import Call
from tests.harness.model_server import ModelServer

ROWS = int(os.environ.get("ROWS", "6000"))
MOST = 256
LATENCY = {"latency_ms": 1000, "spread": 0.3}


@dataclass(frozen=True)
class Case:
    """A server, the best fixed number of rows for it, and what becomes of it after `until_s` seconds."""

    name: str
    script: Mapping[str, Any]
    best: int
    then: Mapping[str, Any] | None = None
    until_s: float = 60.0


CASES = (
    Case("48 slots", {**LATENCY, "slots": 48}, 48),
    Case("half as much beyond 64 calls", {**LATENCY, "slots": 64, "crowd": 64}, 64),
    Case("48 slots, then 16", {**LATENCY, "slots": 48}, 48, {**LATENCY, "slots": 16}),
    Case("a healthy provider", {"latency_ms": 1000, "spread": 0.6}, MOST),
)


@dataclass(frozen=True)
class Seen:
    """Calls of a run, by the server's own count."""

    calls: list[Call]

    def rate(self, begin: float, end: float) -> float:
        """Answers a second, from so many seconds after the first call on; without the end of the run, which is not
        full."""
        first = min(call.t_start for call in self.calls)
        return sum(begin <= (call.t_end or 0) - first < end for call in self.calls) / (end - begin)

    def latency(self, begin: float) -> float:
        first = min(call.t_start for call in self.calls)
        return median((call.t_end or 0) - call.t_start for call in self.calls if call.t_start - first >= begin)

    @property
    def full_s(self) -> float:
        """Until the last call was sent: all places were in use."""
        return max(call.t_start for call in self.calls) - min(call.t_start for call in self.calls)

    @property
    def lost(self) -> int:
        return sum(call.status != 200 or not call.answered for call in self.calls)


def seen(case: Case, rows_in_flight: int, rows: int) -> Seen:
    with ModelServer.start() as server, tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_table(folder / "t.csv", rows)
        write_spec(folder, "openai:test-model")
        with (folder / "tandem.yaml").open("a") as spec:
            spec.write(f"limits: {{rows_in_flight: {rows_in_flight}}}\n")
        server.script(case.script)
        changed = threading.Thread(target=_change, args=(server, case), daemon=True)
        changed.start()
        run(folder, "--processes", "1", env=server.env())
        return Seen(server.calls())


def _change(server: ModelServer, case: Case) -> None:
    while not server.stats().answered_ok:
        time.sleep(0.2)
    if case.then is not None:
        time.sleep(case.until_s)
        server.script(case.then)


def line(case: Case) -> str:
    rows = ROWS if case.then is None else ROWS * 3 // 4
    found = seen(case, MOST, rows)
    end = found.full_s
    if case.then is not None:  # the server begins again with an empty queue; twenty seconds are for finding the number
        part = found.rate(case.until_s + 20, end) / 16
        late = found.latency(case.until_s + 20)
        return f"{case.name}: {part:.0%} of 16 a second from 20 s on, median latency {late:.2f} s, {found.lost} lost"
    if case.best == MOST:
        ideal = MOST / (case.script["latency_ms"] / 1000)
        return f"{case.name}: {found.rate(10, end) / ideal:.0%} of {ideal:.0f} a second from 10 s on, {found.lost} lost"
    best = seen(case, case.best, rows // 2)
    fixed = best.rate(5, best.full_s)
    return (
        f"{case.name}: {found.rate(0, end) / fixed:.0%} of the {fixed:.1f} a second of rows_in_flight: {case.best}, "
        f"{found.rate(30, end) / fixed:.0%} from 30 s on; median latency {found.latency(30):.2f} s instead of "
        f"{best.latency(5):.2f} s, the longest {max((call.t_end or 0) - call.t_start for call in found.calls):.1f} s, "
        f"{found.lost} lost"
    )


def main() -> str:
    lines = [line(case) for case in CASES if os.environ.get("ONLY", "") in case.name]
    return "\n  ".join(lines) + f" (load {os.getloadavg()[0]:.0f})"
