"""A run over a wide table: 50 rows, of which one column is read by a stage and the others pass through."""

import os
import random
import tempfile
from pathlib import Path

from tests.bench.pipelines import run

ROWS, WIDTHS = 50, (10, 300, 1_000, 3_000, 10_000)


def main() -> str:
    return f"{'; '.join(map(_measured, WIDTHS))} (load {os.getloadavg()[0]:.0f})"


def _measured(columns: int) -> str:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        _write(folder, columns)
        ran = run(folder)
        again = run(folder, "--reprocess", "all")
    return (
        f"{columns:,} columns: {ran.wall_s:.1f} s, {ran.cpu_s:.1f} s CPU, {ran.peak_mb:.0f} MB; "
        f"published anew: {again.wall_s:.1f} s, {again.cpu_s:.1f} s CPU"
    )


def _write(folder: Path, columns: int) -> None:
    """Write the table and its spec. Columns are integers, floats, words and days in turn."""
    rng = random.Random(1)
    kinds = (
        lambda: str(rng.randrange(10**6)),
        lambda: f"{rng.random():.6f}",
        lambda: f"word{rng.randrange(1_000)}",
        lambda: f"2026-11-{rng.randrange(1, 30):02d}",
    )
    with (folder / "t.csv").open("w") as out:
        out.write(",".join(["id", "body", *(f"c{number:05d}" for number in range(columns - 2))]) + "\n")
        for row in range(ROWS):
            values = (kinds[number % len(kinds)]() for number in range(columns - 2))
            out.write(",".join([str(row), f"Invoice {row} is wrong and the customer is angry.", *values]) + "\n")
    folder.joinpath("tandem.yaml").write_text(
        """\
name: wide
source: {path: t.csv, key: [id]}
stages:
  - name: triage
    uses: extract
    model: offline:lexical
    prompt: "{{ body }}"
    output: {summary: str}
sink: {path: out}
"""
    )
