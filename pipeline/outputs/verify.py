"""Verification of the published files: every byte that the current manifests name is read again.

For readers by manifest, missing and changed files are problems; for readers by glob also files in `data/` that belong
to no generation. Our own files that wait to be removed or committed are a note and no problem.
"""

import hashlib
from collections import defaultdict
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial

import orjson
import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.outputs import duplicate_keys, scan
from pipeline.sinks import commits
from pipeline.sinks.schema import (
    Dataset,
    DeclaredSchema,
    column_change,
    load_schema,
    schema_fingerprint,
)
from pipeline.sinks.table_formats.base import Lake
from pipeline.sinks.table_formats.follow import columns_behind
from pipeline.stores import Store
from pipeline.stores.documents import read_document
from schemas import ids
from schemas.errors import Damaged, ObjectMissing
from schemas.manifest import DataFile, Manifest
from schemas.plan import REPUBLISH
from schemas.spec.sections import Spec
from schemas.tables import decode_schema, stored_schema

_CHUNK = 8 << 20
_READERS = 4
_REREADS = 3
_KEYS_HINT = (
    "If a row moved, run both partitions: tandem run; if one is gone from the source, retire it: tandem run --prune"
)
_TABLE_WAITS = (
    "The table keeps the columns of before a change, and their files, until every partition has the present ones; the "
    "run that publishes the last one brings it up to date."
)


@dataclass(frozen=True)
class Problem:
    """`kind`: missing, size, checksum, rows, schema, mixed, keys, counts, foreign, table or damaged. `path` is
    absolute, empty for problems of no single object."""

    kind: str
    partition: str
    path: str
    message: str


@dataclass(frozen=True)
class UniqueKeys:
    """The spec's check that a key is in one partition only."""

    check: str
    key: tuple[str, ...]
    blocks: bool


def unique_keys(spec: Spec) -> UniqueKeys | None:
    """Return the check of a spec, the blocking one if there are two; None where it has none."""
    checks = sorted((check for check in spec.checks if check.unique), key=lambda check: check.severity)
    return UniqueKeys(checks[0].name, tuple(spec.source.key), checks[0].severity == "block") if checks else None


@dataclass
class Verified:
    """Counts of the verified objects, and the problems found."""

    partitions: int = 0
    files: int = 0
    bytes: int = 0
    rows: int = 0
    problems: list[Problem] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    unreadable: list[str] = field(default_factory=list)  # keys of damaged manifests
    former: list[str] = field(default_factory=list)  # partitions that have the columns of before a change
    duplicate_keys: int = 0  # in two partitions, if the spec checks that


def verify(
    store: Store, partition: str | None = None, *, lake: Lake | None = None, unique: UniqueKeys | None = None
) -> Verified:
    """Verify everything that is published, or one partition of it; `lake` is its table, if it has one. Raises
    StoreError if the store is unreachable."""
    found = Verified()
    declared = _declaration(store, found)
    with ThreadPoolExecutor(_READERS, thread_name_prefix="tandem-verify") as pool:
        for manifest in _manifests(store, partition, found):
            _verify_partition(store, manifest, declared, pool, found)
    found.problems.extend(_mixed(store, declared, found))
    if found.unreadable:
        return found  # only all manifests together show which files belong to a generation
    if unique is not None:
        _verify_keys(store, partition, unique, found)
    found.problems.extend(_foreign(store, partition, found.notes))
    if lake is not None:
        if columns_behind(lake, store):
            found.notes.append(_TABLE_WAITS)
        else:
            found.problems.extend(_table(store, partition, lake))
    return found


def _declaration(store: Store, found: Verified) -> DeclaredSchema | None:
    """Load the declared schema; None if it is gone or damaged (a problem). Verifies dataset.json as well."""
    try:
        read_document(store, ids.DATASET, Dataset)
    except ObjectMissing:
        pass
    except Damaged as exc:
        found.problems.append(Problem("damaged", "", f"{store.uri}/{ids.DATASET}", str(exc)))
    try:
        return load_schema(store)
    except Damaged as exc:
        found.problems.append(Problem("damaged", "", f"{store.uri}/{ids.SCHEMA}", str(exc)))
        return None


def _manifests(store: Store, partition: str | None, found: Verified) -> Iterator[Manifest]:
    """Yield the current manifests; unreadable ones are problems."""
    for key, generation in scan.partitions(store).items():
        if partition is not None and key != partition:
            continue
        try:
            manifest = commits.read_commit(store, key, generation)
        except Damaged as exc:
            found.unreadable.append(ids.commit(key, generation))
            found.problems.append(Problem("damaged", key, f"{store.uri}/{ids.commit(key, generation)}", str(exc)))
            continue
        if manifest is not None and manifest.present:
            yield manifest


def _table(store: Store, partition: str | None, lake: Lake) -> Iterator[Problem]:
    """Verify that a Delta or Iceberg table names the files of the current generations, and no others."""
    named = lake.all_files()
    for manifest in scan.manifests(store, partition):
        own = {file.key for file in manifest.files}
        if own != {key for key in named if key.rpartition("/")[0] == f"data/{manifest.partition}"}:
            message = (
                f"{manifest.partition}: the table names other files than generation {manifest.generation}: it was "
                "changed by another writer. To repair it, publish again, for 0 calls: tandem run "
                f"--partition {manifest.partition} --reprocess all"
            )
            yield Problem("table", manifest.partition, "", message)


def _verify_partition(
    store: Store, manifest: Manifest, declared: DeclaredSchema | None, pool: ThreadPoolExecutor, found: Verified
) -> None:
    """Verify a partition. If its generation is replaced while it is read, the next one is verified instead."""
    for _ in range(_REREADS):
        index = [manifest.index] if manifest.index else []
        named = [*manifest.files, *manifest.rejects, *manifest.pending, *index]
        problems = [problem for part in pool.map(partial(_file, store, manifest), named) for problem in part]
        newest = commits.current(store, manifest.partition, known=manifest.generation)
        if not problems or newest is None or newest.generation == manifest.generation:
            break
        manifest = newest
    found.partitions += 1
    found.files += len(named)
    found.bytes += sum(file.size for file in named)
    found.rows += sum(file.rows for file in manifest.files)
    found.problems += [*problems, *_counts(manifest)]
    if column_change(declared).outdates(manifest):
        found.former.append(manifest.partition)
    else:
        found.problems += _declared(store, manifest, declared)
    if (note := _success(store, manifest)) is not None:
        found.notes.append(note)


def _file(store: Store, manifest: Manifest, file: DataFile) -> list[Problem]:
    """Return the first problem of an object: others would follow from it."""

    def problem(kind: str, message: str) -> list[Problem]:
        path = f"{store.uri}/{file.key}"
        return [Problem(kind, manifest.partition, path, f"{path} {message}")]

    try:
        info = store.head(file.key)
        if info is None:
            return problem("missing", f"is not there; generation {manifest.generation} names it")
        if info.size != file.size:
            return problem("size", f"has {info.size:,} bytes, {file.size:,} were published")
        if _sha256(store, file) != file.sha256:
            return problem("checksum", "has other bytes than were published")
        with store.open_input(file.key) as source, pq.ParquetFile(source) as parquet:
            rows, schema = parquet.metadata.num_rows, parquet.schema_arrow
    except (ObjectMissing, FileNotFoundError):
        return problem("missing", f"is not there; generation {manifest.generation} names it")
    except pa.ArrowException as exc:
        return problem("schema", f"is no Parquet file ({type(exc).__name__})")
    if rows != file.rows:
        return problem("rows", f"has {rows:,} rows, its manifest says {file.rows:,}")
    if file in manifest.files and schema_fingerprint(stored_schema(schema)) != manifest.schema_fingerprint:
        return problem("schema", "has other columns or types than its manifest says")
    return []


def _sha256(store: Store, file: DataFile) -> str:
    state = hashlib.sha256()
    for start in range(0, file.size, _CHUNK):
        state.update(store.get_range(file.key, start, min(_CHUNK, file.size - start)))
    return state.hexdigest()


def _counts(manifest: Manifest) -> Iterator[Problem]:
    counts, label = manifest.counts, f"{manifest.partition}, generation {manifest.generation}"
    wrong = []
    if not counts.add_up:
        wrong.append(f"{counts.rows_in:,} rows in are not ok + rejected + filtered + pending")
    if counts.out != (held := sum(file.rows for file in manifest.files)):
        wrong.append(f"{counts.out:,} rows were published, its files hold {held:,}")
    if counts.rejected > (held := sum(file.rows for file in manifest.rejects)):
        wrong.append(f"{counts.rejected:,} rows were rejected, its rejects hold {held:,}")
    for message in wrong:
        yield Problem("counts", manifest.partition, "", f"{label}: {message}")


def _declared(store: Store, manifest: Manifest, declared: DeclaredSchema | None) -> Iterator[Problem]:
    """Verify that a generation's columns are those of the dataset, or some of them if published earlier."""
    if declared is None:
        if store.head(ids.SCHEMA) is None:
            path = f"{store.uri}/{ids.SCHEMA}"
            yield Problem("schema", manifest.partition, path, f"{path} is gone; tandem outputs repair rebuilds it")
        return
    columns = decode_schema(declared.arrow_schema)
    for file in manifest.files[:1]:
        try:
            with store.open_input(file.key) as source:
                own = pq.read_schema(source)
        except (ObjectMissing, FileNotFoundError, pa.ArrowException):
            return  # reported already
        types = {field.name: field.type for field in columns}
        strange = [field.name for field in own if types.get(field.name) != field.type]
        if strange:
            path = f"{store.uri}/{file.key}"
            yield Problem(
                "schema", manifest.partition, path, f"{path} has columns that {ids.SCHEMA} does not declare: {strange}"
            )


def _mixed(store: Store, declared: DeclaredSchema | None, found: Verified) -> Iterator[Problem]:
    """Report how far a change of columns has come."""
    if found.former:
        message = (
            f"{len(found.former):,} of {found.partitions:,} partitions, the first is {found.former[0]}, still have the "
            f"columns of before a change: {column_change(declared).text}. To finish it, from the journal: {REPUBLISH}; "
            "to retire those that are gone from the source: tandem run --prune"
        )
        yield Problem("mixed", "", f"{store.uri}/{ids.SCHEMA}", message)


def _verify_keys(store: Store, partition: str | None, unique: UniqueKeys, found: Verified) -> None:
    """Count the keys that are in two partitions: a problem, or a note where the check only warns."""
    keys = duplicate_keys.find(store, unique.key, partition)
    found.duplicate_keys = keys.count
    if not keys.count:
        return
    message = f"check {unique.check!r} (unique: dataset): {keys.text}. {_KEYS_HINT}"
    if unique.blocks:
        found.problems.append(Problem("keys", "", "", message))
    else:
        found.notes.append(message)


def _success(store: Store, manifest: Manifest) -> str | None:
    """Compare `_SUCCESS`, a hint that is written after the commit and may lag; returns a note, no problem."""
    if manifest.kind == "tombstone":
        return None
    try:
        content = orjson.loads(store.get(ids.success(manifest.partition)))
        if content.get("generation") == manifest.generation:
            return None
    except (ObjectMissing, ValueError):
        pass
    return f"{manifest.partition}: _SUCCESS does not name generation {manifest.generation}"


# Foreign files -----------------------------------------------------------------------------------------------------


def _foreign(store: Store, partition: str | None, notes: list[str]) -> Iterator[Problem]:
    """Yield objects in `data/` and `rejects/` that no generation names. The listing comes first, so that the manifests
    name files committed after it."""
    for kind in ("data", "rejects"):
        by_partition = defaultdict(list)
        prefix = f"{kind}/{partition}/" if partition else f"{kind}/"
        for info in store.list(prefix):
            folder, _, name = info.key.rpartition("/")
            if folder.startswith("data/_delta_log"):
                continue
            by_partition[folder.removeprefix(kind).removeprefix("/")].append((info.key, name))
        for key, objects in by_partition.items():
            yield from _foreign_of(store, key, objects, notes)


def _foreign_of(store: Store, partition: str, objects: list[tuple[str, str]], notes: list[str]) -> Iterator[Problem]:
    manifest = commits.current(store, partition) if "=" in partition else None
    current = {file.key for file in (*manifest.files, *manifest.rejects)} if manifest else set()
    strange = [key for key, name in objects if key not in current and name != "_SUCCESS"]
    if not strange:
        return
    earlier: set[str] = set()
    if manifest is not None:
        history = list(commits.history(store, partition))
        earlier = {file.key for m in history for file in (*m.files, *m.rejects)}
    newest = manifest.generation if manifest else 0
    superseded = uncommitted = 0
    for key in strange:
        generation = ids.parse_part(f"{key.rpartition('/')[0]}/", key)
        if key in earlier:
            superseded += 1
        elif generation is not None and generation > newest and "=" in partition:
            uncommitted += 1
        else:
            path = f"{store.uri}/{key}"
            yield Problem("foreign", partition, path, f"{path} belongs to no generation; readers by glob would read it")
    if superseded:
        notes.append(
            f"{partition}: {superseded} file(s) of earlier generations are still in data/, so readers by glob see rows "
            "twice; tandem outputs gc --older-than 0s --yes moves them to history"
        )
    if uncommitted:
        notes.append(
            f"{partition}: {uncommitted} file(s) of a publication that is under way or was abandoned; the next run "
            "removes them"
        )
