"""Publishing staged batches of one partition, against a plain rewrite of the same files by pyarrow.

`ROWS` sets the size; 5,000,000 are about 2 GB of values. Each is done by a process of its own, whose peak counts.
"""

import hashlib
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.enrichment.staging import StagingFolder
from pipeline.sinks.row_files import INDEX
from pipeline.stores import LocalStore
from schemas import ids
from schemas.manifest import Counts, Reuse
from schemas.staging import OpenedPartition, PlannedBatch, Receipt
from tests.pipeline.jobs import Bench

BATCH = 10_000
FOLDER = ids.staging_folder("file=rows.parquet", "bench")
_WORDS = np.array(["order", "invoice", "late", "broken", "refund", "parcel", "thanks", "please", "arrived", "box"])


def bench_of(folder: Path) -> Bench:
    return Bench(folder, LocalStore(folder / "out"))


def batch(number: int, schema: pa.Schema) -> pa.Table:
    """Rows of about 400 bytes, text mostly."""
    chosen = np.random.default_rng(number)
    texts = [" ".join(words) for words in _WORDS[chosen.integers(0, len(_WORDS), (BATCH, 60))]]
    numbers = np.arange(number * BATCH, (number + 1) * BATCH)
    columns = {
        "id": pa.array(numbers),
        "text": pa.array(texts),
        "summary": pa.array([text[:40] for text in texts]),
        "level": pa.array(chosen.integers(1, 6, BATCH)),
    }
    return pa.table([columns[name] for name in schema.names], schema=schema)


def stage(folder: Path, rows: int) -> int:
    """The staged files of a partition, as its batches would have left them. Returns the bytes of all values."""
    bench = bench_of(folder)
    bench.write(pl.DataFrame({"id": [0], "text": ["x"]}))
    schema = bench.job().columns
    staging = StagingFolder(bench.store, FOLDER)
    receipts, size = [], 0
    for number in range(rows // BATCH):
        table = batch(number, schema)
        size += table.nbytes
        names = [hashlib.md5(b"%d" % n).hexdigest() for n in range(number * BATCH, (number + 1) * BATCH)]
        index = pa.table([pa.array(names), pa.array(names)], schema=INDEX)
        receipt = Receipt(
            batch=number,
            data=staging.write_table(number, "data", table),
            index=staging.write_table(number, "index", index),
            rejects=None,
            counts=Counts(rows_in=BATCH, ok=BATCH, out=BATCH),
            reuse=Reuse(),
        )
        receipts.append(staging.write_receipt(receipt))
    (folder / "receipts.json").write_text(json.dumps(receipts))
    return size


def published(folder: Path) -> None:
    bench = bench_of(folder)
    job = bench.job()
    plan = bench.plan(job)
    receipts = json.loads((folder / "receipts.json").read_text())
    given = bench.open(job, plan, "file=rows.parquet")
    assert given is not None
    batches = (PlannedBatch(rows=BATCH, ranges=()),) * len(receipts)
    opened = OpenedPartition.model_validate(
        {**given.model_dump(), "rows": BATCH * len(receipts), "batches": batches, "folder": FOLDER}
    )
    done = bench.publish(job, plan, opened, receipts)
    assert done.manifest is not None
    assert sum(file.rows for file in done.manifest.files) == opened.rows


def rewritten(folder: Path) -> None:
    files = sorted((folder / "out" / FOLDER).glob("b*-data-*.parquet"))
    with pq.ParquetWriter(folder / "plain.parquet", pq.read_schema(files[0]), compression="zstd") as writer:
        for file in files:
            writer.write_table(pq.read_table(file))


def measured(what: str, folder: Path) -> tuple[float, float]:
    """Seconds, and peak MB, of a process that does it."""
    done = subprocess.run(
        [sys.executable, "-m", "tests.bench.publish", what, str(folder)], check=True, capture_output=True, text=True
    )
    seconds, peak = json.loads(done.stdout.splitlines()[-1])
    return seconds, peak


def main() -> str:
    rows = int(os.environ.get("ROWS", "500000"))
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        size = stage(folder, rows)
        plain_s, plain_mb = measured("rewritten", folder)
        own_s, own_mb = measured("published", folder)
    return (
        f"{rows:,} rows, {size / 1e9:.1f} GB of values: published in {own_s:.1f} s with a peak of {own_mb:.0f} MB; "
        f"a plain rewrite took {plain_s:.1f} s with {plain_mb:.0f} MB; {plain_s / own_s:.0%} of its speed"
    )


if __name__ == "__main__":
    work = {"published": published, "rewritten": rewritten}[sys.argv[1]]
    began = time.monotonic()
    work(Path(sys.argv[2]))
    print(json.dumps([time.monotonic() - began, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024]))
