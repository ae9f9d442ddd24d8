"""Names of markers: small files beside data files, which their writer puts there once a data file is complete.

    done: "*.ok"        a.csv waits for a.csv.ok or a.ok; a.csv.gz for one of these, or a.csv.gz.ok
    done: _SUCCESS      every file of a folder waits for the file of this name in it

Pure: from names alone.
"""

import re
from pathlib import PurePosixPath

COMPRESSED = {".gz": "gzip", ".zst": "zstd", ".bz2": "bz2"}


def marker_names(name: str, pattern: str) -> list[str]:
    """Return the names that the marker of a file may have, which are all in the file's folder. `*` stands for the
    file's name, with or without its ending."""
    names = [name]
    if PurePosixPath(name).suffix.lower() in COMPRESSED:
        names.append(PurePosixPath(name).stem)
    if PurePosixPath(names[-1]).suffix:
        names.append(PurePosixPath(names[-1]).stem)
    return list(dict.fromkeys(pattern.replace("*", stem) for stem in reversed(names)))


def is_marker(name: str, pattern: str | None) -> bool:
    """True for the name of a marker, which is never read as data."""
    if pattern is None:
        return False
    return re.fullmatch(".+".join(map(re.escape, pattern.split("*"))), name, re.S) is not None
