"""The page over 10,000 partitions and 1,000,000 rows: seconds to each page, memory. `PARTITIONS` sets how many."""

import datetime as dt
import hashlib
import http.cookiejar
import io
import os
import subprocess
import sys
import tempfile
import time
import urllib.request
from pathlib import Path

import psutil
import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.sinks import catalogue
from pipeline.sinks.schema import Dataset, claim, declare_schema
from pipeline.stores import Store, open_store
from schemas import ids
from schemas.manifest import Counts, DataFile, Manifest

_NOW = dt.datetime(2026, 11, 1, tzinfo=dt.UTC)
_ROWS = 100  # of a partition
_PAGES = {
    "datasets": "",
    "partitions": "d/bench/partitions",
    "partitions by rejects": "d/bench/partitions?show=rejects",
    "rows": "d/bench/rows",
    "their 9,000th page": "d/bench/rows?page=9000",
    "a partition sorted": "d/bench/rows?partition=day=2010-01-01&sort=summary",
}


def publish(store: Store, partitions: int) -> None:
    """Days with rows of their own and commits, as a run would have left them."""
    schema = pa.schema([("id", pa.string()), ("text", pa.string()), ("summary", pa.string()), ("urgency", pa.int64())])
    claim(store, Dataset(pipeline="bench"))
    declare_schema(store, schema, pa.schema([("day", pa.date32())]))
    for number in range(partitions):
        key = f"day={dt.date(1999, 1, 1) + dt.timedelta(days=number)}"
        out = io.BytesIO()
        pq.write_table(_table(number, schema), out, compression="zstd")
        data = out.getvalue()
        content = hashlib.sha256(data).hexdigest()
        file = DataFile(
            key=ids.part_file(ids.data_folder(key), 0, 1, content), size=len(data), sha256=content, rows=_ROWS
        )
        rejected = 3 * (number % 97 == 0)
        manifest = Manifest(
            kind="published", pipeline="bench", partition=key, generation=1, parent=None, files=(file,),
            stage_fingerprints={"s": "s"}, input_fingerprint="i", input_columns=("id", "text"), run="bench", nonce=key,
            counts=Counts(rows_in=_ROWS + rejected, ok=_ROWS, rejected=rejected, out=_ROWS), started_at=_NOW,
            committed_at=_NOW,
        )  # fmt: skip
        for path, content_of in ((file.key, data), (ids.commit(key, 1), manifest.model_dump_json().encode())):
            target = Path(store.uri) / path
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(content_of)  # not by the store, which waits for the disk
    catalogue.update(store, _NOW)


def _table(number: int, schema: pa.Schema) -> pa.Table:
    rows = range(_ROWS)
    columns = {
        "id": [f"r{number:05d}-{row}" for row in rows],
        "text": [f"text {number} {row} about a sensor and its battery" for row in rows],
        "summary": [f"summary {row}" for row in rows],
        "urgency": [row % 5 + 1 for row in rows],
    }
    return pa.table(columns, schema=schema)


def main() -> str:
    partitions = int(os.environ.get("PARTITIONS", "10000"))
    with tempfile.TemporaryDirectory() as name:
        publish(open_store(f"{name}/out"), partitions)
        command = [sys.executable, "-m", "pipeline.cli", "ui", "out", "--no-open"]
        server = psutil.Popen(command, cwd=name, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
        try:
            address = server.stdout.readline().strip()
            base = address.split("?")[0]
            opener = urllib.request.build_opener(urllib.request.HTTPCookieProcessor(http.cookiejar.CookieJar()))
            took = []
            for title, path in _PAGES.items():
                began, cpu = time.monotonic(), sum(server.cpu_times()[:2])
                opener.open(f"{base}{path}" if path else address).read()
                spent = sum(server.cpu_times()[:2]) - cpu
                took.append(f"{title} {time.monotonic() - began:.2f} s ({spent:.2f} s CPU)")
            peak = next(line for line in Path(f"/proc/{server.pid}/status").read_text().splitlines() if "VmHWM" in line)
        finally:
            server.terminate()
            server.wait()
    size = f"{partitions:,} partitions, {partitions * _ROWS:,} rows"
    return f"{size}: {'; '.join(took)}; peak {int(peak.split()[1]) // 1024} MB"
