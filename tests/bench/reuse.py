"""`--reprocess all` of 100,000 unchanged rows: everything comes from the journal, nothing is paid."""

import datetime as dt
import tempfile
from pathlib import Path

from tests.bench.pipelines import Ran, run, write_spec, write_table

ROWS = 100_000


def took_s(ran: Ran) -> float:
    """From the run's start to its end, by its report: without what comes before and after in the process."""
    began, ended = (dt.datetime.fromisoformat(ran.report[name]) for name in ("started_at", "finished_at"))
    return max(1.0, (ended - began).total_seconds())


def main() -> str:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_table(folder / "t.csv", ROWS, days=10)
        write_spec(folder, "offline:lexical")
        first = run(folder)
        again = run(folder, "--reprocess", "all")
        default = run(folder)
    assert again.report["usage"]["calls"] == 0, again.report
    assert again.report["journal"]["rows_reused"] == ROWS, again.report
    return (
        f"{ROWS:,} rows reprocessed from the journal with 0 calls in {took_s(again):.0f} s "
        f"({ROWS / took_s(again):,.0f} rows/s), {again.wall_s:.1f} s with start-up and plan; the first run took "
        f"{first.wall_s:.0f} s, one with nothing to do {default.wall_s:.1f} s"
    )
