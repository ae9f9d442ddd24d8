"""CSV objects of one row each in S3: what planning takes, beside 16 threads that read them. `OBJECTS` sets how many."""

import os
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from tests.bench.pipelines import run, tandem
from tests.harness.servers import SeaweedS3

BUCKET, THREADS = "objects", 16


def main() -> str:
    many = int(os.environ.get("OBJECTS", "10000"))
    with tempfile.TemporaryDirectory() as name, SeaweedS3.start(Path(name) / "s3") as s3:
        s3.bucket(BUCKET)
        client, folder = s3.client(), Path(name)
        keys = [f"in/{number:06d}.csv" for number in range(many)]
        _write(client, folder, keys)
        read_s = min(_read_s(client, keys) for _ in range(2))
        plan = tandem(folder, "plan", "--json", env=s3.env())
        ran = run(folder, "--yes", env=s3.env())
    assert ran.report["rows"]["ok"] == many, ran.report
    return (
        f"{many:,} objects: read by {THREADS} threads in {read_s:.1f} s, planned in {plan.wall_s:.1f} s = "
        f"{plan.wall_s / read_s:.1f} ×, start-up included; run after it in {ran.wall_s:.1f} s "
        f"(load {os.getloadavg()[0]:.0f})"
    )


def _read_s(client: Any, keys: list[str]) -> float:
    began = time.monotonic()
    with ThreadPoolExecutor(THREADS) as threads:
        list(threads.map(lambda key: client.get_object(Bucket=BUCKET, Key=key)["Body"].read(), keys))
    return time.monotonic() - began


def _write(client: Any, folder: Path, keys: list[str]) -> None:
    def put(key: str) -> None:
        client.put_object(Bucket=BUCKET, Key=key, Body=f"id,text\n{key},ticket about an invoice\n".encode())

    with ThreadPoolExecutor(THREADS) as threads:
        list(threads.map(put, keys))
    (folder / "tandem.yaml").write_text(
        f"name: objects\nsource: {{path: 's3://{BUCKET}/in/*.csv', key: [id]}}\npartition: {{by: rows, rows: 20000}}\n"
        "stages:\n  - {name: s, uses: extract, model: 'offline:lexical', prompt: '{{ text }}', output: {word: str}}\n"
        "sink: {path: out}\n"
    )
