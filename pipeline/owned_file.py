"""Files that their owner keeps locked while it lives, and that other processes read after its death.

The kernel releases the lock at any end of the owner, also by SIGKILL, so a lock that can be taken means a dead owner:
no process id is compared and no clock is read.
"""

import contextlib
import fcntl
import os
from collections.abc import Iterator
from pathlib import Path


def lock(descriptor: int, kind: int = fcntl.LOCK_EX) -> bool:
    """Lock a file. Return False if another holds the lock. Raises OSError if the file system has no locks."""
    try:
        fcntl.flock(descriptor, kind | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def own(path: Path, flags: int = 0, mode: int = 0o600) -> int:
    """Open a file for reading and writing, create it if absent, and lock it until it is closed or the process ends.
    Return the descriptor. Raises OSError; BlockingIOError while another owner lives."""
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | flags, mode)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(descriptor)
        raise
    return descriptor


@contextlib.contextmanager
def left_behind(path: Path) -> Iterator[int | None]:
    """Yield the descriptor of a dead owner's file, locked while it is read; None if there is none or its owner
    lives."""
    with _opened(path, os.O_RDWR) as descriptor:
        yield descriptor if descriptor is not None and lock(descriptor) and _is_at(path, descriptor) else None


def _is_at(path: Path, descriptor: int) -> bool:
    """True if the path still leads to the open file: a living owner may have put another one there meanwhile."""
    try:
        return os.path.samestat(os.stat(path), os.fstat(descriptor))
    except OSError:
        return False


def is_owned(path: Path) -> bool:
    """True if an owner lives."""
    with _opened(path, os.O_RDONLY) as descriptor:
        return descriptor is not None and not lock(descriptor, fcntl.LOCK_SH)


def is_shared(path: Path) -> bool:
    """True if a process holds a shared lock, not an exclusive one. Where none holds any, it is taken for a moment."""
    with _opened(path, os.O_RDONLY) as descriptor:
        return descriptor is not None and not lock(descriptor) and lock(descriptor, fcntl.LOCK_SH)


@contextlib.contextmanager
def _opened(path: Path, flags: int) -> Iterator[int | None]:
    """Yield a descriptor of a file that is there, None for one that cannot be opened."""
    try:
        descriptor = os.open(path, flags)
    except OSError:
        yield None
        return
    try:
        yield descriptor
    finally:
        os.close(descriptor)
