"""`--reprocess all` of 100,000 unchanged rows: everything comes from the journal, nothing is paid."""

import tempfile
from pathlib import Path

from tests.bench.pipelines import run, write_spec, write_table

ROWS = 100_000


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
        f"{ROWS:,} rows reprocessed from the journal with 0 calls in {again.wall_s:.1f} s wall "
        f"({ROWS / again.wall_s:,.0f} rows/s, start-up included); the first run took {first.wall_s:.0f} s, "
        f"one with nothing to do {default.wall_s:.1f} s"
    )
