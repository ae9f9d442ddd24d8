"""A run over rows that are published and have not changed. `ROWS` sets how many there are; their one stage is SQL, as
what a stage does has no part in it."""

import os
import tempfile
from pathlib import Path

from tests.bench.pipelines import run, write_table


def main() -> str:
    rows = int(os.environ.get("ROWS", "2000000"))
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_table(folder / "t.csv", rows, days=20)
        folder.joinpath("tandem.yaml").write_text(
            "name: bench\nsource: {path: t.csv, key: [id]}\npartition: {by: time, column: created_at, every: day}\n"
            "stages:\n  - {name: long, uses: sql, query: 'SELECT *, LENGTH(text) AS letters FROM rows'}\n"
            "sink: {path: out}\n"
        )
        first = run(folder, "--processes", "1")
        again = run(folder, "--processes", "1")
    assert again.report["partitions"]["unchanged"] == again.report["partitions"]["total"] == 20, again.report
    return (
        f"{rows:,} rows of CSV: published in {first.wall_s:.0f} s, {first.peak_mb:.0f} MB; the same command again "
        f"takes {again.wall_s:.1f} s with start-up ({rows / again.wall_s:,.0f} rows/s), {again.peak_mb:.0f} MB "
        f"(load {os.getloadavg()[0]:.0f})"
    )
