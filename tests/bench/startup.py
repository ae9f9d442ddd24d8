"""The start of commands: one that looks, one that builds the stages, and a whole run of 100 rows, offline."""

import os
import statistics
import tempfile
from pathlib import Path

from tests.bench.pipelines import Ran, tandem, write_spec, write_table

ROWS, TIMES = 100, 3


def main() -> str:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_table(folder / "t.csv", ROWS, days=1)
        write_spec(folder, "offline:lexical")
        runs = [tandem(folder, "run", "--json", "-q", "--reprocess", "all") for _ in range(TIMES)]
        looks = [tandem(folder, "runs", "list", "--json") for _ in range(TIMES)]
        plans = [tandem(folder, "plan", "--json", "-q") for _ in range(TIMES)]
    measured = {"runs list": looks, "plan": plans, f"run of {ROWS} rows": runs}
    return f"{'; '.join(_median(name, ran) for name, ran in measured.items())} (load {os.getloadavg()[0]:.0f})"


def _median(name: str, ran: list[Ran]) -> str:
    cpu_s, wall_s = (statistics.median(getattr(one, field) for one in ran) for field in ("cpu_s", "wall_s"))
    return f"{name}: {cpu_s:.1f} s CPU, {wall_s:.1f} s"
