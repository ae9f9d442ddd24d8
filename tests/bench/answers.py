"""The index of a dataset's answers: its size, a plan of rows of which some have moved, a first run of unknown rows.

The journals are written as runs would have left them, without running a model: 100 partitions of 10,000 rows. Then
a `tandem run` of rows that nobody has asked, beside that index and without it.
"""

import random
import resource
import shutil
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.client.preflight import preflight
from pipeline.client.spec_file import read_spec
from pipeline.estimates.call_count import count_calls
from pipeline.estimates.preview import decide
from pipeline.journal.compacted import Footer
from pipeline.journal.record_frames import COMPACTED, of_records
from pipeline.planning.job import Job, Ready
from pipeline.planning.known_answers import index_answers
from pipeline.process_state import STATE
from schemas import ids
from schemas.plan import Selection
from stages.contract import graph_stages
from stages.journal.fingerprints import fingerprints, row_ids
from stages.journal.records import CallRecord, RowRecord
from tests.bench.pipelines import run

PARTITIONS, ROWS, MOVED = 100, 10_000, 0.01
ASKED = 2


def main(partitions: int = PARTITIONS, rows: int = ROWS) -> str:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        _write(folder, partitions, rows, shift=0)
        ready = _ready(folder)
        _journals(ready)
        began = time.process_time()
        index_answers(ready.job, ready.store)
        built = time.process_time() - began
        size = sum(info.size for info in ready.store.list(ids.ANSWERS)) / (partitions * rows)
        unchanged, none = _planned(folder)
        _write(folder, partitions, rows, shift=int(rows * MOVED))
        moved, still = _planned(folder)
        _write(folder, partitions, rows, shift=0, first=partitions * rows)
        unknown, every = _planned(folder)
        _write(folder, ASKED, rows, shift=0, first=partitions * rows)
        beside = run(folder, "-y")
        planner = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        _empty_sink(folder)
        alone = run(folder, "-y")
        _empty_sink(folder)
        _write(folder, partitions, rows, shift=0, first=partitions * rows)
        without, _ = _planned(folder)
    assert (none, still, every) == (0, 0, partitions * rows)
    return (
        f"{partitions * rows:,} rows in {partitions} partitions, seconds of CPU: index built in {built:.1f} s, "
        f"{size:.1f} bytes an answer; planned unchanged in {unchanged:.1f} s, with {MOVED:.0%} moved in {moved:.1f} s "
        f"({moved / unchanged:.2f} ×), of unknown rows in {unknown:.1f} s, without any journal {without:.1f} s "
        f"({unknown / without:.2f} ×); a run of {ASKED * rows:,} unknown rows beside the index took {beside.cpu_s:.1f} "
        f"s of CPU and {beside.peak_mb:.0f} MB, without any {alone.cpu_s:.1f} s and {alone.peak_mb:.0f} MB; the plans "
        f"held up to {planner / 1024:.0f} MB"
    )


def _write(folder: Path, partitions: int, rows: int, *, shift: int, first: int = 0) -> None:
    """Write the source; `shift`: so many rows of each partition are those of the one before; `first`: the
    number of the first row."""
    total = partitions * rows
    numbers = pl.DataFrame({"id": pl.int_range(total, eager=True)})
    moved = (pl.col("id") + shift) % total if shift else pl.col("id")
    numbers.select(
        pl.col("id") + first, text=pl.format("ticket number {} about an invoice", pl.col("id") + first),
        day=pl.format("{}{}", pl.lit("n" if first else "d"), (moved // rows).cast(pl.String).str.zfill(4)),
    ).sort("day", "id").write_parquet(folder / "t.parquet", row_group_size=rows)  # fmt: skip
    (folder / "tandem.yaml").write_text(
        "name: bench\nsource: {path: t.parquet, key: [id]}\npartition: {by: column, column: day}\n"
        "stages:\n  - {name: s, uses: extract, model: 'offline:lexical', prompt: '{{ text }}', output: {word: str}}\n"
        "sink: {path: out}\n"
    )


def _ready(folder: Path) -> Ready:
    return preflight(*read_spec(folder / "tandem.yaml"))


def _planned(folder: Path) -> tuple[float, int]:
    """Return the seconds of CPU of a plan, without the reading of the source's listing, and its calls."""
    ready = _ready(folder)
    decided = decide(ready, Selection()).decisions
    began = time.process_time()
    calls = count_calls(ready.job, ready.store, decided).calls
    assert calls[0] == calls[1]
    return time.process_time() - began, calls[0]


def _empty_sink(folder: Path) -> None:
    shutil.rmtree(folder / "out")
    STATE.forget()


def _journals(ready: Ready) -> None:
    for partition in ready.job.snapshot.partitions:
        frame = of_records(_records(ready.job, partition))
        with tempfile.NamedTemporaryFile(suffix=".parquet") as local:
            metadata = Footer((), ("run-1",), ()).metadata()
            with pq.ParquetWriter(local.name, COMPACTED.with_metadata(metadata), compression="zstd") as writer:
                table: pa.Table = frame.to_arrow().cast(COMPACTED).replace_schema_metadata(metadata)
                writer.write_table(table, row_group_size=4_000)
            ready.store.upload(ids.journal_compact(partition, "0" * 64), Path(local.name))


def _records(job: Job, partition: str) -> Iterator[RowRecord | CallRecord]:
    """Yield the records of a partition's rows, as a run leaves them: an answer and its call for each."""
    chance = random.Random(partition)
    rows = job.snapshot.read(partition, job.snapshot.entry(partition).ranges)
    (stage,) = graph_stages(job.stages)
    for row, id in zip(fingerprints(rows, stage.reads), row_ids(rows, ["id"]), strict=True):
        request = f"{chance.getrandbits(128):032x}"
        yield CallRecord(
            request, 0, id, "offline:lexical", '{"content":"invoice"}', None, {"input": 9, "output": 3}, 0.0, None, 1,
            "run-1", 0, 1.0, f"{chance.getrandbits(128):032x}",
        )  # fmt: skip
        yield RowRecord(stage.fingerprint, row, id, "ok", '{"word":"invoice"}', None, ((request, 0),), "run-1", 2.0)
