"""The answer index of a sink: its files together. Commits add small ones, which are merged in levels.

    _tandem/answers/l<level>-<digest>.parquet                  of the sink's own journals
    _tandem/answers/from-<sink digest>/l<level>-<digest>.parquet   of a sink that is only read (`journal.read_from`)

Files are found by a listing, and read again from it if one is gone: another process has merged it.
"""

import hashlib
import tempfile
from collections.abc import Callable, Collection, Iterable, Iterator
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import TypeVar

import numpy as np
import polars as pl
import pyarrow as pa

from pipeline.journal.answers.index_files import Covered, IndexFile, found_frame, write
from pipeline.process_state import STATE
from pipeline.stores import Store
from schemas import ids
from schemas.digests import file_sha256
from schemas.errors import Damaged, ObjectMissing

_MERGED = 8  # files of one level
_LISTINGS = 5
_WINDOW_KEYS = 400_000  # that a merge holds at once
_SPACE = 1 << 60  # of keys
T = TypeVar("T")


@dataclass(frozen=True)
class AnswerIndex:
    """The index in a folder of a store."""

    store: Store
    folder: str = ids.ANSWERS

    def find(self, keys: pl.Series) -> pl.DataFrame:
        """Return `key`, `partition` of the keys in the index, each pair once. Raises StoreError."""
        wanted = np.unique(keys.to_numpy())

        def look() -> list[pl.DataFrame]:
            return [found for file in self._files() if (found := file.find(wanted)) is not None]

        found = found_frame(self._again_if_gone(look))
        return found.unique() if found.height else found

    def covered(self) -> dict[str, int]:
        """Return, for each partition, the generation up to which the index has the records of its journal."""

        def look() -> list[Covered]:
            return [file.covered for file in self._files()]

        return _joined(self._again_if_gone(look))

    def covered_of(self, partitions: Collection[str]) -> dict[str, int]:
        """Return the same for these partitions, as far as it has any."""

        def look() -> list[Covered]:
            return [
                {partition: file.covered[partition] for partition in partitions if partition in file.covered}
                for file in self._files()
            ]

        return _joined(self._again_if_gone(look))

    def coverage(self) -> list[tuple[str, set[str]]]:
        """Return each file with the partitions whose journals it covers. One that cannot be read is not in the list."""

        def look() -> list[tuple[str, set[str]]]:
            return [(file.key, set(file.covered)) for file in self._files()]

        return self._again_if_gone(look)

    def files(self) -> list[IndexFile]:
        """Return the files of now, opened. Raises StoreError."""
        return self._again_if_gone(lambda: list(self._files()))

    def is_empty(self) -> bool:
        return next(iter(self._keys()), None) is None

    def add(self, covered: Covered, keys: pl.DataFrame) -> None:
        """Add `key`, `partition` of the journals named in `covered`; merge if it is time to. Raises StoreError."""
        sink = pa.BufferOutputStream()
        write(sink, covered, [keys])
        data = bytes(sink.getvalue())
        self.store.put_absent(self._key(0, hashlib.sha256(data).hexdigest()), data)
        self._merge()

    def drop_damaged(self) -> None:
        """Delete files that cannot be read: what they covered is then found to be missing, and is indexed again."""
        for key in list(self._keys()):
            try:
                self._opened(key)
            except Damaged:
                self.store.delete([key])
            except ObjectMissing:
                continue

    def _keys(self) -> Iterator[str]:
        for info in self.store.list(self.folder):
            if self._level(info.key) is not None:
                yield info.key

    def _level(self, key: str) -> int | None:
        return ids.parse_answers(f"{ids.ANSWERS}{key.removeprefix(self.folder)}")

    def _files(self) -> Iterator[IndexFile]:
        for key in list(self._keys()):
            try:
                yield self._opened(key)
            except Damaged:
                continue  # `drop_damaged` removes it, and its journals are indexed again

    def _opened(self, key: str) -> IndexFile:
        def read() -> IndexFile:
            return IndexFile.opened(key, lambda: self.store.open_input(key))

        found: IndexFile = STATE.answer_files.get((self.store.uri, key), read)
        return found

    def _again_if_gone(self, look: Callable[[], T]) -> T:
        for _ in range(_LISTINGS - 1):
            try:
                return look()
            except (ObjectMissing, FileNotFoundError):
                continue
        return look()

    def _put_merged(self, level: int, covered: Covered, pieces: Iterable[pl.DataFrame]) -> str:
        with tempfile.TemporaryDirectory(prefix="tandem-") as local:
            path = Path(local) / "answers.parquet"
            write(path, covered, pieces)
            key = self._key(level, file_sha256(path))
            self.store.upload(key, path)
        return key

    def _key(self, level: int, content: str) -> str:
        return f"{self.folder}{ids.answers(level, content).removeprefix(ids.ANSWERS)}"

    def _merge(self) -> None:
        """Merge the files of each level that has enough of them. Another process may do the same: the result has the
        same name, and a file that is gone meanwhile ends it."""
        try:
            while (level := self._full_level()) is not None:
                keys = [key for key in self._keys() if self._level(key) == level]
                files = [self._opened(key) for key in keys]
                merged = self._put_merged(level + 1, _merged([file.covered for file in files]), _windows(files))
                self.store.delete([key for key in keys if key != merged])
        except (ObjectMissing, FileNotFoundError, Damaged):
            return
        except (OSError, pa.ArrowException):
            return

    def _full_level(self) -> int | None:
        counts: dict[int, int] = {}
        for key in self._keys():
            level = self._level(key)
            assert level is not None
            counts[level] = counts.get(level, 0) + 1
        return next((level for level, count in sorted(counts.items()) if count >= _MERGED), None)


def _windows(files: list[IndexFile]) -> Iterator[pl.DataFrame]:
    """Yield the keys of all files in order, some at a time: keys are evenly spread."""
    count = sum(file.rows for file in files) // _WINDOW_KEYS + 1
    edges = [_SPACE * number // count for number in range(count + 1)]
    for low, high in pairwise(edges):
        yield found_frame([file.between(low, high) for file in files])


def _merged(covered: list[Covered]) -> dict[str, tuple[int, int]]:
    """Return the ranges of generations of several files. Ranges that do not follow each other cannot be told as one: of
    these the longest from the beginning is kept, or the first."""
    out: dict[str, tuple[int, int]] = {}
    for partition, ranges in _ranges(covered).items():
        after, up_to = ranges[0]
        for further_after, further_up_to in ranges[1:]:
            if further_after <= up_to:
                up_to = max(up_to, further_up_to)
        out[partition] = (after, up_to)
    return out


def _joined(covered: list[Covered]) -> dict[str, int]:
    """Return the generation up to which ranges follow each other from the beginning, for each partition."""
    return {partition: up_to for partition, (after, up_to) in _merged(covered).items() if after == 0}


def _ranges(covered: list[Covered]) -> dict[str, list[tuple[int, int]]]:
    found: dict[str, list[tuple[int, int]]] = {}
    for ranges in covered:
        for partition, one in ranges.items():
            found.setdefault(partition, []).append((one[0], one[1]))
    for several in found.values():
        several.sort()
    return found
