"""The memory that a child may hold before another process replaces it."""

from dataclasses import dataclass

from pipeline.processes.cgroup import resident_bytes

_UNLIMITED = 1 << 60
_ROOM = 64_000_000  # bytes that a child may always take: a replacement would need what it held before, too


@dataclass
class MemoryLimit:
    """A limit in bytes: that of the runs that set one (the smallest), else `share`, this child's share of the
    container's; 0: none. What the child held before its first batch, and some room, is always allowed, and a child
    without `progress`, which has ended no row yet, is not replaced: others would get no further."""

    share: int = 0
    progress: bool = False
    _of_runs: int | None = None
    _before: int = 0  # held before the first batch

    def begin(self, limit: int | None) -> None:
        """Note that a batch begins, of a run with this limit."""
        if limit is not None:
            self._of_runs = limit if self._of_runs is None else min(self._of_runs, limit)
        self._before = self._before or resident_bytes()

    @property
    def bytes(self) -> int:
        limit = self._of_runs or self.share
        return max(limit, self._before + _ROOM) if limit else 0

    @property
    def room(self) -> int:
        """The bytes for batches and rows."""
        return self.bytes - self._before if self.bytes else _UNLIMITED

    def excess(self) -> str:
        """Return a sentence if the child holds more than it may, else ""."""
        limit = self.bytes if self.progress else 0
        held = resident_bytes() if limit else 0
        return f"it holds {held / 1e6:,.0f} MB of {limit / 1e6:,.0f} MB" if held > limit else ""
