"""A store whose objects of one folder stay in memory until they are put down.

For what one process writes, reads and removes again. Whoever else may have to read them puts them down first.
"""

import datetime as dt
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from pipeline.stores.base import ObjectInfo, Store, Upload, same_size
from pipeline.stores.memory import MemoryStore
from schemas.errors import ObjectExists


class HeldStore(Store):
    """The store `below`, but for small objects under `folder`; uploaded files go below at once. `first`: nobody can
    have written to the folder before, so it need not be listed."""

    def __init__(self, below: Store, folder: str, *, first: bool) -> None:
        self.uri = below.uri
        self.below = below
        self.folder = folder
        self._first = first
        self._held = MemoryStore(below.uri)

    def put_down(self) -> None:
        """Write what is held to the store below, where from now on all goes. Raises StoreError."""
        for key in list(self._held.keys()):
            self.below.put_absent(key, self._held.get(key))
            self._held.delete([key])
        self.folder = "\0"  # no key begins with it

    def put_new(self, key: str, data: bytes) -> None:
        if self._has(key):
            raise ObjectExists(f"{self.uri}/{key} exists.")
        self._place(key).put_new(key, data)

    def put(self, key: str, data: bytes) -> None:
        self._place(key).put(key, data)

    def upload(self, key: str, path: Path) -> None:
        if self._has(key):
            return same_size(self, key, path.stat().st_size)
        self._first = self._first and not key.startswith(self.folder)
        return self.below.upload(key, path)

    def copy(self, source: str, target: str) -> None:
        if self._has(source):
            self.put_absent(target, self._held.get(source))
        else:
            self.below.copy(source, target)

    def get(self, key: str) -> bytes:
        return self._holder(key).get(key)

    def get_range(self, key: str, start: int, length: int) -> bytes:
        return self._holder(key).get_range(key, start, length)

    def head(self, key: str) -> ObjectInfo | None:
        return self._holder(key).head(key)

    def list(self, prefix: str = "", *, start_after: str = "") -> Iterator[ObjectInfo]:
        held = list(self._held.list(prefix, start_after=start_after))
        if self._first and prefix.startswith(self.folder):
            return iter(held)
        below = self.below.list(prefix, start_after=start_after)
        return iter(sorted((*held, *below), key=lambda info: info.key.encode())) if held else below

    def folders(self, prefix: str) -> Sequence[str]:
        return sorted({*self._held.folders(prefix), *self.below.folders(prefix)})

    def delete(self, keys: Iterable[str]) -> None:
        keys = list(keys)
        self._held.delete(held := [key for key in keys if self._has(key)])
        if left := [key for key in keys if key not in held]:
            self.below.delete(left)

    def open_input(self, key: str) -> Any:
        return self._holder(key).open_input(key)

    def polars_path(self, key: str) -> tuple[str, dict[str, str] | None]:
        return self._holder(key).polars_path(key)

    def arrow_path(self, key: str) -> tuple[Any, str]:
        return self._holder(key).arrow_path(key)

    def stale_uploads(self, older_than: dt.datetime) -> Sequence[Upload]:
        return self.below.stale_uploads(older_than)

    def abort_uploads(self, uploads: Iterable[Upload]) -> None:
        self.below.abort_uploads(uploads)

    def close(self) -> None:
        self.below.close()

    def _has(self, key: str) -> bool:
        return key.startswith(self.folder) and self._held.head(key) is not None

    def _place(self, key: str) -> Store:
        return self._held if key.startswith(self.folder) else self.below

    def _holder(self, key: str) -> Store:
        return self._held if self._has(key) else self.below
