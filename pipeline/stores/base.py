"""The interface of a store. All calls block and may come from any thread; callers put them in threads."""

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
    """The rest of an interrupted write: an open multipart upload, or a temporary file (`upload_id` is empty)."""

    key: str
    upload_id: str
    started: dt.datetime


class Store(Protocol):
    """Objects by key. `uri` is absolute and has no trailing slash. `is_remote`: calls wait for a network, so that many
    should be under way at once."""

    uri: str
    is_remote: bool = False

    def put_new(self, key: str, data: bytes) -> None:
        """Create the object, in one attempt. Raises ObjectExists if the key exists; after any other StoreError it may
        have been written or not."""

    def put(self, key: str, data: bytes) -> None:
        """Create or overwrite, atomically."""

    def put_absent(self, key: str, data: bytes) -> bool:
        """Create an object whose key names its content. Returns False if it existed. Retries: an own write whose reply
        was lost may count as existing."""
        try:
            after_failure(lambda: self.put_new(key, data), on=is_passing, attempts=5)
        except ObjectExists:
            return False
        return True

    def upload(self, key: str, path: Path) -> None:
        """Create an object, whose key names its content, from a file of any size; nothing is done if one of the same
        size exists."""

    def copy(self, source: str, target: str) -> None:
        """Create an object from another one within the store; `target` names its content, so an existing one is left
        alone. Raises ObjectMissing without a source."""

    def get(self, key: str) -> bytes:
        """Return the object's bytes. Raises ObjectMissing."""
        ...

    def get_unchanged(self, key: str, etag: str) -> bytes | None:
        """Return the bytes of the object that has this etag; None if there is another one. Raises ObjectMissing."""
        data = self.get(key)
        found = self.head(key)
        return data if found is not None and found.etag == etag else None

    def get_range(self, key: str, start: int, length: int) -> bytes:
        """Return at most `length` bytes from `start`, which lies within the object."""
        ...

    def head(self, key: str) -> ObjectInfo | None: ...

    def list(self, prefix: str = "", *, start_after: str = "") -> Iterator[ObjectInfo]:
        """Yield objects whose key begins with `prefix` and sorts after `start_after`, sorted by key as UTF-8 bytes."""
        ...

    def keys(self, prefix: str = "") -> Iterator[str]:
        """Yield the keys of the objects that `list` yields."""
        return (info.key for info in self.list(prefix))

    def folders(self, prefix: str) -> Sequence[str]:
        """Return the names, sorted and without slash, of the folders right under `prefix` ("" or ending in "/").
        SeaweedFS may name one that was emptied."""
        ...

    def delete(self, keys: Iterable[str]) -> None:
        """Delete objects; absent ones are no error."""

    def open_input(self, key: str) -> Any:
        """Open a `pyarrow.NativeFile` for random reads."""

    def polars_path(self, key: str) -> tuple[str, dict[str, str] | None]:
        """Return path and `storage_options` for `pl.scan_parquet(…, glob=False)`."""
        ...

    def arrow_path(self, key: str) -> tuple[Any, str]:
        """Return a `pyarrow.fs.FileSystem` and the path of the object in it."""
        ...

    def stale_uploads(self, older_than: dt.datetime) -> Sequence[Upload]: ...

    def abort_uploads(self, uploads: Iterable[Upload]) -> None: ...

    def close(self) -> None: ...


def is_passing(exc: Exception) -> bool:
    """True for a failure that may pass with another attempt."""
    return isinstance(exc, StoreError) and exc.retryable


def checked(key: str) -> str:
    """Return the key, if every store can hold it unchanged. Raises ValueError for others: a bug of ours."""
    if not {"", ".", ".."}.isdisjoint(key.split("/")) or "\0" in key or len(key.encode()) > MAX_KEY_BYTES:
        raise ValueError(f"{key[:200]!r} is not a key")
    return key


def same_size(store: Store, key: str, size: int) -> None:
    """Accept an existing object instead of the uploaded one, if its size is equal. Raises StoreError."""
    found = store.head(key)
    if found is None or found.size != size:
        state = "is gone now" if found is None else f"has {found.size:,} bytes"
        raise StoreError(f"{store.uri}/{key} existed before its upload but {state}, not {size:,}.")
