"""`plan` and `partitions list` over 100,000 published partitions, with the catalogue and without. `PARTITIONS` sets how
many."""

import datetime as dt
import os
import tempfile
from pathlib import Path

import polars as pl

from pipeline.client.preflight import preflight
from pipeline.client.spec_file import read_spec
from pipeline.planning.job import Job
from pipeline.sinks import catalogue
from pipeline.stores import Store
from schemas import ids
from schemas.manifest import Counts, DataFile, Manifest
from tests.bench.pipelines import Ran, tandem

NOW = dt.datetime(2026, 11, 1, tzinfo=dt.UTC)


def publish(job: Job, store: Store) -> None:
    """Commits of every partition, as a run would have left them."""
    shapes, aspects, columns = job.shapes, job.aspects, tuple(job.snapshot.schema.names)
    for row in job.snapshot.entries.select("partition", "rows", "fingerprint").iter_rows(named=True):
        key, rows = row["partition"], row["rows"]
        file = DataFile(key=ids.part_file(ids.data_folder(key), 0, 1, "0" * 64), size=1_000, sha256="0" * 64, rows=rows)
        manifest = Manifest(
            kind="published", pipeline="bench", partition=key, generation=1, parent=None, files=(file,),
            index=file, input_fingerprint=row["fingerprint"], stage_fingerprints=shapes, stage_aspects=aspects,
            input_columns=columns, counts=Counts(rows_in=rows, ok=rows, out=rows), run="bench", nonce=key,
            started_at=NOW, committed_at=NOW,
        )  # fmt: skip
        path = Path(store.uri) / ids.commit(key, 1)
        path.parent.mkdir(parents=True)
        path.write_bytes(manifest.model_dump_json().encode())


def main() -> str:
    many = int(os.environ.get("PARTITIONS", "100000"))
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        pl.DataFrame(
            {"part": [f"p{n:06d}" for n in range(many)], "text": [f"text {n}" for n in range(many)]}
        ).write_parquet(folder / "t.parquet")
        folder.joinpath("tandem.yaml").write_text(
            "name: bench\nsource: {path: t.parquet}\npartition: {by: column, column: part}\nstages:\n"
            "  - {name: s, uses: extract, model: 'offline:lexical', prompt: '{{ text }}', output: {summary: str}}\n"
            "sink: {path: out}\n"
        )
        ready = preflight(*read_spec(folder / "tandem.yaml"))
        publish(ready.job, ready.store)
        rebuilt = tandem(folder, "partitions", "list", "--json")
        catalogue.update(ready.store, NOW)
        plan = tandem(folder, "plan", "--json")
        listed = tandem(folder, "partitions", "list", "--json")
    assert {line["decision"] for line in plan.report["partitions"]} == {"skip"}, plan.report["partitions"][:3]
    assert len(plan.report["partitions"]) == len(listed.report) == len(rebuilt.report) == many
    said = {"plan": plan, "partitions list": listed, "without a catalogue": rebuilt}
    return f"{many:,} partitions: " + "; ".join(f"{what} {_said(ran)}" for what, ran in said.items())


def _said(ran: Ran) -> str:
    return f"{ran.wall_s:.1f} s ({ran.cpu_s:.1f} s CPU), {ran.peak_mb:.0f} MB"
