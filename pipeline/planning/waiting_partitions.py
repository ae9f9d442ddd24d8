"""Partitions that wait because a file of the source does (`source.settle`, `source.done`).

A file that is left out must not take published rows away. With `by: files` and `by: hive` the path says which partition
waits. With `by: time` and `by: column` those wait whose published generation knew the file, and may hold rows of it.
Blocks of rows and groups of files are cut by position, so there all wait.
"""

from functools import cached_property, lru_cache

from pipeline.planning.job import Job
from pipeline.runs.plan_pages import latest_plan
from pipeline.sources.readiness import named
from pipeline.sources.snapshot import SnapshotInfo
from pipeline.stores import Store
from pipeline.stores.documents import read_document
from schemas.errors import Damaged, ObjectMissing
from schemas.manifest import Manifest


class WaitingPartitions:
    """Finds what a partition waits for."""

    def __init__(self, job: Job, store: Store) -> None:
        self._store = store
        self._by = job.spec.partition.by
        self._files = job.snapshot.waiting
        self._sources_of = lru_cache(maxsize=1_000)(self._read_sources)

    @cached_property
    def own(self) -> dict[str, str]:
        """The partitions that files which wait make, each with the reason."""
        return {file.partition: str(file) for file in self._files if file.partition}

    def reason(self, partition: str, current: Manifest | None) -> str | None:
        """Return why a partition waits; None if it doesn't. `current` is its published generation."""
        if partition in self.own or not self._files:
            return self.own.get(partition)
        if self.own:
            return None
        if self._by in ("rows", "files"):
            return named(self._files)
        if current is None or not current.present:
            return None
        sources = self._sources_of(current.run)
        held = [file for file in self._files if sources is None or file.relative in sources]
        return f"{named(held)}; it may hold rows of this partition" if held else None

    def _read_sources(self, run: str) -> frozenset[str] | None:
        """Return the source's files as a run knew them; None if that is not known any more."""
        try:
            plan = latest_plan(self._store, run)
            found = read_document(self._store, plan.snapshot, SnapshotInfo).sources if plan is not None else None
        except (ObjectMissing, Damaged):
            return None
        return frozenset(found) if found is not None else None
