"""The datasets that the page shows, what it has read of them a moment ago, and the Temporal behind them."""

import asyncio
import contextlib
import threading
import time
import uuid
from collections import OrderedDict
from collections.abc import Callable, Hashable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from pipeline.client import known_pipelines
from pipeline.client.connection import Connection, connected_if_running
from pipeline.review.claims import Claims
from pipeline.sinks.schema import Dataset
from pipeline.stores import Store, open_store
from pipeline.stores.documents import read_document
from pipeline.web.access import Access
from schemas import ids
from schemas.errors import ConnectionFailed, ObjectMissing, UsageError

FRESH_S = 5.0  # what is shown is at most so old, and the time that reading takes
_NOTES = 100
_CONNECT_S = 3.0
T = TypeVar("T")


class NoSuchDataset(UsageError):
    """The address of a dataset that is not shown."""


@dataclass(frozen=True)
class Shown:
    """A dataset that is shown. `slug` is its name in addresses; `spec` its file, where it is known; `base` the folder
    whose Temporal its runs use."""

    slug: str
    pipeline: str
    store: Store
    base: Path
    spec: Path | None = None


class Recently:
    """What was read within the last seconds, by key; each is read by one thread at a time."""

    def __init__(self, seconds: float = FRESH_S, most: int = 200) -> None:
        self._seconds, self._most = seconds, most
        self._held: OrderedDict[Hashable, tuple[float, Any]] = OrderedDict()
        self._reading: dict[Hashable, threading.Lock] = {}
        self._lock = threading.Lock()

    def get(self, key: Hashable, read: Callable[[], T]) -> T:
        with self._lock:
            lock = self._reading.setdefault(key, threading.Lock())
        with lock:
            with self._lock:
                at, value = self._held.get(key, (0.0, None))
            if time.monotonic() - at > self._seconds or at == 0.0:
                value = read()
                with self._lock:
                    self._held[key] = (time.monotonic(), value)
                    self._held.move_to_end(key)
                    while len(self._held) > self._most:
                        dropped, _ = self._held.popitem(last=False)
                        self._reading.pop(dropped, None)
            found: T = value
            return found

    def forget(self) -> None:
        """Read everything again: something was changed from here."""
        with self._lock:
            self._held.clear()


@dataclass
class Site:
    """One page: its datasets (`sinks`, or those known in `folder`), its access, and what it remembers meanwhile."""

    folder: Path
    access: Access
    sinks: tuple[str, ...] = ()
    recently: Recently = field(default_factory=Recently)
    claims: Claims = field(default_factory=Claims)
    _stores: dict[str, Store] = field(default_factory=dict)
    _notes: OrderedDict[str, str] = field(default_factory=OrderedDict)
    _connections: dict[Path, tuple[float, Connection | None]] = field(default_factory=dict)
    _open: contextlib.AsyncExitStack = field(default_factory=contextlib.AsyncExitStack)

    # Datasets

    def datasets(self) -> dict[str, Shown]:
        """Return the datasets by slug. Raises UsageError for a sink that is none, StoreError."""
        return self.recently.get("datasets", self._find)

    def dataset(self, slug: str) -> Shown:
        found = self.datasets().get(slug)
        if found is None:
            raise NoSuchDataset(f"There is no dataset {slug!r} here.", hint="See the list of datasets.")
        return found

    def _find(self) -> dict[str, Shown]:
        found: dict[str, Shown] = {}
        known = known_pipelines.pipelines(self.folder)
        if self.sinks:
            by_uri = {one.sink: one for one in known}
            for sink in self.sinks:
                store = self._store(sink)
                pipeline = pipeline_of(store)
                spec = by_uri[store.uri].spec if store.uri in by_uri else ""
                self._add(found, pipeline, store, spec)
            return found
        for one in known:
            self._add(found, one.pipeline, self._store(one.sink), one.spec)
        return found

    def _add(self, found: dict[str, Shown], pipeline: str, store: Store, spec: str) -> None:
        slug = pipeline if pipeline not in found else f"{pipeline}-{ids.sink_digest(store.uri)}"
        path = Path(spec) if spec and Path(spec).exists() else None
        found[slug] = Shown(slug, pipeline, store, path.parent if path is not None else self.folder, path)

    def _store(self, uri: str) -> Store:
        if uri not in self._stores:
            self._stores[uri] = open_store(uri)
        return self._stores[uri]

    # Messages that the next page shows once

    def note(self, text: str) -> str:
        """Keep a message for the next page. Returns its name, for the address."""
        name = uuid.uuid4().hex[:12]
        self._notes[name] = text
        while len(self._notes) > _NOTES:
            self._notes.popitem(last=False)
        return name

    def noted(self, name: str) -> str:
        return self._notes.pop(name, "")

    # Temporal

    async def connection(self, base: Path) -> Connection | None:
        """Return the Temporal of a folder, if it can be reached; starts none."""
        at, found = self._connections.get(base, (0.0, None))
        if found is not None and await _answers(found):
            return found
        if found is None and at and time.monotonic() - at < FRESH_S:
            return None
        try:
            async with asyncio.timeout(_CONNECT_S):
                found = await self._open.enter_async_context(connected_if_running(base))
        except (ConnectionFailed, TimeoutError):
            found = None
        self._connections[base] = (time.monotonic(), found)
        return found

    async def close(self) -> None:
        await self._open.aclose()


async def _answers(connection: Connection) -> bool:
    try:
        async with asyncio.timeout(_CONNECT_S):
            return await connection.client.service_client.check_health()
    except Exception:  # noqa: BLE001  whatever it says, it is not healthy
        return False


def pipeline_of(store: Store) -> str:
    """Return the pipeline that a sink belongs to. Raises UsageError if it is no sink."""
    try:
        return read_document(store, ids.DATASET, Dataset).pipeline
    except ObjectMissing:
        raise UsageError(
            f"{store.uri} is no sink: nothing was published there.", hint="Name the path under `sink:` of a spec."
        ) from None
