"""What a process has spent of its slice, in a file that outlives it."""

import contextlib
import os
import struct
from pathlib import Path

from pipeline.limits.ledger import Ledger, LedgerStore
from pipeline.owned_file import left_behind, own
from schemas import digests
from stages.limits.budget import Amount

_COUNTS = struct.Struct("<4q")


class SpendFile:
    """What a slice was spent on, in a file of its owner: after a kill another process of this machine closes the
    account by it."""

    def __init__(self, folder: Path, holder: str) -> None:
        self.machine = ""
        self._path = folder / holder
        with contextlib.suppress(OSError):
            folder.mkdir(parents=True, exist_ok=True)
            self._file = own(self._path, os.O_EXCL)
            os.pwrite(self._file, _COUNTS.pack(0, 0, 0, 0), 0)
            self.machine = machine(folder)

    def note(self, settled: Amount, reserved: Amount) -> None:
        """One small write, which a kill finds done or not begun."""
        if self.machine:
            try:
                os.pwrite(self._file, _COUNTS.pack(*settled, *reserved), 0)
            except OSError:  # a full disk: better no count than an old one
                self.drop()

    def drop(self) -> None:
        if self.machine:
            self.machine = ""
            self._path.unlink(missing_ok=True)
            os.close(self._file)


def machine(folder: Path) -> str:
    """Where a count can be read: this folder, since this machine was started."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    except OSError:
        boot = ""
    return digests.digest(os.uname().nodename, boot, str(folder.absolute()))[:16]


def spent_by_dead_processes(book: Ledger, folder: Path) -> dict[str, Amount]:
    """What holders that died on this machine had spent, calls in flight in full."""
    found = {}
    here = machine(folder)
    for holder, held in book.slices.items():
        if held.machine != here:
            continue
        with contextlib.suppress(OSError, struct.error), left_behind(folder / holder) as file:
            if file is not None:
                settled, tokens, reserved, more = _COUNTS.unpack(os.pread(file, _COUNTS.size, 0))
                found[holder] = Amount(settled + reserved, tokens + more)
    return found


def reconcile(book: LedgerStore, folder: Path) -> Ledger:
    """Close the accounts of those who died here. Blocks."""
    found = book.read() or Ledger()
    dead = spent_by_dead_processes(found, folder)
    if not dead:
        return found

    def closed(before: Ledger) -> Ledger:
        for holder, spent in dead.items():
            before = before.closed(holder, spent)
        return before

    found = book.change(closed)
    for holder in dead:
        (folder / holder).unlink(missing_ok=True)
    return found
