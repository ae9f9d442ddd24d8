"""From staged batches to a committed generation (design: publishing), in bounded memory, without Temporal.

receipts → counts add up, checks hold → final files (same rows, same bytes, same key) → upload → one conditional put
"""

import contextlib
import datetime as dt
import hashlib
import tempfile
import uuid
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import reduce
from pathlib import Path

import orjson
import polars as pl
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from pipeline import barrier, compaction, journals, lakes
from pipeline import commit as commits
from pipeline.compaction import InUse
from pipeline.datasets import Dataset, claim, declare_schema, load_dataset, refuse_breaking, schema_fingerprint
from pipeline.enrich import INDEX, REJECTS, load_receipt, staged_table
from pipeline.parquet import batches_of, table_of
from pipeline.plans import Job
from pipeline.questions import PENDING
from pipeline.settings import expanded
from pipeline.stores import Store
from schemas import digests, ids
from schemas.errors import ChecksFailed, CountsMismatch, RejectRateExceeded, StoreError
from schemas.manifest import Counts, DataFile, Manifest, Provenance, Reuse, Shares, named, shares_added
from schemas.plan import Plan
from schemas.spec.sections import Spec
from schemas.staging import OpenedPartition, Receipt, StagedFile
from stages.contract import GraphStage
from stages.execution import provenance

TARGET_BYTES = 256 * 1024 * 1024
GROUP_ROWS = 250_000
GROUP_BYTES = 64 * 1024 * 1024
Note = Callable[[int], None]


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
    _refuse_miscount(opened, loaded, counts)
    if rehearsal:
        return _rehearsed(job, plan, store, opened, loaded, Published(None, counts, reuse), note)
    if (refusal := _too_many_rejects(job, opened.partition, counts)) is not None:
        _keep_rejects(store, plan.run, opened.partition, loaded)
        raise refusal
    parent = commits.read_commit(store, opened.partition, opened.base) if opened.base else None
    if not opened.whole and parent is not None and parent.whole:
        return Published(None, counts.model_copy(update={"out": 0}), reuse)
    load_dataset(store, plan.pipeline)
    refuse_breaking(store, job.columns, job.keys, new_version=plan.selection.new_version)
    with tempfile.TemporaryDirectory(prefix="tandem-") as folder:
        merge = _Merge(job, plan, store, opened, Path(folder), note)
        passed = barrier.through(job, store, opened.folder, loaded, counts, Path(folder))
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
        usage=journals.usage_of_run(store, opened.partition, plan.run),
        provenance=tuple(_provenance(job)),
        warnings=(*warnings, *dict.fromkeys((*opened.damage, *(said for r in loaded for said in r.damage)))),
        run=plan.run,
        attempt=attempt,
        nonce=uuid.uuid4().hex,
        started_at=opened.started_at,
        committed_at=dt.datetime.now(dt.UTC),
    )
    lake = lakes.lake_of(job.spec, job.base, store)
    if lake is not None:
        lakes.mark(store, opened.partition)
    committed = commits.commit(store, draft).manifest
    if lake is not None:
        with contextlib.closing(lake):
            lakes.follow(lake, store, opened.partition)
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
    checks = _Checks(job)
    with tempfile.TemporaryDirectory(prefix="tandem-") as folder:
        merge = _Merge(job, plan, store, opened, Path(folder), note)
        passed = barrier.through(job, store, opened.folder, receipts, published.counts, Path(folder))
        for _ in merge.tables(passed.data, checks):
            pass
    checks.verdict(opened.partition)
    return replace(published, counts=passed.counts.model_copy(update={"out": 0}))


def after_commit(job: Job, store: Store, manifest: Manifest, now: dt.datetime) -> None:
    """Compact the journal and remove what the commit superseded. Nothing depends on it having happened."""
    in_use = _in_use(job, store, manifest)
    compaction.compact(store, manifest.partition, now, in_use)
    keep = job.spec.sink.keep_superseded
    if _remove_superseded(store, manifest, now - keep):
        store.put(ids.superseded(manifest.partition), orjson.dumps({"keep_s": keep.total_seconds()}))


def _in_use(job: Job, store: Store, manifest: Manifest) -> InUse:
    stages = frozenset(stage.fingerprint for stage in job.stages if isinstance(stage, GraphStage))
    rows = _index_ids(store, manifest.index.key) if manifest.index is not None else pl.Series([], dtype=pl.String)
    return InUse(rows, stages, job.spec.journal.keep)


def catch_up(store: Store, spec: Spec, base: Path) -> None:
    """Bring the table of a sink that has one up to what is committed. Raises StoreError."""
    if next(iter(store.list(ids.LAGGING)), None) is None:
        return
    lake = lakes.lake_of(expanded(spec), base, store)
    if lake is not None:
        with contextlib.closing(lake):
            lakes.catch_up(lake, store)


def sweep_superseded(store: Store, now: dt.datetime) -> None:
    """Remove superseded files that are due, of all partitions: every run does so at its end."""
    for info in list(store.list(ids.SUPERSEDED)):
        partition = info.key.removeprefix(ids.SUPERSEDED).removesuffix(".json")
        marker = orjson.loads(store.get(info.key))
        manifest = commits.current(store, partition)
        before = now - dt.timedelta(seconds=marker["keep_s"])
        if manifest is None or not _remove_superseded(store, manifest, before):
            store.delete([info.key])


# Before anything is uploaded ---------------------------------------------------------------------------------------


def _refuse_miscount(opened: OpenedPartition, receipts: Sequence[Receipt], counts: Counts) -> None:
    published = sum(receipt.data.rows for receipt in receipts)
    if not counts.add_up or counts.rows_in != opened.rows or published != counts.out:
        raise CountsMismatch(
            f"{opened.partition}: {opened.rows} rows in, but ok {counts.ok} + rejected {counts.rejected} + filtered "
            f"{counts.filtered} + pending {counts.pending} = {counts.rows_in}, and {published} of {counts.out} to "
            "publish.",
            hint="A bug of Tandem's; nothing was published.",
        )


def _keep_rejects(store: Store, run: str, partition: str, receipts: Sequence[Receipt]) -> None:
    """The rejects of a partition that is not published, where `tandem rejects` finds them."""
    tables = [table_of(store.get(receipt.rejects.key)) for receipt in receipts if receipt.rejects is not None]
    sink = pa.BufferOutputStream()
    pq.write_table(_of_any_version(REJECTS, *tables), sink, compression="zstd")
    store.put(ids.rejects_of_run(run, partition), sink.getvalue().to_pybytes())


def _too_many_rejects(job: Job, partition: str, counts: Counts) -> RejectRateExceeded | None:
    allowed = job.spec.limits.max_reject_rate
    if counts.rows_in and counts.rejected > allowed * counts.rows_in:
        return RejectRateExceeded(
            f"{partition}: {counts.rejected} of {counts.rows_in} rows were rejected, "
            f"{counts.rejected / counts.rows_in:.1%}; limits.max_reject_rate is {allowed:.1%}.",
            hint="See why: tandem rejects ls. Answers are kept and not paid for again.",
        )
    return None


# Final files -------------------------------------------------------------------------------------------------------


class _Merge:
    def __init__(self, job: Job, plan: Plan, store: Store, opened: OpenedPartition, folder: Path, note: Note) -> None:
        self.job = job
        self.store = store
        self.partition = opened.partition
        self.generation = opened.base + 1
        self.folder = folder
        self.note = note
        self.footer = {
            b"tandem": orjson.dumps(
                {
                    "pipeline": plan.pipeline,
                    "partition": opened.partition,
                    "stages": [p.model_dump(exclude_none=True) for p in _provenance(job)],
                }
            )
        }

    def data(self, staged: Sequence[StagedFile]) -> tuple[list[DataFile], list[str]]:
        """Data files of the declared schema, at least one. Raises ChecksFailed before anything is uploaded."""
        checks = _Checks(self.job)
        schema = self.job.columns
        tables = self.tables(staged, checks)
        if self.job.spec.sink.provenance == "columns":
            tables = (provenance.generation(table, self.generation) for table in tables)
        paths = list(self._write(schema, tables, "data"))
        warnings = checks.verdict(self.partition)
        time = self._time_column()
        folder = ids.data_folder(self.partition)
        return [self._upload(folder, at, path, time) for at, path in enumerate(paths)], warnings

    def plain(self, kind: str, schema: pa.Schema, staged: Sequence[StagedFile]) -> list[DataFile]:
        """Rejects, questions or index: no file where there are no rows."""
        if not any(file.rows for file in staged):
            return []
        folders = {"rejects": ids.rejects_folder, "pending": ids.pending_folder, "index": ids.index_folder}
        folder = folders[kind](self.partition)
        tables = (_of_any_version(schema, table) for table in self.tables(staged, None))
        paths = self._write(schema, tables, kind)
        return [self._upload(folder, at, path, None) for at, path in enumerate(paths)]

    def tables(self, staged: Sequence[StagedFile], checks: "_Checks | None") -> Iterator[pa.Table]:
        for file in staged:
            table = staged_table(self.store, file)
            if checks is not None:
                checks.see(table)
            self.note(table.num_rows)
            yield table

    def _write(self, schema: pa.Schema, tables: Iterator[pa.Table], kind: str) -> Iterator[Path]:
        """Local files of about TARGET_BYTES, row groups of GROUP_ROWS or GROUP_BYTES, whichever comes first."""
        declared = schema.with_metadata(self.footer)
        path, writer, number = self.folder / f"{kind}-0.parquet", None, 0
        for group in _groups(tables, schema):
            if writer is None:
                path = self.folder / f"{kind}-{number}.parquet"
                writer = _writer(path, declared)
            writer.write_table(group.cast(declared), row_group_size=GROUP_ROWS)
            del group
            pa.default_memory_pool().release_unused()  # what a group took, the pool would keep for long
            if path.stat().st_size >= TARGET_BYTES and kind != "index":  # a manifest names one
                writer.close()
                yield path
                writer, number = None, number + 1
        if writer is None and number == 0:
            writer = _writer(path, declared)
            writer.write_table(declared.empty_table())
        if writer is not None:
            writer.close()
            yield path

    def _upload(self, folder: str, part: int, path: Path, time: str | None) -> DataFile:
        with path.open("rb") as stream:
            content = hashlib.file_digest(stream, "sha256").hexdigest()
        key = ids.part_file(folder, part, self.generation, content)
        self.store.upload(key, path)
        self.note(0)
        metadata = pq.read_metadata(path)
        low, high = _time_range(path, time) if time and metadata.num_rows else (None, None)
        return DataFile(
            key=key, size=path.stat().st_size, sha256=content, rows=metadata.num_rows, time_min=low, time_max=high
        )

    def _time_column(self) -> str | None:
        column = self.job.spec.partition.column
        if self.job.spec.partition.by != "time" or column not in self.job.columns.names:
            return None
        return column if pa.types.is_timestamp(self.job.columns.field(column).type) else None


def _writer(path: Path, schema: pa.Schema) -> pq.ParquetWriter:
    return pq.ParquetWriter(path, schema, compression="zstd", write_page_index=True, write_statistics=True)


def _of_any_version(schema: pa.Schema, *tables: pa.Table) -> pa.Table:
    """What batches staged, some of them before an upgrade: a column that was not known then is null."""
    return pa.concat_tables([schema.empty_table(), *tables], promote_options="default")


def _groups(tables: Iterator[pa.Table], schema: pa.Schema) -> Iterator[pa.Table]:
    """Tables gathered to the size of a row group, which does not depend on how many rows a batch had."""
    held: list[list[pa.Array]] = [[] for _ in schema]
    rows = size = 0
    for whole in tables:
        table = whole.select(schema.names).cast(schema)
        while table.num_rows:
            taken = table.slice(0, GROUP_ROWS - rows)
            table = table.slice(taken.num_rows)
            for chunks, column in zip(held, taken.columns, strict=True):
                chunks.extend(column.chunks)
            rows += taken.num_rows
            size += taken.nbytes
            if rows >= GROUP_ROWS or size >= GROUP_BYTES:
                yield _emptied(held, schema)
                rows = size = 0
    if rows:
        yield _emptied(held, schema)


def _emptied(held: list[list[pa.Array]], schema: pa.Schema) -> pa.Table:
    """What is held, each column in one piece. Pieces are let go of column by column: a group is never there twice."""
    columns = []
    for chunks, field in zip(held, schema, strict=True):
        column = pa.table([pa.chunked_array(chunks, field.type)], names=[field.name])
        chunks.clear()
        column = column.combine_chunks()  # a table's: a column of more than 2 GB stays in several
        columns.append(column.column(0))
    return pa.Table.from_arrays(columns, schema=schema)


def _time_range(path: Path, column: str) -> tuple[dt.datetime | None, dt.datetime | None]:
    found = pc.min_max(table_of(path, columns=[column])[column])
    low, high = found["min"].as_py(), found["max"].as_py()
    return low, high


class _Checks:
    """The spec's `checks`, counted batch by batch."""

    def __init__(self, job: Job) -> None:
        self.checks = job.spec.checks
        self.broken = dict.fromkeys((check.name for check in self.checks), 0)

    def see(self, table: pa.Table) -> None:
        if not self.checks or not table.num_rows:
            return
        with pl.SQLContext(rows=pl.DataFrame(table), eager=True) as context:
            for check in self.checks:
                held = context.execute(f"SELECT ({check.sql}) AS held FROM rows")["held"]
                self.broken[check.name] += int((~held.fill_null(False)).sum())

    def verdict(self, partition: str) -> list[str]:
        """Warnings. Raises ChecksFailed where a blocking check found rows."""
        said = {check.name: f"check {check.name!r}: {self.broken[check.name]} row(s) break it" for check in self.checks}
        failed = [said[c.name] for c in self.checks if c.severity == "block" and self.broken[c.name]]
        if failed:
            raise ChecksFailed(
                f"{partition}: {'; '.join(failed)}.", hint="Nothing was published; answers are kept in the journal."
            )
        return [said[c.name] for c in self.checks if c.severity == "warn" and self.broken[c.name]]


# Around the commit -------------------------------------------------------------------------------------------------


def _provenance(job: Job) -> list[Provenance]:
    return [stage.provenance for stage in job.stages]


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


def _index_ids(store: Store, key: str) -> pl.Series:
    try:
        with store.open_input(key) as source:
            return pl.DataFrame(table_of(source, columns=["row_id"]))["row_id"]
    except (StoreError, OSError):
        return pl.Series("row_id", [], pl.String)


def _say_success(store: Store, manifest: Manifest) -> None:
    """A hint for tools that look for it; the commit is the truth."""
    said = {"generation": manifest.generation, "run": manifest.run, "counts": manifest.counts.model_dump()}
    store.put(ids.success(manifest.partition), orjson.dumps(said))


def _remove_superseded(store: Store, manifest: Manifest, before: dt.datetime) -> int:
    """Files of earlier generations, and those that lost the race for this one, once the generation after theirs has
    been there since `before`: a reader of the old one has had its time, however old the file itself is. Returns how
    many are left to a later sweep."""
    left = 0
    partition = manifest.partition
    if store.head(ids.lagging(partition)) is not None:
        return 1  # the table's readers are still sent to the old ones
    kept = named(manifest)
    committed = {
        parsed[1]: info.modified
        for info in store.list(ids.commits_of(partition))
        if (parsed := ids.parse_commit(info.key)) is not None and parsed[0] == partition
    }
    folders = (ids.data_folder, ids.rejects_folder, ids.pending_folder, ids.index_folder)
    for folder in (of(partition) for of in folders):
        old = []
        for info in store.list(folder):
            generation = ids.parse_part(folder, info.key)
            if info.key in kept or generation is None or generation > manifest.generation:
                continue
            if max(info.modified, committed.get(generation + 1, info.modified)) <= before:
                old.append(info.key)
            else:
                left += 1
        store.delete(old)
    return left
