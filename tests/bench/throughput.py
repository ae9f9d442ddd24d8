"""What fits between a limit of calls in flight and a model's latency: a whole run beside a raw aiohttp loop. Then a
process that is saturated: what a row takes past a run's start-up, everything durable.

`SHAPES` sets what is measured: calls in flight, milliseconds and rows of each.
"""

import asyncio
import os
import tempfile
from pathlib import Path
from unittest.mock import patch

from stages.models.wires.http import close_session
from tests.bench.peers import raw
from tests.bench.pipelines import run, write_spec, write_table
from tests.harness.model_server import ModelServer

SHAPES = "64×200×20000 1000×2000×20000"
SATURATED = (256, 20)
FEW, MANY = 1_000, 21_000


def main() -> str:
    shapes = [tuple(map(int, shape.split("×"))) for shape in os.environ.get("SHAPES", SHAPES).split()]
    found = [*(_measured(*shape) for shape in shapes), _saturated()]
    return f"{'; '.join(found)} (load {os.getloadavg()[0]:.0f})"


def _saturated() -> str:
    few, many = (_cpu_s(rows) for rows in (FEW, MANY))
    return (
        f"{SATURATED[0]} × {SATURATED[1]} ms, one worker process: {(many - few) / (MANY - FEW) * 1000:.2f} ms of CPU a "
        f"row past start-up, command, publication and report included"
    )


def _cpu_s(rows: int) -> float:
    in_flight, latency_ms = SATURATED
    with tempfile.TemporaryDirectory() as name, ModelServer.start(latency_ms=latency_ms) as server:
        _write(Path(name), rows, in_flight)
        return run(Path(name), "--yes", "--processes", "1", env=server.env(), memory=False).cpu_s


def _write(folder: Path, rows: int, in_flight: int) -> None:
    write_table(folder / "t.csv", rows)
    write_spec(folder, "openai:test-model")
    with (folder / "tandem.yaml").open("a") as spec:
        spec.write(f"limits: {{rows_in_flight: {in_flight}}}\n")


def _measured(in_flight: int, latency_ms: int, rows: int) -> str:
    ideal = in_flight / (latency_ms / 1000)
    with ModelServer.start(latency_ms=latency_ms) as server:
        with patch.dict(os.environ, {**server.env(), "IN_FLIGHT": str(in_flight)}):
            asyncio.run(_raw(rows))
        loop = _rate(server)
    # A server for each: one that has answered so many calls before is 0.4 % slower.
    with tempfile.TemporaryDirectory() as name, ModelServer.start(latency_ms=latency_ms) as server:
        folder = Path(name)
        _write(folder, rows, in_flight)
        ran = run(folder, "--yes", env=server.env(), memory=False)
        ours, most = _rate(server), server.stats().max_in_flight
    assert ran.report["rows"]["ok"] == rows, ran.report
    return (
        f"{in_flight:,} × {latency_ms} ms, {rows:,} rows: {ours:.0f} rows/s while enriching = {ours / loop:.1%} of the "
        f"raw loop ({loop:.0f}; ideal {ideal:.0f}), at most {most} at once; the whole run took {ran.wall_s:.1f} s, "
        f"ideal + {ran.wall_s - rows / ideal:.1f} s, {ran.cpu_s / rows * 1000:.2f} ms of CPU a row"
    )


async def _raw(rows: int) -> None:
    await raw([f"ticket number {number} about an invoice that is wrong" for number in range(rows)])
    await close_session()


def _rate(server: ModelServer) -> float:
    """Return the answers a second from the first question to the last answer."""
    calls = [call for call in server.calls() if call.answered]
    return len(calls) / (max(call.t_end or 0 for call in calls) - min(call.t_start for call in calls))
