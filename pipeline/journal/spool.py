"""Journal records on this machine's disk, from one flush to the next.

A process that is killed loses what it had not flushed; its page cache survives it. So each record is written here, at
some microseconds, before anything parses it, and a later attempt of the batch on the same machine takes it over: after
a SIGKILL only calls in flight are paid for again. Another machine finds nothing, and the journal's own promise holds.

A spool is owned by the attempt that writes it (`pipeline.owned_file`), and read when that is dead.
"""

import contextlib
import os
import uuid
from collections.abc import Sequence
from pathlib import Path

from pipeline.owned_file import left_behind, own
from schemas import digests
from stages.journal.records import Record
from stages.journal.segments import decode_spool


class FileSpool:
    """The spool of one batch attempt: there from its first line on, so that one without a line leaves nothing. A disk
    that refuses costs the help, not the row."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._file: int | None = None

    def write(self, line: bytes) -> None:
        with contextlib.suppress(OSError):
            os.write(self._opened(), line + b"\n")

    def replace(self, lines: Sequence[bytes]) -> None:
        """These lines and no others."""
        if self._file is not None:
            with contextlib.suppress(OSError):
                os.ftruncate(self._file, 0)
        if lines:
            self.write(b"\n".join(lines))

    def close(self, *, whole: bool) -> None:
        """Drop it where everything is in the store, else leave it to a later attempt."""
        if self._file is None:
            return
        if whole:
            self._path.unlink(missing_ok=True)
        os.close(self._file)
        self._file = None

    def _opened(self) -> int:
        """Its file, open and locked. Raises OSError."""
        if self._file is None:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            self._file = own(self._path, os.O_APPEND)
        return self._file


class Spools:
    """The spools of a process, in one folder that all processes of the machine share."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def identity(self) -> str:
        """What tells this folder from that of another machine; empty where the disk refuses."""
        path = self.folder / "identity"
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            with contextlib.suppress(FileExistsError), path.open("x") as file:
                file.write(uuid.uuid4().hex)
            return path.read_text()
        except OSError:
            return ""

    def open(self, sink: str, run: str, partition: str, batch: int) -> FileSpool:
        """A new spool for an attempt."""
        return FileSpool(self.folder / f"{_name(sink, run, partition, batch)}-{uuid.uuid4().hex}.jsonl")

    def left_by_the_dead(self, sink: str, run: str, partition: str, batch: int) -> list[tuple[Path, list[Record]]]:
        """What killed attempts of a batch had noted. The caller stores the records, then unlinks the files."""
        found = []
        for path in sorted(self.folder.glob(f"{_name(sink, run, partition, batch)}-*.jsonl")):
            with contextlib.suppress(OSError), left_behind(path) as file:
                if file is not None:
                    found.append((path, decode_spool(path.read_bytes())))
        return found


def _name(sink: str, run: str, partition: str, batch: int) -> str:
    return f"{digests.digest(sink, run, partition)}-b{batch:05d}"
