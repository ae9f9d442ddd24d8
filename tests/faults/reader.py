"""A reader of a dataset that polls its manifests while others write, as a process of its own.

It reads what every reader can read: the highest commit of each partition and the files that it names. Bytes are
verified once for each file; that the file is there, with each poll. A store that is away is no news to it.
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import io
import json
import os
import signal
import sys
import time
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import asdict
from typing import Any

import pyarrow.parquet as pq

from pipeline.stores import Store, open_store
from schemas import ids
from schemas.errors import ObjectMissing, StoreError
from tests.faults.checker import Seen
from tests.harness.processes import Child

EVERY_S = 0.05


class Reader:
    """What it has seen so far; `poll` looks once."""

    def __init__(self, store: Store, key: str) -> None:
        self._store = store
        self._key = key
        self._verified: dict[str, list[Any]] = {}
        self._complete: set[tuple[str, int]] = set()
        self._manifests: dict[tuple[str, int], dict[str, Any]] = {}
        self.polls = 0
        self.partial: dict[str, None] = {}
        self.missing: dict[str, None] = {}
        self.duplicates: dict[str, None] = {}

    @property
    def seen(self) -> Seen:
        return Seen(self.polls, tuple(self.partial), tuple(self.missing), tuple(self.duplicates))

    def poll(self) -> None:
        try:
            for partition, generation in self._current().items():
                self._look(partition, generation)
        except (StoreError, OSError):
            return  # the store is away
        self.polls += 1

    def _current(self) -> dict[str, int]:
        found: dict[str, int] = {}
        for info in self._store.list(ids.COMMITS):
            partition, _, name = info.key.removeprefix(ids.COMMITS).rpartition("/")
            found[partition] = max(found.get(partition, 0), int(name.removesuffix(".json")))
        return found

    def _look(self, partition: str, generation: int) -> None:
        manifest = self._manifest(partition, generation)
        for file in manifest["files"]:
            if file["key"] not in self._verified:
                self._verify(file)
            elif self._store.head(file["key"]) is None:
                self.missing[f"{file['key']} of generation {generation} is gone"] = None
        if (partition, generation) in self._complete or not manifest["files"]:
            return
        self._complete.add((partition, generation))
        keys = Counter(key for file in manifest["files"] for key in self._verified.get(file["key"], ()))
        twice = [key for key, times in keys.items() if times > 1]
        if twice:
            self.duplicates[f"{partition}, generation {generation}: {twice[:5]}"] = None
        if keys.total() != manifest["counts"]["out"]:
            self.partial[
                f"{partition}, generation {generation}: {keys.total()} rows of {manifest['counts']['out']}"
            ] = None

    def _manifest(self, partition: str, generation: int) -> dict[str, Any]:
        """Commits never change, so each is read once."""
        name = (partition, generation)
        if name not in self._manifests:
            self._manifests[name] = json.loads(self._store.get(ids.commit(partition, generation)))
        return self._manifests[name]

    def _verify(self, file: Mapping[str, Any]) -> None:
        self._verified[file["key"]] = []
        try:
            data = self._store.get(file["key"])
        except ObjectMissing:
            self.missing[f"{file['key']} is not there"] = None
            return
        if hashlib.sha256(data).hexdigest() != file["sha256"] or len(data) != file["size"]:
            self.partial[f"{file['key']} has other bytes than its manifest says"] = None
            return
        self._verified[file["key"]] = pq.read_table(io.BytesIO(data), columns=[self._key])[self._key].to_pylist()


class Polling:
    """A reader at work in its own process."""

    def __init__(self, child: Child) -> None:
        self._child = child
        self.seen = Seen()

    @classmethod
    @contextlib.contextmanager
    def start(cls, sink: str, key: str, env: Mapping[str, str] | None = None) -> Iterator[Polling]:
        """`seen` is there once the block has ended."""
        child = Child([sys.executable, "-m", "tests.faults.reader", f"--sink={sink}", f"--key={key}"], env=env)
        polling = cls(child)
        try:
            child.ready_line()
            yield polling
            polling.stop()
        finally:
            child.stop()

    def stop(self) -> Seen:
        """Look a last time, and tell."""
        if self._child.alive:
            self._child.signal(signal.SIGTERM)
            said = self._child.ready_line()
            tuples = {name: tuple(said[name]) for name in ("partial", "missing", "duplicates")}
            self.seen = Seen(polls=said["polls"], **tuples)
            self._child.process.wait(10)
        return self.seen


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--sink", required=True)
    parser.add_argument("--key", required=True)
    options = parser.parse_args()
    reader = Reader(open_store(options.sink), options.key)
    asked: list[int] = []
    signal.signal(signal.SIGTERM, lambda number, frame: asked.append(number))
    print("{}", flush=True)
    while not asked:
        reader.poll()
        time.sleep(EVERY_S)
    reader.poll()
    print(json.dumps(asdict(reader.seen)), flush=True)
    os._exit(0)


if __name__ == "__main__":
    main()
