"""256 calls at once of 20 ms: what a second worker process gives. The mock and Temporal share the machine's cores."""

import os
import tempfile
from pathlib import Path

from tests.bench.pipelines import run, write_spec, write_table
from tests.harness.model_server import ModelServer

ROWS, LATENCY_MS, IN_FLIGHT = 8_000, 20, 256


def main(rows: int = ROWS) -> str:
    said = []
    with ModelServer.start(latency_ms=LATENCY_MS) as server:
        for processes in (1, 2):
            server.reset()
            server.script({"latency_ms": LATENCY_MS})
            with tempfile.TemporaryDirectory() as name:
                folder = Path(name)
                write_table(folder / "t.csv", rows)
                write_spec(folder, "openai:test-model")
                with (folder / "tandem.yaml").open("a") as spec:
                    spec.write(f"limits: {{rows_in_flight: {IN_FLIGHT}}}\n")
                before = server.cpu_s()
                ran = run(folder, "--processes", str(processes), env=server.env())
                calls = [call for call in server.calls() if call.answered]
                phase = max(call.t_end or 0 for call in calls) - min(call.t_start for call in calls)
                most = server.stats().max_in_flight
            mock = (server.cpu_s() - before) / rows * 1000
            said.append(
                f"{processes}: {len(calls) / phase:.0f} rows/s, at most {most} at once, "
                f"{ran.cpu_s / rows * 1000:.1f} ms CPU a row, "
                f"{mock:.1f} of the mock, {ran.temporal_cpu_s / rows * 1000:.1f} of Temporal"
            )
    return f"{'; '.join(said)} (load {os.getloadavg()[0]:.0f})"
