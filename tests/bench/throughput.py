"""5,000 rows against an HTTP model of 200 ms with 64 in flight; the ideal is 320 rows/s."""

import tempfile
from pathlib import Path

from tests.bench.pipelines import run, write_spec, write_table
from tests.harness.model_server import ModelServer

ROWS, LATENCY_MS, IN_FLIGHT = 5_000, 200, 64


def main() -> str:
    with tempfile.TemporaryDirectory() as name, ModelServer.start(latency_ms=LATENCY_MS) as server:
        folder = Path(name)
        write_table(folder / "t.csv", ROWS)
        write_spec(folder, "openai:test-model")
        ran = run(folder, env=server.env())
        calls = [call for call in server.calls() if call.answered]
        phase = max(call.t_end or 0 for call in calls) - min(call.t_start for call in calls)
    ideal = IN_FLIGHT / (LATENCY_MS / 1000)
    rate = len(calls) / phase
    return (
        f"{rate:.0f} rows/s of {ideal:.0f} ideal = {rate / ideal:.0%} over the enrichment phase; "
        f"{ROWS / ran.wall_s:.0f} rows/s start-up included; {ran.cpu_s / ROWS * 1000:.1f} ms CPU a row"
    )
