"""Rejected rows: of what is published, and of partitions whose last attempt was not; and asking again for them."""

import asyncio
import time
import uuid
from collections.abc import Iterator
from dataclasses import dataclass

import orjson
import polars as pl

from pipeline import consume, plans, reports
from pipeline.parquet import table_of
from pipeline.stores import Store
from schemas import ids
from schemas.errors import ObjectMissing
from stages.journal import VoidRecord, encode_segment

_COLUMNS = ("row_id", "key", "stage", "error", "attempts", "message", "raw_answer")


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
    for manifest in consume.manifests(store, partition):
        if manifest.partition not in unpublished and manifest.rejects:
            rows = pl.concat([read_rejects(store, file.key) for file in manifest.rejects], how="diagonal")
            yield Rejects(manifest.partition, manifest.generation, rows)


def _unpublished(store: Store) -> dict[str, str]:
    """Partition → the run whose rejects kept it from being published, where nothing was published since."""
    found: dict[str, str] = {}
    requests = [plans.load_request(store, name) for name in store.folders(ids.RUNS)]
    for request in sorted((r for r in requests if r is not None), key=lambda r: r.created_at):
        for result in reports.outcomes(store, request.run):
            canary = result.outcome == "not_run" and result.counts.rejected
            if canary or result.error == "RejectRateExceeded":
                found[result.partition] = request.run
            elif result.outcome == "published":
                found.pop(result.partition, None)
    return found


def read_rejects(store: Store, key: str) -> pl.DataFrame:
    """The rejects of one object; none where it is gone."""
    try:
        with store.open_input(key) as source:
            return pl.DataFrame(table_of(source))
    except ObjectMissing:
        return pl.DataFrame(schema=dict.fromkeys(_COLUMNS, pl.String))


def classes(rejects: Rejects) -> list[dict[str, object]]:
    """Stage and class of error, how many, and the first message."""
    grouped = rejects.rows.group_by("stage", "error", maintain_order=True).agg(
        pl.len().alias("rows"), pl.col("message").first(), pl.col("key").first()
    )
    return [{"partition": rejects.partition, **row} for row in grouped.sort("rows", descending=True).to_dicts()]


def void(store: Store, rejects: Rejects) -> int:
    """Void what caused these rejects: outcomes of rows, and the calls that they name. Returns the number of rows that
    will be asked for again; what no model said is not."""
    records = []
    for row in rejects.rows.filter(pl.col("row_fingerprint") != "").iter_rows(named=True):
        records.append(
            VoidRecord(
                stage=row["stage_fingerprint"],
                row=row["row_fingerprint"],
                id=row["row_id"],
                calls=tuple((request, ordinal) for request, ordinal in orjson.loads(row["calls"] or "[]")),
                run="rejects-retry",
                at=time.time(),
                answer=bool(row.get("answered")),  # not in what earlier versions wrote
            )
        )
    if records:
        key = ids.journal_segment(rejects.partition, "rejects-retry", 0, uuid.uuid4().hex)
        store.put_absent(key, encode_segment(records))
    return len({(record.stage, record.row) for record in records})


async def void_all(store: Store, chosen: list[Rejects]) -> int:
    """The same for several partitions, in a thread."""
    return await asyncio.to_thread(lambda: sum(void(store, rejects) for rejects in chosen))
