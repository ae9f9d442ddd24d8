"""Memory stays flat: four times the rows cost no more than what a batch and a partition cost."""

from pathlib import Path

import pytest

from tests.bench.pipelines import run, write_spec, write_table


def peak_mb(folder: Path, rows: int, days: int) -> float:
    folder.mkdir()
    write_table(folder / "t.csv", rows, days=days)
    write_spec(folder, "offline:lexical")
    ran = run(folder)
    assert ran.report["rows"]["ok"] == rows
    return ran.peak_mb


@pytest.mark.timeout(900)
def test_memory_is_flat_in_the_number_of_rows(tmp_path: Path) -> None:
    """Partitions of one size, few and many of them. What is left to grow is bounded: caches that fill up."""
    few = peak_mb(tmp_path / "few", 5_000, 5)
    many = peak_mb(tmp_path / "many", 20_000, 20)
    assert many < few + 100, f"{few:.0f} MB for 5,000 rows, {many:.0f} MB for 20,000"
