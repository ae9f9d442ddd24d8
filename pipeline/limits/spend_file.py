"""The amount that a process has spent of its slice, in a file that outlives it."""

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
    """The spent amount of a slice, in a file of its owner: after a kill another process of this machine closes the
    account with it."""

    def __init__(self, folder: Path, holder: str) -> None:
        self.machine = ""
        self._path = folder / holder
        with contextlib.suppress(OSError):
            folder.mkdir(parents=True, exist_ok=True)
            self._file = own(self._path, os.O_EXCL)
            os.pwrite(self._file, _COUNTS.pack(0, 0, 0, 0), 0)
            self.machine = machine(folder)

    def note(self, settled: Amount, reserved: Amount) -> None:
        """Write the amounts in one small write, which a kill cannot split."""
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
    """Return the place of spend files as an id: this folder, since the machine was started."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    except OSError:
        boot = ""
    return digests.digest(os.uname().nodename, boot, str(folder.absolute()))[:16]


def spent_by_dead_processes(ledger: Ledger, folder: Path) -> dict[str, Amount]:
    """Return the amounts spent by holders that died on this machine, calls in flight in full."""
    found = {}
    here = machine(folder)
    for holder, held in ledger.slices.items():
        if held.machine != here:
            continue
        with contextlib.suppress(OSError, struct.error), left_behind(folder / holder) as file:
            if file is not None:
                settled, tokens, reserved, reserved_tokens = _COUNTS.unpack(os.pread(file, _COUNTS.size, 0))
                found[holder] = Amount(settled + reserved, tokens + reserved_tokens)
    return found


def reconcile(book: LedgerStore, folder: Path) -> Ledger:
    """Close the accounts of processes that died on this machine. Blocks."""
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
