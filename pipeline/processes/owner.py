"""Owner of work: a name that Temporal keeps with each activity, and a lock that the kernel frees when its owner dies.

So a command that resumes the work sees at once, on the same machine, that a worker is dead: it need not wait for
heartbeats.
"""

import contextlib
import os
import re
import socket
import time
import uuid
from pathlib import Path
from typing import Self

from pipeline.owned_file import is_owned, own
from pipeline.settings import current

_IDENTITY = re.compile(r"^\d+@(?P<host>.*)/(?P<owner>[0-9a-f]{32})$")
_KEPT_S = 86_400.0  # longer than any heartbeat is waited for


class Owner:
    """A command that works, for as long as it lives."""

    def __init__(self, name: str, lock: int | None) -> None:
        self.name = name
        self._lock = lock

    @classmethod
    def new(cls) -> Self:
        """Make an owner. If the folder of spools cannot be written, it has no lock: its death is not detected."""
        folder, name = _folder(), uuid.uuid4().hex
        try:
            folder.mkdir(parents=True, exist_ok=True)
            _forget_old(folder)
            lock = own(folder / name)
        except OSError:
            return cls(name, None)
        return cls(name, lock)

    def release(self) -> None:
        """Release the lock: others may resume the work."""
        if self._lock is not None:
            os.close(self._lock)


def identity_of(owner: str) -> str:
    """Return the name in Temporal of this process of an owner."""
    return f"{os.getpid()}@{socket.gethostname()}/{owner}"


def is_dead(identity: str) -> bool:
    """True if this is certainly a process whose owner has died on this machine; False if unknown."""
    found = _IDENTITY.match(identity)
    if found is None or found["host"] != socket.gethostname():
        return False
    path = _folder() / found["owner"]
    return path.exists() and not is_owned(path)


def _folder() -> Path:
    return current().spool_folder / "owners"


def _forget_old(folder: Path) -> None:
    for path in folder.iterdir():
        with contextlib.suppress(OSError):
            if time.time() - path.stat().st_mtime > _KEPT_S and not is_owned(path):
                path.unlink()
