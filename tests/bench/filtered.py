"""Ten million rows of which SQL keeps 5,000, with one worker process. `ROWS` sets how many there are."""

import os
import tempfile
from pathlib import Path

import polars as pl

from tests.bench.pipelines import run

KEPT = 5_000


def main() -> str:
    rows = int(os.environ.get("ROWS", "10000000"))
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        _write(folder, rows)
        ran = run(folder, "--yes", "--processes", "1")
        published = sum(path.stat().st_size for path in (folder / "out" / "data").rglob("*.parquet"))
        sink = sum(path.stat().st_size for path in (folder / "out").rglob("*") if path.is_file())
    assert ran.report["rows"]["out"] == KEPT, ran.report
    return (
        f"{rows:,} rows, {KEPT:,} kept: {ran.wall_s:.0f} s, {ran.cpu_s:.0f} s of CPU, {ran.peak_mb:.0f} MB; the sink "
        f"has {(sink - published) / rows:.1f} bytes for each row of the source, {published / KEPT:.0f} for each "
        f"published (load {os.getloadavg()[0]:.0f})"
    )


def _write(folder: Path, rows: int) -> None:
    number = pl.int_range(rows, eager=True)
    words = pl.Series(["invoice", "refund", "crash", "login", "slow", "error", "late", "order", "cancel", "angry"])
    pl.DataFrame(
        {
            "id": number,
            "score": number % (rows // KEPT) == 0,
            "text": words.gather(number * 7 % 10) + " number " + number.cast(pl.String),
            "kind": words.gather(number * 3 % 10),
        }
    ).write_parquet(folder / "t.parquet")
    folder.joinpath("tandem.yaml").write_text(
        "name: bench\nsource: {path: t.parquet, key: [id]}\nstages:\n"
        "  - {name: kept, uses: sql, query: SELECT * FROM rows WHERE score}\n"
        "  - {name: s, uses: extract, model: 'offline:lexical', prompt: '{{ text }}', output: {word: str}}\n"
        "sink: {path: out}\n"
    )
