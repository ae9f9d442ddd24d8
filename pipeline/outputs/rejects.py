"""Rejected rows of published partitions, and of unpublished last attempts; voiding them for a retry."""

import asyncio
import time
import uuid
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace

import orjson
import polars as pl

from pipeline.outputs import scan
from pipeline.runs.requests import load_request
from pipeline.sinks import outcomes
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
    """Yield the rejects of each partition: of its last attempt if unpublished, else of its current generation."""
    unpublished = _unpublished(store)
    for key, run in sorted(unpublished.items()):
        if partition in (None, key):
            yield Rejects(key, None, read_rejects(store, ids.rejects_of_run(run, key)))
    for manifest in scan.manifests(store, partition):
        if manifest.partition not in unpublished and manifest.rejects:
            rows = pl.concat([read_rejects(store, file.key) for file in manifest.rejects], how="diagonal")
            yield Rejects(manifest.partition, manifest.generation, rows)


def _unpublished(store: Store) -> dict[str, str]:
    """Return partition → the run whose rejects prevented its publication, if nothing was published since."""
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
    """Return stage, class of error, number of rows and first message."""
    grouped = rejects.rows.group_by("stage", "error", maintain_order=True).agg(
        pl.len().alias("rows"), pl.col("message").first(), pl.col("key").first()
    )
    return [{"partition": rejects.partition, **row} for row in grouped.sort("rows", descending=True).to_dicts()]


def retryable(found: Iterable[Rejects], error: str | None = None) -> list[Rejects]:
    """Return the rejects (of one class) caused by a model's answer, or by a missing one: the others would be rejected
    for the same reason again."""
    condition = pl.col("row_fingerprint") != ""
    if error is not None:
        condition &= pl.col("error") == error
    chosen = [replace(rejects, rows=rejects.rows.filter(condition)) for rejects in found if rejects.rows.height]
    return [rejects for rejects in chosen if rejects.rows.height]


def void(store: Store, rejects: Rejects) -> int:
    """Void the records that caused these rejects: outcomes of rows and the last call of each, not the calls before it,
    which succeeded; for an answer that a later stage rejected, all calls. Returns the number of rows to call again."""
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
    """Void the rejects of several partitions, in a thread."""
    return await asyncio.to_thread(lambda: sum(void(store, rejects) for rejects in chosen))
