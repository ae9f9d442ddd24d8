"""A store in memory, for simulations: the same semantics, and faults at any call."""

import datetime as dt
import hashlib
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from pipeline.stores.base import ObjectInfo, Store, Upload, checked
from schemas.errors import ObjectExists, ObjectMissing

Fault = Callable[[str, str], None]


def _utc_now() -> dt.datetime:
    return dt.datetime.now(dt.UTC)


class MemoryStore(Store):
    """`fault(operation, key)` is called before each operation, and again with `<operation> done` after its effect; the
    caller gets its exceptions, so the second call can lose a reply."""

    def __init__(
        self, name: str = "store", *, fault: Fault | None = None, now: Callable[[], dt.datetime] = _utc_now
    ) -> None:
        self.uri = f"memory://{name}"
        self.fault: Fault = fault or (lambda operation, key: None)
        self._now = now
        self._objects: dict[str, tuple[bytes, dt.datetime]] = {}
        self._lock = threading.Lock()

    def put_new(self, key: str, data: bytes) -> None:
        self._put("put_new", checked(key), data, new=True)

    def put(self, key: str, data: bytes) -> None:
        self._put("put", checked(key), data, new=False)

    def upload(self, key: str, path: Path) -> None:
        self._put("upload", checked(key), path.read_bytes(), new=False)

    def _put(self, operation: str, key: str, data: bytes, *, new: bool) -> None:
        self.fault(operation, key)
        with self._lock:
            if new and key in self._objects:
                raise ObjectExists(f"{self.uri}/{key} exists.")
            self._objects[key] = (bytes(data), self._now())
        self.fault(f"{operation} done", key)

    def copy(self, source: str, target: str) -> None:
        self.fault("copy", checked(target))
        with self._lock:
            if source not in self._objects:
                raise ObjectMissing(f"{self.uri}/{source} does not exist.")
            self._objects.setdefault(target, (self._objects[source][0], self._now()))
        self.fault("copy done", target)

    def get(self, key: str) -> bytes:
        self.fault("get", key)
        with self._lock:
            found = self._objects.get(key)
        self.fault("get done", key)
        if found is None:
            raise ObjectMissing(f"{self.uri}/{key} does not exist.")
        return found[0]

    def get_range(self, key: str, start: int, length: int) -> bytes:
        return self.get(key)[start : start + length]

    def head(self, key: str) -> ObjectInfo | None:
        self.fault("head", key)
        with self._lock:
            found = self._objects.get(key)
        self.fault("head done", key)
        return _info(key, *found) if found else None

    def list(self, prefix: str = "", *, start_after: str = "") -> Iterator[ObjectInfo]:
        self.fault("list", prefix)
        with self._lock:
            found = sorted(
                (key, *held) for key, held in self._objects.items() if key.startswith(prefix) and key > start_after
            )
        self.fault("list done", prefix)
        yield from (_info(*held) for held in found)

    def folders(self, prefix: str) -> Sequence[str]:
        self.fault("folders", prefix)
        with self._lock:
            rests = [key.removeprefix(prefix) for key in self._objects if key.startswith(prefix)]
        self.fault("folders done", prefix)
        return sorted({rest.partition("/")[0] for rest in rests if "/" in rest})

    def delete(self, keys: Iterable[str]) -> None:
        for key in keys:
            self.fault("delete", key)
            with self._lock:
                self._objects.pop(key, None)
            self.fault("delete done", key)

    def open_input(self, key: str) -> Any:
        import pyarrow as pa

        return pa.BufferReader(self.get(key))

    def polars_path(self, key: str) -> tuple[str, dict[str, str] | None]:
        raise NotImplementedError("Polars cannot scan objects in memory")

    def arrow_path(self, key: str) -> tuple[Any, str]:
        raise NotImplementedError("Arrow cannot find objects in memory")

    def stale_uploads(self, older_than: dt.datetime) -> Sequence[Upload]:
        return []

    def abort_uploads(self, uploads: Iterable[Upload]) -> None:
        pass

    def close(self) -> None:
        pass


def _info(key: str, data: bytes, modified: dt.datetime) -> ObjectInfo:
    return ObjectInfo(key, len(data), hashlib.blake2b(data, digest_size=8).hexdigest(), modified)
