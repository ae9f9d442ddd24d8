"""Communication between processes on one disk: files that one of them owns, and small JSON notes."""

import json
import os
import time
from pathlib import Path

from pipeline.owned_file import own


def take(path: Path, *, patience_s: float) -> int | None:
    """Own a file; None while another process does. The patience covers a reader's short lock and a dying owner."""
    deadline = time.monotonic() + patience_s
    while True:
        try:
            return own(path, mode=0o644)
        except BlockingIOError:
            if time.monotonic() > deadline:
                return None
        time.sleep(0.02)


def read_json(path: Path) -> dict[str, object]:
    """Read a note; empty for an absent, incomplete or foreign file."""
    try:
        note = json.loads(path.read_bytes())
    except (OSError, ValueError):
        return {}
    return note if isinstance(note, dict) else {}


def write_json(path: Path, note: object) -> None:
    temporary = path.with_suffix(f".{os.getpid()}.tmp")
    temporary.write_text(json.dumps(note))
    temporary.replace(path)
