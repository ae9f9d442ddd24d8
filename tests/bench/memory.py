"""Peak memory of `tandem run` for 5,000 and for 500,000 input rows, offline model. `ROWS` sets the larger number."""

import os
import tempfile
from pathlib import Path

from tests.bench.pipelines import run, write_spec, write_table


def peak_mb(rows: int) -> float:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_table(folder / "t.csv", rows)
        write_spec(folder, "offline:lexical")
        return run(folder).peak_mb


def main() -> str:
    many = int(os.environ.get("ROWS", "500000"))
    few, lots = peak_mb(5_000), peak_mb(many)
    return f"peak RSS {few:.0f} MB with 5,000 rows, {lots:.0f} MB with {many:,} rows"
