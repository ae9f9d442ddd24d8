"""How tests of sources make a snapshot, and read it."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipeline.sources.snapshot import Snapshot
from pipeline.sources.split import snapshot_of
from pipeline.stores import open_store
from schemas.errors import SourceError
from schemas.spec.loading import spec_from_mapping
from schemas.spec.sections import Spec
from schemas.staging import RowRange

STAGES = [{"name": "s", "uses": "extract", "model": "offline:lexical", "prompt": "x", "output": {"o": "str"}}]
SELECTING = [{"name": "few", "uses": "sql", "query": "SELECT * FROM rows"}]


def spec_of(path: str, partition: dict[str, Any] | None = None, **source: Any) -> Spec:
    data = {"name": "p", "source": {"path": path, **source}, "stages": STAGES, "sink": {"path": "out"}}
    return spec_from_mapping({**data, "partition": partition or {"by": "files"}}, base=Path())


def snap(
    base: Path,
    path: str,
    partition: dict[str, Any] | None = None,
    *,
    pinned: dict[str, str] | None = None,
    **source: Any,
) -> Snapshot:
    store = open_store(str(base / "_out"))
    return snapshot_of(spec_of(path, partition, **source), base, store, pinned=pinned or {})


def frames(found: Snapshot, batch: int = 1_000_000) -> dict[str, pl.DataFrame]:
    """Each partition as its batches of `batch` rows would read it."""
    out = {}
    for key in found.partitions:
        entry = found.entry(key)
        parts = [found.read(key, some) for some in batches(entry.ranges, batch)] or [found.read(key, [])]
        out[key] = pl.concat(parts)
        assert out[key].height == entry.rows
    return out


def batches(ranges: Sequence[RowRange], size: int) -> list[list[RowRange]]:
    return [
        [RowRange(file=r.file, start=r.start + at, rows=min(size, r.rows - at))]
        for r in ranges
        for at in range(0, r.rows, size)
    ]


def rows(found: Snapshot) -> list[dict[str, Any]]:
    return [row for frame in frames(found).values() for row in frame.to_dicts()]


def csv_rows(base: Path, data: bytes | str, name: str = "in.csv", **source: Any) -> list[dict[str, Any]]:
    (base / name).write_bytes(data if isinstance(data, bytes) else data.encode())
    return rows(snap(base, name, **source))


def refusal(base: Path, data: bytes | str, name: str = "in.csv", partition: Any = None, **source: Any) -> str:
    (base / name).write_bytes(data if isinstance(data, bytes) else data.encode())
    with pytest.raises(SourceError) as caught:
        snap(base, name, partition, **source)
    return str(caught.value)


def write(path: Path, table: Any, **options: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(table if isinstance(table, pa.Table) else pa.table(table), path, **options)


def save(frame: pl.DataFrame, path: Path, kind: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    if kind == "csv":
        frame.write_csv(path)
    elif kind == "ndjson":
        path.write_text("".join(json.dumps(row, default=str) + "\n" for row in frame.to_dicts()))
    else:
        frame.write_parquet(path, row_group_size=7)
