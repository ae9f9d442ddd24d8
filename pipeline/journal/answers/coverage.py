"""Which journals the answer index has. The others are indexed before answers are looked up, or read directly.

at a commit         the new records of the partition's journal are indexed before they are merged
before a run        journals of generations that the index has not: of earlier versions, of lost or damaged files
`answering/`        a marker for each partition at work: its journal has records that no index has. It stays if the
                    partition is not published, and is settled once its run has ended
"""

from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import lru_cache

import polars as pl

from pipeline.journal import answer_keys, compacted
from pipeline.journal.answers.index import AnswerIndex
from pipeline.journal.answers.index_files import Covered, found_frame
from pipeline.journal.segments import Reading
from pipeline.process_state import COMMAND
from pipeline.progress_note import Note, unnoted
from pipeline.stores import Store
from schemas import ids

_COLUMNS = ("kind", "id", "key", "stage")
_THREADS = 4
_AT_ONCE = 400_000  # keys in one file of a rebuilt index


@dataclass(frozen=True)
class Marked:
    """A partition whose journal may have records that no index has, and the run and command that write them."""

    run: str
    command: str
    partition: str

    @property
    def key(self) -> str:
        return ids.answering(self.run, self.command, self.partition)


def mark(store: Store, partition: str, run: str) -> None:
    """Note that this command is about to write records to the journal of a partition."""
    store.put(Marked(run, COMMAND.name, partition).key, b"{}")


def marked(store: Store) -> list[Marked]:
    return [Marked(*ids.parse_answering(info.key)) for info in store.list(ids.ANSWERING)]


def settle(store: Store, published: pl.DataFrame, is_over: Callable[[str], bool], note: Note = unnoted) -> None:
    """Index what the index does not have: journals of published generations, and those of marked partitions whose run
    is over. `published`: `partition`, `generation`. Raises StoreError."""
    over = lru_cache(is_over)
    left = [one for one in marked(store) if over(one.run)]
    catch_up(store, published, {one.partition for one in left}, note=note)
    store.delete([one.key for one in left])


@dataclass(frozen=True)
class NewRecords:
    """The keys of the records that a generation has added to a partition's journal. `parent`: the generation before."""

    partition: str
    generation: int
    parent: int | None
    keys: pl.Series


def add_commits(store: Store, commits: Sequence[NewRecords]) -> None:
    """Index the records of generations that were committed, in one object, and remove their partitions' markers. Raises
    StoreError."""
    index = AnswerIndex(store)
    before = index.covered_of({one.partition for one in commits})
    covered: dict[str, tuple[int, int]] = {}
    for one in sorted(commits, key=lambda one: one.generation):
        known = before.get(one.partition, 0)
        after = one.generation  # not known to be whole, if one before was not indexed: it is found before the next run
        if known >= (one.parent or 0):
            after, _ = covered.get(one.partition, (known, 0))
            before[one.partition] = one.generation
        covered[one.partition] = (after, one.generation)
    index.add(covered, found_frame([_of(one.partition, one.keys) for one in commits]))
    store.delete([one.key for one in marked(store) if one.partition in covered])


def catch_up(
    store: Store,
    published: pl.DataFrame,
    ended: Iterable[str] = (),
    *,
    origin: Store | None = None,
    note: Note = unnoted,
) -> None:
    """Index the journals of published generations that the index does not have. `published`: `partition`, `generation`.
    `ended`: other partitions to index. `origin`: the sink of the journals, if it is another one. Raises
    StoreError."""
    index = index_of(store, origin)
    index.drop_damaged()
    journals = origin or store
    if index.is_empty():
        ended = {ids.partition_of_journal(info.key) for info in journals.list(ids.JOURNAL)}
    covered = index.covered()
    missing = [
        (partition, generation)
        for partition, generation in published.select("partition", "generation").iter_rows()
        if covered.get(partition, 0) < generation
    ]
    generations = dict(published.select("partition", "generation").iter_rows())
    known = {partition for partition, _ in missing}
    missing += [(partition, generations.get(partition, 0)) for partition in sorted(set(ended) - known)]

    def read(one: tuple[str, int]) -> tuple[str, int, pl.Series]:
        note(0)
        return *one, journal_keys(journals, one[0])

    held: list[pl.DataFrame] = []
    ranges: dict[str, tuple[int, int]] = {}
    with ThreadPoolExecutor(_THREADS, thread_name_prefix="tandem-answers") as threads:
        for partition, generation, keys in threads.map(read, missing):
            held.append(_of(partition, keys))
            ranges[partition] = (0, generation)
            if sum(frame.height for frame in held) >= _AT_ONCE:
                _add(index, ranges, held)
                held, ranges = [], {}
    if ranges:
        _add(index, ranges, held)


def index_of(store: Store, origin: Store | None = None) -> AnswerIndex:
    """Return the index, kept in `store`, of its own journals or of those of another sink."""
    if origin is None:
        return AnswerIndex(store)
    return AnswerIndex(store, f"{ids.ANSWERS}from-{ids.sink_digest(origin.uri)}/")


def journal_keys(store: Store, partition: str) -> pl.Series:
    """Return the keys of all records of a partition's journal. Raises StoreError."""
    chunks = compacted.everything(store, partition, _COLUMNS, Reading())
    parts = [answer_keys.of_records(chunk) for chunk in chunks]
    return pl.concat([pl.Series("key", [], dtype=answer_keys.KEYS), *parts]).unique()


def _of(partition: str, keys: pl.Series) -> pl.DataFrame:
    return pl.DataFrame({"key": keys}).with_columns(partition=pl.lit(partition, dtype=pl.String))


def _add(index: AnswerIndex, ranges: Covered, held: list[pl.DataFrame]) -> None:
    index.add(ranges, found_frame(held))
