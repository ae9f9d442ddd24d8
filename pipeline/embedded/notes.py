"""What processes on one disk tell each other: locks, which the kernel frees at any death, and small JSON notes."""

import fcntl
import json
import os
import time
from pathlib import Path


def lock(descriptor: int, kind: int) -> bool:
    """Whether the lock could be had at once."""
    try:
        fcntl.flock(descriptor, kind | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def take(path: Path, *, patience_s: float) -> int | None:
    """An exclusive lock; patience outlasts a reader's glance and a dying holder."""
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
    deadline = time.monotonic() + patience_s
    while not lock(descriptor, fcntl.LOCK_EX):
        if time.monotonic() > deadline:
            os.close(descriptor)
            return None
        time.sleep(0.02)
    return descriptor


def is_taken(path: Path) -> bool:
    """A glance: whether somebody holds the exclusive lock."""
    try:
        descriptor = os.open(path, os.O_RDONLY)
    except OSError:
        return False
    try:
        return not lock(descriptor, fcntl.LOCK_SH)
    finally:
        os.close(descriptor)


def read_json(path: Path) -> dict[str, object]:
    """A note of ours, or nothing: a torn or foreign file counts as absent."""
    try:
        found = json.loads(path.read_bytes())
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def write_json(path: Path, note: object) -> None:
    temporary = path.with_suffix(f".{os.getpid()}.tmp")
    temporary.write_text(json.dumps(note))
    temporary.replace(path)
