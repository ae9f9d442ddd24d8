"""Publish: from staged batches to a committed generation, in bounded memory, without Temporal.

receipts → counts add up, checks hold → final files (same rows, same bytes, same key) → upload → one conditional put
"""

import datetime as dt
import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from functools import reduce

import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.enrichment.attempt import PartitionRun
from pipeline.enrichment.staging import StagingFolder
from pipeline.journal import usage
from pipeline.planning import unique_keys
from pipeline.publishing import commit_partition, partition_stages
from pipeline.publishing.checks import OutputChecks, refuse_miscount, too_many_rejects
from pipeline.publishing.merge import LocalFile, Merge, of_any_version, provenance_of
from pipeline.review.questions import PENDING
from pipeline.sinks import commits
from pipeline.sinks.identity_numbers import IdentityNumbers
from pipeline.sinks.row_files import INDEX, REJECTS, index_numbers
from pipeline.sinks.schema import Dataset, claim, declare_schema, load_dataset, refuse_breaking, schema_fingerprint
from pipeline.stores import Store
from pipeline.stores.parquet import table_of
from pipeline.stores.scratch_folder import ScratchFolder
from schemas import digests, ids
from schemas.errors import ChecksFailed
from schemas.manifest import Answerers, Counts, DataFile, Manifest, Reuse, Shares, answerers_added, shares_added
from schemas.staging import OpenedPartition, Receipt, Refusal


@dataclass(frozen=True)
class Published:
    """The generation that readers now see. `manifest` None: the partition may not replace a whole generation."""

    manifest: Manifest | None
    counts: Counts
    reuse: Reuse


@dataclass(frozen=True)
class _Batches:
    """The results of a partition's batches, and their folder."""

    staging: StagingFolder
    receipts: list[Receipt]
    counts: Counts
    reuse: Reuse
    shares: Shares
    answered_by: Answerers

    @classmethod
    def of(cls, staging: StagingFolder, opened: OpenedPartition, receipts: Sequence[str]) -> "_Batches":
        loaded = [staging.receipt(number, digest) for number, digest in enumerate(receipts)]
        filtered = opened.rows_filtered
        counts = sum((receipt.counts for receipt in loaded), Counts(rows_in=filtered, filtered=filtered))
        reuse = sum((receipt.reuse for receipt in loaded), Reuse())
        shares: Shares = reduce(shares_added, (receipt.shares for receipt in loaded), {})
        answered_by: Answerers = reduce(answerers_added, (receipt.answered_by for receipt in loaded), {})
        return cls(staging, loaded, counts, reuse, shares, answered_by)

    def refusal(self, counts: Counts) -> Refusal:
        return Refusal(counts=counts.model_copy(update={"out": 0}), reuse=self.reuse, shares=self.shares)


@dataclass(frozen=True)
class _FinalFiles:
    data: list[LocalFile]
    rejects: list[LocalFile]
    pending: list[DataFile]
    index: list[DataFile]
    counts: Counts

    @property
    def seen(self) -> list[LocalFile]:
        """The files that readers by glob find, uploaded last; data and rejects, in this order."""
        return [*self.data, *self.rejects]


def publish(
    work: PartitionRun, opened: OpenedPartition, receipts: Sequence[str], *, attempt: int, rehearsal: bool = False
) -> Published:
    """Commit a partition's batches as the next generation; a `rehearsal` only looks at them. Raises CountsMismatch,
    ChecksFailed, RejectRateExceeded, SchemaChanged, CommitConflict, Cancelled, StoreError."""
    job, plan, store = work.job, work.plan, work.store
    batches = _Batches.of(StagingFolder(store, opened.folder), opened, receipts)
    counts = batches.counts
    refuse_miscount(opened, batches.receipts, counts)
    if rehearsal:
        return _rehearse(work, opened, batches)
    checks = OutputChecks(job, opened.partition)
    if (refusal := too_many_rejects(job, opened.partition, counts)) is not None:
        _keep_refused(work, opened, batches, batches.refusal(counts))
        raise refusal
    parent = commits.read_commit(store, opened.partition, opened.base) if opened.base else None
    if not opened.whole and parent is not None and parent.whole:
        return Published(None, counts.model_copy(update={"out": 0}), batches.reuse)
    load_dataset(store, plan.pipeline)
    refuse_breaking(store, job.columns, job.keys, new_version=plan.selection.new_version)
    with ScratchFolder() as folder:
        return _published(work, opened, batches, checks, Merge(work, opened.base, folder), attempt)


def _published(
    work: PartitionRun, opened: OpenedPartition, batches: _Batches, checks: OutputChecks, merge: Merge, attempt: int
) -> Published:
    """Merge, upload and commit, in the merge's folder."""
    job, plan, store = work.job, work.plan, work.store
    parent = commits.read_commit(store, opened.partition, opened.base) if opened.base else None
    files = _final_files(work, opened, batches, checks, merge)
    # Only output that passed its checks may bind later publications.
    allowed = plan.selection.new_version
    version = declare_schema(store, job.columns, job.keys, new_version=allowed)
    dataset = Dataset(pipeline=plan.pipeline, types=job.snapshot.info.types, keys=job.snapshot.info.key_columns)
    claim(store, dataset, new_types=allowed)
    counts = files.counts
    if opened.whole:
        counts = counts.model_copy(update={"removed": _removed(store, parent, files.index, merge.folder)})
    shared = unique_keys.broken(job, store, plan, opened.partition)
    draft = Manifest(
        kind="published" if opened.whole else "partial",
        pipeline=plan.pipeline,
        partition=opened.partition,
        generation=opened.base + 1,
        parent=opened.base or None,
        files=tuple(local.file for local in files.data),
        rejects=tuple(local.file for local in files.rejects),
        pending=tuple(files.pending),
        index=files.index[0] if files.index else None,
        schema_fingerprint=schema_fingerprint(job.columns),
        schema_version=version,
        input_fingerprint=opened.input_fingerprint,
        stage_fingerprints=plan.stages,
        stage_aspects=plan.aspects,
        input_columns=tuple(job.snapshot.schema.names),
        content_digest=digests.digest(*(local.file.sha256 for local in files.seen), str(counts.rows_in)),
        counts=counts,
        reuse=batches.reuse,
        shares=batches.shares,
        answered_by=batches.answered_by,
        usage=usage.usage_of_run(store, opened.partition, plan.run),
        provenance=tuple(provenance_of(job)),
        checks=(*checks.broken(), *shared),
        warnings=(
            *map(checks.sentence, checks.broken()),
            *map(unique_keys.sentence, shared),
            *_damage(opened, batches),
        ),
        run=plan.run,
        attempt=attempt,
        nonce=uuid.uuid4().hex,
        started_at=opened.started_at,
        committed_at=dt.datetime.now(dt.UTC),
    )
    committed = commit_partition.commit(job.spec, job.base, store, draft, lambda: merge.upload(files.seen))
    return Published(committed, counts, batches.reuse)


def _final_files(
    work: PartitionRun, opened: OpenedPartition, batches: _Batches, checks: OutputChecks, merge: Merge
) -> _FinalFiles:
    """Merge, and upload files hidden from glob readers. Raises ChecksFailed before that, PartitionError, StoreError."""
    receipts = batches.receipts
    result = partition_stages.run_stages(work.job, batches.staging, receipts, batches.counts, merge.folder)
    try:
        data = merge.data(result.data, checks)
    except ChecksFailed as exc:
        refused = batches.refusal(result.counts).model_copy(update={"checks": exc.checks})
        _keep_refused(work, opened, batches, refused)
        raise
    rejects = merge.plain("rejects", REJECTS, [r.rejects for r in receipts if r.rejects is not None])
    pending = merge.plain("pending", PENDING, [r.pending for r in receipts if r.pending is not None])
    index = merge.plain("index", INDEX, [*(receipt.index for receipt in receipts), *opened.filtered])
    return _FinalFiles(data, rejects, merge.upload(pending), merge.upload(index), result.counts)


def _damage(opened: OpenedPartition, batches: _Batches) -> list[str]:
    """Return the damaged parts of the journal, each once."""
    found = (*opened.damage, *(line for receipt in batches.receipts for line in receipt.damage))
    return list(dict.fromkeys(found))


def _rehearse(work: PartitionRun, opened: OpenedPartition, batches: _Batches) -> Published:
    """Check a sample, publish nothing. Raises ChecksFailed. The reject rate is checked over all samples."""
    _keep_rejects(work, batches)
    checks = OutputChecks(work.job, work.partition)
    with ScratchFolder() as folder:
        merge = Merge(work, opened.base, folder)
        result = partition_stages.run_stages(work.job, batches.staging, batches.receipts, batches.counts, folder)
        for _ in merge.tables(result.data, checks):
            pass
    counts = result.counts.model_copy(update={"out": 0})
    try:
        checks.verdict()
    except ChecksFailed as exc:
        _keep(work.store, opened, Refusal(counts=counts, reuse=batches.reuse, checks=exc.checks))
        raise
    return Published(None, counts, batches.reuse)


# Before anything is uploaded ---------------------------------------------------------------------------------------


def _keep_refused(work: PartitionRun, opened: OpenedPartition, batches: _Batches, refusal: Refusal) -> None:
    """Store the counts and the rejected rows of a partition that is not published."""
    if refusal.counts.rejected:
        _keep_rejects(work, batches)
    _keep(work.store, opened, refusal)


def _keep(store: Store, opened: OpenedPartition, refusal: Refusal) -> None:
    store.put(ids.refusal(opened.folder), refusal.model_dump_json().encode())


def _keep_rejects(work: PartitionRun, batches: _Batches) -> None:
    """Store the rejects of a partition that is not published, where `tandem rejects` finds them."""
    staged = [receipt.rejects for receipt in batches.receipts if receipt.rejects is not None]
    tables = [table_of(work.store.get(file.key)) for file in staged]
    sink = pa.BufferOutputStream()
    pq.write_table(of_any_version(REJECTS, *tables), sink, compression="zstd")
    work.store.put(ids.rejects_of_run(work.plan.run, work.partition), sink.getvalue().to_pybytes())


# Around the commit -------------------------------------------------------------------------------------------------


def _removed(store: Store, parent: Manifest | None, index: Sequence[DataFile], folder: ScratchFolder) -> int:
    """Count rows of the parent generation whose identity the input no longer has; each of equal rows counts."""
    if parent is None or parent.index is None:
        return 0
    if [file.sha256 for file in index] == [parent.index.sha256]:  # the same rows
        return 0
    before = IdentityNumbers.of(folder / "before", index_numbers(store, parent.index.key))
    now = IdentityNumbers.of(folder / "now", (some for file in index for some in index_numbers(store, file.key)))
    return before.missing_from(now)
