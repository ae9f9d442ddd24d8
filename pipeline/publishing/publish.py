"""From staged batches to a committed generation (design: publishing), in bounded memory, without Temporal.

receipts → counts add up, checks hold → final files (same rows, same bytes, same key) → upload → one conditional put
"""

import contextlib
import datetime as dt
import tempfile
import uuid
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import reduce
from pathlib import Path

import orjson
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.enrichment.staging import load_receipt
from pipeline.journal import usage
from pipeline.note import Note
from pipeline.planning.job import Job
from pipeline.publishing import partition_stages
from pipeline.publishing.checks import OutputChecks, refuse_miscount, too_many_rejects
from pipeline.publishing.merge import Merge, of_any_version, provenance_of
from pipeline.review.questions import PENDING
from pipeline.sinks import commits
from pipeline.sinks.row_files import INDEX, REJECTS
from pipeline.sinks.schema import Dataset, claim, declare_schema, load_dataset, refuse_breaking, schema_fingerprint
from pipeline.sinks.table_formats import follow
from pipeline.stores import Store
from pipeline.stores.parquet import batches_of, table_of
from schemas import digests, ids
from schemas.errors import StoreError
from schemas.manifest import Counts, DataFile, Manifest, Reuse, Shares, shares_added
from schemas.plan import Plan
from schemas.staging import OpenedPartition, Receipt


@dataclass(frozen=True)
class Published:
    """The generation that readers now see. `manifest` None: it was enriched, but may not replace a whole generation."""

    manifest: Manifest | None
    counts: Counts
    reuse: Reuse


def publish(
    job: Job,
    plan: Plan,
    store: Store,
    opened: OpenedPartition,
    receipts: Sequence[str],
    *,
    attempt: int,
    note: Note,
    rehearsal: bool = False,
) -> Published:
    """Commit a partition's batches as the next generation; a `rehearsal` only looks at them. Raises CountsMismatch,
    ChecksFailed, RejectRateExceeded, SchemaChanged, CommitConflict, Cancelled, StoreError."""
    loaded = [load_receipt(store, opened.folder, at, digest) for at, digest in enumerate(receipts)]
    counts = sum((receipt.counts for receipt in loaded), Counts())
    reuse = sum((receipt.reuse for receipt in loaded), Reuse())
    shares: Shares = reduce(shares_added, (receipt.shares for receipt in loaded), {})
    refuse_miscount(opened, loaded, counts)
    if rehearsal:
        return _rehearsed(job, plan, store, opened, loaded, Published(None, counts, reuse), note)
    if (refusal := too_many_rejects(job, opened.partition, counts)) is not None:
        _keep_rejects(store, plan.run, opened.partition, loaded)
        raise refusal
    parent = commits.read_commit(store, opened.partition, opened.base) if opened.base else None
    if not opened.whole and parent is not None and parent.whole:
        return Published(None, counts.model_copy(update={"out": 0}), reuse)
    load_dataset(store, plan.pipeline)
    refuse_breaking(store, job.columns, job.keys, new_version=plan.selection.new_version)
    with tempfile.TemporaryDirectory(prefix="tandem-") as folder:
        merge = Merge(job, plan, store, opened, Path(folder), note)
        passed = partition_stages.through(job, store, opened.folder, loaded, counts, Path(folder))
        counts = passed.counts
        files, warnings = merge.data(passed.data)
        rejects = merge.plain("rejects", REJECTS, [r.rejects for r in loaded if r.rejects is not None])
        pending = merge.plain("pending", PENDING, [r.pending for r in loaded if r.pending is not None])
        index = merge.plain("index", INDEX, [receipt.index for receipt in loaded])
    # Only what passed its checks may bind later publications.
    version = declare_schema(store, job.columns, job.keys, new_version=plan.selection.new_version)
    claim(store, Dataset(pipeline=plan.pipeline, types=job.snapshot.info.types, keys=job.snapshot.info.key_columns))
    if opened.whole:
        counts = counts.model_copy(update={"removed": _removed(store, parent, index)})
    draft = Manifest(
        kind="published" if opened.whole else "partial",
        pipeline=plan.pipeline,
        partition=opened.partition,
        generation=opened.base + 1,
        parent=opened.base or None,
        files=tuple(files),
        rejects=tuple(rejects),
        pending=tuple(pending),
        index=index[0] if index else None,
        schema_fingerprint=schema_fingerprint(job.columns),
        schema_version=version,
        input_fingerprint=opened.input_fingerprint,
        stage_fingerprints=plan.stages,
        stage_aspects=plan.aspects,
        input_columns=tuple(job.snapshot.schema.names),
        content_digest=digests.digest(*(file.sha256 for file in (*files, *rejects)), str(counts.rows_in)),
        counts=counts,
        reuse=reuse,
        shares=shares,
        usage=usage.usage_of_run(store, opened.partition, plan.run),
        provenance=tuple(provenance_of(job)),
        warnings=(*warnings, *dict.fromkeys((*opened.damage, *(said for r in loaded for said in r.damage)))),
        run=plan.run,
        attempt=attempt,
        nonce=uuid.uuid4().hex,
        started_at=opened.started_at,
        committed_at=dt.datetime.now(dt.UTC),
    )
    lake = follow.lake_of(job.spec, job.base, store)
    if lake is not None:
        follow.mark(store, opened.partition)
    committed = commits.commit(store, draft).manifest
    if lake is not None:
        with contextlib.closing(lake):
            follow.follow(lake, store, opened.partition)
    _say_success(store, committed)
    return Published(committed, counts, reuse)


def _rehearsed(
    job: Job,
    plan: Plan,
    store: Store,
    opened: OpenedPartition,
    receipts: Sequence[Receipt],
    published: Published,
    note: Note,
) -> Published:
    """What a sample came to; nothing is published. Raises ChecksFailed. The reject rate is judged over all samples."""
    _keep_rejects(store, plan.run, opened.partition, receipts)
    checks = OutputChecks(job)
    with tempfile.TemporaryDirectory(prefix="tandem-") as folder:
        merge = Merge(job, plan, store, opened, Path(folder), note)
        passed = partition_stages.through(job, store, opened.folder, receipts, published.counts, Path(folder))
        for _ in merge.tables(passed.data, checks):
            pass
    checks.verdict(opened.partition)
    return replace(published, counts=passed.counts.model_copy(update={"out": 0}))


# Before anything is uploaded ---------------------------------------------------------------------------------------


def _keep_rejects(store: Store, run: str, partition: str, receipts: Sequence[Receipt]) -> None:
    """The rejects of a partition that is not published, where `tandem rejects` finds them."""
    tables = [table_of(store.get(receipt.rejects.key)) for receipt in receipts if receipt.rejects is not None]
    sink = pa.BufferOutputStream()
    pq.write_table(of_any_version(REJECTS, *tables), sink, compression="zstd")
    store.put(ids.rejects_of_run(run, partition), sink.getvalue().to_pybytes())


# Final files -------------------------------------------------------------------------------------------------------


# Around the commit -------------------------------------------------------------------------------------------------


def _removed(store: Store, parent: Manifest | None, index: Sequence[DataFile]) -> int:
    """Rows of the parent generation whose identity the input no longer has; of equal rows, each counts."""
    if parent is None or parent.index is None:
        return 0
    before = _hashed_ids(store, parent.index.key)
    now = pl.concat([_hashed_ids(store, file.key) for file in index]) if index else pl.Series("row_id", [], pl.UInt64)
    kept = before.value_counts(name="before").join(now.value_counts(name="now"), on="row_id", how="left")
    gone = kept.select((pl.col("before").cast(pl.Int64) - pl.col("now").cast(pl.Int64).fill_null(0)).clip(0).sum())
    return int(gone.item())


def _hashed_ids(store: Store, key: str) -> pl.Series:
    """Eight bytes of each identity, so that millions of rows cost little memory."""
    try:
        with store.open_input(key) as source, pq.ParquetFile(source) as parquet:
            batches = batches_of(parquet, 65_536, ["row_id"])
            found = [pl.Series("row_id", batch.column("row_id")).hash() for batch in batches]
    except (StoreError, OSError):
        found = []
    return pl.concat([pl.Series("row_id", [], pl.UInt64), *found])


def _say_success(store: Store, manifest: Manifest) -> None:
    """A hint for tools that look for it; the commit is the truth."""
    said = {"generation": manifest.generation, "run": manifest.run, "counts": manifest.counts.model_dump()}
    store.put(ids.success(manifest.partition), orjson.dumps(said))
