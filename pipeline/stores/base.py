"""What a store promises. All calls block and may come from any thread; callers put them in threads."""

import datetime as dt
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from pipeline.retry_policy import after_failure
from schemas.errors import ObjectExists, StoreError

MAX_KEY_BYTES = 1024


@dataclass(frozen=True, slots=True)
class ObjectInfo:
    """One object as listed. `etag` changes when the content does."""

    key: str
    size: int
    etag: str
    modified: dt.datetime


@dataclass(frozen=True, slots=True)
class Upload:
    """What an interrupted write left behind: an open multipart upload, or a temporary file (`upload_id` is empty)."""

    key: str
    upload_id: str
    started: dt.datetime


class Store(Protocol):
    """Objects by key. `uri` is absolute and has no trailing slash."""

    uri: str

    def put_new(self, key: str, data: bytes) -> None:
        """Create the object, in one attempt. ObjectExists when the key is taken; after any other StoreError it may
        have been written or not."""

    def put(self, key: str, data: bytes) -> None:
        """Create or overwrite, atomically."""

    def put_absent(self, key: str, data: bytes) -> bool:
        """Create an object whose key names its content. False if it was there. Tries again: here an own write whose
        reply was lost may well count as "was there"."""
        try:
            after_failure(lambda: self.put_new(key, data), on=is_passing, attempts=5)
        except ObjectExists:
            return False
        return True

    def upload(self, key: str, path: Path) -> None:
        """Create an object, whose key names its content, from a file of any size; done already if one of the same size
        is there."""

    def copy(self, source: str, target: str) -> None:
        """Create an object from another one without its bytes passing through here; `target` names its content, so one
        that is there is left alone. ObjectMissing without a source."""

    def get(self, key: str) -> bytes:
        """ObjectMissing if there is none."""
        ...

    def get_range(self, key: str, start: int, length: int) -> bytes:
        """At most `length` bytes from `start`, which lies within the object."""
        ...

    def head(self, key: str) -> ObjectInfo | None: ...

    def list(self, prefix: str = "", *, start_after: str = "") -> Iterator[ObjectInfo]:
        """Objects whose key begins with `prefix` and sorts after `start_after`, sorted by key as UTF-8 bytes."""
        ...

    def folders(self, prefix: str) -> Sequence[str]:
        """Names, sorted and without slash, of the folders right under `prefix` ("" or ending in "/"). SeaweedFS may
        name one that was emptied."""
        ...

    def delete(self, keys: Iterable[str]) -> None:
        """Absent ones are no error."""

    def open_input(self, key: str) -> Any:
        """A `pyarrow.NativeFile` for random reads."""

    def polars_path(self, key: str) -> tuple[str, dict[str, str] | None]:
        """Path and `storage_options` for `pl.scan_parquet(…, glob=False)`."""
        ...

    def arrow_path(self, key: str) -> tuple[Any, str]:
        """A `pyarrow.fs.FileSystem` and the path of the object in it."""
        ...

    def stale_uploads(self, older_than: dt.datetime) -> Sequence[Upload]: ...

    def abort_uploads(self, uploads: Iterable[Upload]) -> None: ...

    def close(self) -> None: ...


def is_passing(exc: Exception) -> bool:
    """A store's failure that another attempt may not meet."""
    return isinstance(exc, StoreError) and exc.retryable


def checked(key: str) -> str:
    """The key, if every store can hold it and none would read it as another one. Anything else is a bug of ours."""
    if not {"", ".", ".."}.isdisjoint(key.split("/")) or "\0" in key or len(key.encode()) > MAX_KEY_BYTES:
        raise ValueError(f"{key[:200]!r} is not a key")
    return key


def same_size(store: Store, key: str, size: int) -> None:
    """Accept an object that is already there in place of the one being uploaded."""
    found = store.head(key)
    if found is None or found.size != size:
        there = "is gone again" if found is None else f"has {found.size:,} bytes"
        raise StoreError(f"{store.uri}/{key} was there before its upload but {there}, not {size:,}.")
