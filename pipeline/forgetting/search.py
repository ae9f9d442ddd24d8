"""Where in a sink the rows are: every file of rows is searched, whichever generation or run it belongs to."""

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field

import pyarrow as pa

from pipeline.forgetting.identities import Identities
from pipeline.forgetting.tables import IdsByKey, IdsOf, ids_by_column, search_file
from pipeline.progress_note import Note, unnoted
from pipeline.sinks.schema import key_schema, key_values, load_schema
from pipeline.stores import Store
from schemas import ids
from schemas.errors import ObjectMissing

IN_PLACE = ("run rejects", "waiting questions")  # kinds of file that no manifest names: replaced by themselves


@dataclass(frozen=True)
class RowFile:
    """A file of rows. `kind` is the word for them in receipts; `partition` is empty for a snapshot."""

    kind: str
    key: str
    partition: str
    ids_of: IdsOf


@dataclass
class FoundRows:
    """The files with rows to forget, and their numbers by kind. `ids`: the identities that were seen. `keyless`: data
    files without the columns of the key, by partition. `foreign`: files in `data/` that are none of ours, and have such
    rows. `unreadable`: files that are damaged."""

    files: list[RowFile] = field(default_factory=list)
    counts: Counter[str] = field(default_factory=Counter)
    ids: set[str] = field(default_factory=set)
    keyless: dict[str, list[str]] = field(default_factory=dict)
    foreign: list[str] = field(default_factory=list)
    unreadable: list[str] = field(default_factory=list)

    @property
    def partitions(self) -> set[str]:
        return {file.partition for file in self.files} - {""}

    @property
    def snapshots(self) -> set[str]:
        """The folders of inputs that were split and hold such rows."""
        return {f"{file.key.rpartition('/')[0]}/" for file in self.files if file.kind == "snapshot"}


def search_rows(store: Store, key: list[str], rows: Identities, note: Note = unnoted) -> FoundRows:
    """Search all files of rows in the sink. Raises StoreError."""
    found = FoundRows(unreadable=[info.key for info in store.list(f"{ids.TANDEM}/damaged/")])
    for file in row_files(store, key):
        note(0)
        try:
            hits = search_file(store, file.key, file.ids_of, rows)
        except ObjectMissing:
            continue
        except (pa.ArrowException, OSError):
            found.unreadable.append(file.key)
            continue
        if hits.keyless:
            _keyless(found, file)
        elif hits.count and file.kind == "data" and ids.parse_part(ids.data_folder(file.partition), file.key) is None:
            found.foreign.append(file.key)
        elif hits.count:
            found.files.append(file)
            found.counts[file.kind] += hits.count
        found.ids |= hits.ids
    return found


def _keyless(found: FoundRows, file: RowFile) -> None:
    if file.kind == "snapshot":
        found.files.append(file)  # it may have them, and is made again from the source
    else:
        found.keyless.setdefault(file.partition, []).append(file.key)


def row_files(store: Store, key: list[str]) -> Iterator[RowFile]:
    """Yield every file of rows that Tandem writes to a sink, but for staged ones."""
    declared = load_schema(store)
    keys = key_schema(declared) if declared is not None else pa.schema([])

    def by_key(partition: str) -> IdsByKey:
        return IdsByKey(key, dict(key_values(partition, keys)) if keys.names else {})

    for name, partition in _parquet(store, "data/"):
        yield RowFile("data", name, partition, by_key(partition))
    for name, partition in _parquet(store, ids.HISTORY):
        if partition.endswith("/rejects"):
            yield RowFile("history", name, partition.removesuffix("/rejects"), ids_by_column)
        else:
            yield RowFile("history", name, partition, by_key(partition))
    folders = {"rejects": "rejects/", "questions": f"{ids.TANDEM}/pending/", "index": f"{ids.TANDEM}/index/"}
    for kind, folder in folders.items():
        for name, partition in _parquet(store, folder):
            yield RowFile(kind, name, partition, ids_by_column)
    for info in list(store.list(ids.WAITING)):
        yield RowFile("waiting questions", info.key, ids.parse_waiting(info.key), ids_by_column)
    for run in store.folders(ids.RUNS):
        folder = f"{ids.run_folder(run)}rejects/"
        for info in list(store.list(folder)):
            yield RowFile(
                "run rejects", info.key, info.key.removeprefix(folder).removesuffix(".parquet"), ids_by_column
            )
    for info in list(store.list(ids.SNAPSHOTS)):
        name = info.key.rpartition("/")[2]
        if name.endswith(".parquet") and not name.startswith("entries-"):
            yield RowFile("snapshot", info.key, "", IdsByKey(key))


def _parquet(store: Store, folder: str) -> Iterator[tuple[str, str]]:
    """Yield the Parquet files of partitions in a folder, with their partition."""
    for info in list(store.list(folder)):
        partition = info.key.removeprefix(folder).rpartition("/")[0]
        if info.key.endswith(".parquet") and "=" in partition:
            yield info.key, partition
