"""Journal records on this machine's disk, from one flush to the next.

A process that is killed loses what it had not flushed; its page cache survives it. So each record is written here, at
some microseconds, before anything parses it, and a later attempt of the batch on the same machine takes it over: after
a SIGKILL only calls in flight are paid for again. Another machine finds nothing, and the journal's own promise holds.

A spool is owned by the attempt that writes it (`pipeline.owned_file`), and read when that is dead.
"""

import contextlib
import itertools
import os
import re
import uuid
from collections.abc import Sequence
from pathlib import Path

from pipeline.owned_file import left_behind, own
from pipeline.stores import Store
from schemas import digests, ids
from stages.journal.records import Record
from stages.journal.segments import decode_spool, encode_segment


class FileSpool:
    """The spool of one batch attempt, or, `kept`, of a process that has no other journal: that one is never emptied.
    The file exists from its first line on, so that an empty spool leaves nothing. If the disk refuses, the row goes
    on."""

    def __init__(self, path: Path, *, kept: bool = False) -> None:
        self._path = path
        self._kept = kept
        self._file: int | None = None

    def write(self, line: bytes) -> None:
        with contextlib.suppress(OSError):
            os.write(self._opened(), line + b"\n")

    def replace(self, lines: Sequence[bytes]) -> None:
        """Replace the content by these lines, whole: a process that is killed meanwhile leaves the former ones."""
        if self._kept:
            return
        if self._file is None:
            if lines:
                self.write(b"\n".join(lines))
            return
        with contextlib.suppress(OSError):
            if lines:
                self._renew(b"\n".join(lines) + b"\n")
            else:
                os.ftruncate(self._file, 0)

    def _renew(self, content: bytes) -> None:
        """Put another file in the place of the one so far. Raises OSError; that one stays then."""
        assert self._file is not None
        new = own(_unfinished(self._path), os.O_APPEND | os.O_TRUNC)
        try:
            if os.write(new, content) < len(content):
                raise OSError("the disk is full")
            _unfinished(self._path).replace(self._path)
        except BaseException:
            _unfinished(self._path).unlink(missing_ok=True)
            os.close(new)
            raise
        os.close(self._file)
        self._file = new

    def close(self, *, whole: bool) -> None:
        """Delete it if everything is in the store, else leave it to a later attempt."""
        if self._file is None:
            return
        if whole and not self._kept:
            self._path.unlink(missing_ok=True)
        os.close(self._file)
        self._file = None

    def _opened(self) -> int:
        """Open and lock the file. Raises OSError."""
        if self._file is None:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            self._file = own(self._path, os.O_APPEND)
        return self._file


class Spools:
    """The spools of a process, in one folder that all processes of the machine share."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def identity(self) -> str:
        """Return an identity that differs from other machines' folders; empty if the disk refuses."""
        path = self.folder / "identity"
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            with contextlib.suppress(FileExistsError), path.open("x") as file:
                file.write(uuid.uuid4().hex)
            return path.read_text()
        except OSError:
            return ""

    def open(self, sink: str, run: str, partition: str, batch: int, *, row: str = "", kept: bool = False) -> FileSpool:
        """A new spool for an attempt at a batch, or at one `row` of it, where its rows run one by one at the same
        time."""
        partition_digest = digests.digest(sink, partition)
        name = f"{partition_digest}.{_name(sink, run, partition, batch, row)}-{uuid.uuid4().hex}.jsonl"
        return FileSpool(self.folder / name, kept=kept)

    def left_by_the_dead(
        self, sink: str, run: str, partition: str, batch: int, *, row: str = ""
    ) -> list[tuple[Path, list[Record]]]:
        """Read the records of killed attempts of a batch, its rows included, or of one row. The caller stores the
        records, then unlinks the files."""
        # Earlier versions' names begin with the run's digest.
        return self._left(f"*{_name(sink, run, partition, batch, row)}-*.jsonl")

    def absorb(self, store: Store, partition: str) -> int:
        """Store the records of killed attempts of any run for a partition, so that calls are paid for once however
        their runs ended. Returns the number of records. Raises StoreError."""
        stored = 0
        for path, records in self._left(f"{digests.digest(store.uri, partition)}.*.jsonl"):
            for run, group in itertools.groupby(records, key=lambda record: record.run):
                segment = list(group)
                key = ids.journal_segment(partition, run, _batch_of(path), uuid.uuid4().hex)
                store.put_absent(key, encode_segment(segment))
                stored += len(segment)
            path.unlink(missing_ok=True)
        return stored

    def records_of_the_dead(self, sink: str, partition: str) -> list[Record]:
        """Read the records of killed attempts of any run for a partition; they stay where they are."""
        return [record for _, records in self._left(f"{digests.digest(sink, partition)}.*.jsonl") for record in records]

    def _left(self, pattern: str) -> list[tuple[Path, list[Record]]]:
        found = []
        for path in sorted(self.folder.glob(pattern)):
            with contextlib.suppress(OSError), left_behind(path) as file:
                if file is not None:
                    _unfinished(path).unlink(missing_ok=True)
                    found.append((path, decode_spool(path.read_bytes())))
        return found


def _unfinished(path: Path) -> Path:
    """Return the name of a spool's next content until it is whole."""
    return path.with_suffix(".new")


def _batch_of(path: Path) -> int:
    found = re.search(r"-b(\d{5,})-", path.name)
    return int(found[1]) if found else 0


def _name(sink: str, run: str, partition: str, batch: int, row: str) -> str:
    return f"{digests.digest(sink, run, partition)}-b{batch:05d}{f'-r{row}' if row else ''}"
