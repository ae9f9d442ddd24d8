"""Rejected rows: of what is published, and of partitions whose last attempt was not; and asking again for them."""

import asyncio
import time
import uuid
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace

import orjson
import polars as pl

from pipeline.outputs import scan
from pipeline.runs import outcomes
from pipeline.runs.requests import load_request
from pipeline.sinks.row_files import read_rejects
from pipeline.stores import Store
from schemas import ids
from schemas.errors import RejectRateExceeded, by_code
from stages.journal.records import VoidRecord
from stages.journal.segments import encode_segment


@dataclass(frozen=True)
class Rejects:
    """The rejects of one partition. `generation` is None for an attempt that was not published."""

    partition: str
    generation: int | None
    rows: pl.DataFrame


def all_rejects(store: Store, partition: str | None = None) -> Iterator[Rejects]:
    """Per partition: those of its last attempt where that was not published, else those of its current generation."""
    unpublished = _unpublished(store)
    for key, run in sorted(unpublished.items()):
        if partition in (None, key):
            yield Rejects(key, None, read_rejects(store, ids.rejects_of_run(run, key)))
    for manifest in scan.manifests(store, partition):
        if manifest.partition not in unpublished and manifest.rejects:
            rows = pl.concat([read_rejects(store, file.key) for file in manifest.rejects], how="diagonal")
            yield Rejects(manifest.partition, manifest.generation, rows)


def _unpublished(store: Store) -> dict[str, str]:
    """Partition → the run whose rejects kept it from being published, where nothing was published since."""
    found: dict[str, str] = {}
    requests = [load_request(store, name) for name in store.folders(ids.RUNS)]
    for request in sorted((r for r in requests if r is not None), key=lambda r: r.created_at):
        for result in outcomes.outcomes(store, request.run):
            kept = result.outcome in ("not_run", "failed") and result.counts.rejected
            if kept or by_code(result.error) is RejectRateExceeded:
                found[result.partition] = request.run
            elif result.outcome == "published":
                found.pop(result.partition, None)
    return found


def classes(rejects: Rejects) -> list[dict[str, object]]:
    """Stage and class of error, how many, and the first message."""
    grouped = rejects.rows.group_by("stage", "error", maintain_order=True).agg(
        pl.len().alias("rows"), pl.col("message").first(), pl.col("key").first()
    )
    return [{"partition": rejects.partition, **row} for row in grouped.sort("rows", descending=True).to_dicts()]


def to_ask_again(found: Iterable[Rejects], error: str | None = None) -> list[Rejects]:
    """Those (of one class) that a model's answer, or that there was none, is the cause of: the others would be rejected
    for the same thing again."""
    wanted = pl.col("row_fingerprint") != ""
    if error is not None:
        wanted &= pl.col("error") == error
    chosen = [replace(rejects, rows=rejects.rows.filter(wanted)) for rejects in found if rejects.rows.height]
    return [rejects for rejects in chosen if rejects.rows.height]


def void(store: Store, rejects: Rejects) -> int:
    """Void what caused these rejects: outcomes of rows and the last call of each, not the calls before it, which did
    their part; of an answer that a later stage rejected, all. Returns the number of rows that will be asked again."""
    records = []
    for row in rejects.rows.iter_rows(named=True):
        calls = orjson.loads(row["calls"] or "[]")
        answered = bool(row.get("answered"))  # not in what earlier versions wrote
        records.append(
            VoidRecord(
                stage=row["stage_fingerprint"],
                row=row["row_fingerprint"],
                id=row["row_id"],
                calls=tuple((request, ordinal) for request, ordinal in (calls if answered else calls[-1:])),
                run="rejects-retry",
                at=time.time(),
                answer=answered,
            )
        )
    key = ids.journal_segment(rejects.partition, "rejects-retry", 0, uuid.uuid4().hex)
    store.put_absent(key, encode_segment(records))
    return len({(record.stage, record.row) for record in records})


async def void_all(store: Store, chosen: list[Rejects]) -> int:
    """The same for several partitions, in a thread."""
    return await asyncio.to_thread(lambda: sum(void(store, rejects) for rejects in chosen))
