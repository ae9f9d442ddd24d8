"""A temporary folder on local disk that is made when it is first used: what fits into memory leaves the disk alone.

A file system takes the longer to make a file the more were removed in the last seconds, as it looks for a free inode.
"""

import tempfile
from functools import cached_property
from pathlib import Path
from typing import Self


class ScratchFolder:
    """A folder within a `with` block, removed at its end."""

    _made: "tempfile.TemporaryDirectory[str] | None" = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self._made is not None:
            self._made.cleanup()

    @cached_property
    def path(self) -> Path:
        self._made = tempfile.TemporaryDirectory(prefix="tandem-")
        return Path(self._made.name)

    def __truediv__(self, name: str) -> Path:
        return self.path / name


Folder = Path | ScratchFolder  # of which names are made by `/`
