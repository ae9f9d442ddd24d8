"""Servers that queue instead of refusing, by `tandem run` with 256 rows at once: what they answer, and how fast,
against the best fixed number of rows. Nothing names that number. `ONLY` sets the case, `TAKES` the seconds of a call:
more of them need fewer cores, and as much more time."""

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

MOST = 256
TAKES_S = float(os.environ.get("TAKES", "1"))  # of a call, on average
LATENCY = {"latency_ms": 1000 * TAKES_S, "spread": 0.3}
FIXED_S, FOUND_S, BEFORE_S, AFTER_S = (TAKES_S * calls for calls in (60, 120, 60, 60))


@dataclass(frozen=True)
class Case:
    """A server, the best fixed number of rows for it, and what becomes of it after a minute."""

    name: str
    script: Mapping[str, Any]
    best: int
    then: Mapping[str, Any] | None = None


CASES = (
    Case("48 slots", {**LATENCY, "slots": 48}, 48),
    Case("half as much beyond 64 calls", {**LATENCY, "slots": 64, "crowd": 64}, 64),
    Case("48 slots, then 16", {**LATENCY, "slots": 48}, 48, {**LATENCY, "slots": 16}),
    Case("a healthy provider", {**LATENCY, "spread": 0.6}, MOST),
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
        time.sleep(BEFORE_S)
        server.script(case.then)


def line(case: Case) -> str:
    if case.then is not None:
        return _changed(case)
    found = seen(case, MOST, int(case.best / TAKES_S * FOUND_S))
    end, begun = found.full_s, 30 * TAKES_S
    if case.best == MOST:
        used = found.rate(begun, end) * TAKES_S / MOST
        return f"{case.name}: {used:.0%} of {MOST} calls at once, {found.lost} lost"
    best = seen(case, case.best, int(case.best / TAKES_S * FIXED_S))
    fixed = best.rate(5 * TAKES_S, best.full_s)
    return (
        f"{case.name}: {found.rate(0, end) / fixed:.0%} of the {fixed:.1f} a second of rows_in_flight: {case.best}, "
        f"{found.rate(begun, end) / fixed:.0%} after {begun:.0f} s; median latency {found.latency(begun):.2f} s "
        f"instead of {best.latency(5 * TAKES_S):.2f} s, the longest "
        f"{max((call.t_end or 0) - call.t_start for call in found.calls):.1f} s, {found.lost} lost"
    )


def _changed(case: Case) -> str:
    """Of a server whose slots become 16: the new ones begin with an empty queue, and twenty seconds are for finding the
    number."""
    found = seen(case, MOST, int((case.best * BEFORE_S + 16 * AFTER_S) / TAKES_S))
    begin = BEFORE_S + 20 * TAKES_S
    part = found.rate(begin, found.full_s) * TAKES_S / 16
    return f"{case.name}: {part:.0%} of 16 at once, median latency {found.latency(begin):.2f} s, {found.lost} lost"


def main() -> str:
    cases = [case for case in CASES if os.environ.get("ONLY", "") in case.name]
    for case in cases:
        print(f"  {line(case)}", flush=True)
    return f"{len(cases)} servers (load {os.getloadavg()[0]:.0f})"
