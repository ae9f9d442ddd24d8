"""`--reprocess all` of unchanged rows by one worker process: everything comes from the journal, nothing is paid. `ROWS`
sets how many there are."""

import datetime as dt
import os
import tempfile
from pathlib import Path

from tests.bench.pipelines import Ran, run, write_spec, write_table


def took_s(ran: Ran) -> float:
    """From the run's start to its end, by its report: without what comes before and after in the process."""
    began, ended = (dt.datetime.fromisoformat(ran.report[name]) for name in ("started_at", "finished_at"))
    return max(1.0, (ended - began).total_seconds())


def main() -> str:
    rows = int(os.environ.get("ROWS", "100000"))
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_table(folder / "t.csv", rows, days=10)
        write_spec(folder, "offline:lexical")
        first = run(folder, "--processes", "1")
        again = run(folder, "--processes", "1", "--reprocess", "all")
        idle = run(folder, "--processes", "1")
    assert again.report["usage"]["calls"] == 0, again.report
    assert again.report["journal"]["rows_reused"] == rows, again.report
    return (
        f"{rows:,} rows reprocessed from the journal with 0 calls in {took_s(again):.0f} s "
        f"({rows / took_s(again):,.0f} rows/s), {again.wall_s:.1f} s with start-up and plan, {again.peak_mb:.0f} MB; "
        f"{(again.cpu_s - idle.cpu_s) / rows * 1e6:.0f} µs of CPU a row more than a run with nothing to do, which took "
        f"{idle.wall_s:.1f} s; the first run took {first.wall_s:.0f} s (load {os.getloadavg()[0]:.0f})"
    )
