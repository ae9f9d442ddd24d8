"""The memory that a child may hold before another process replaces it."""

from dataclasses import dataclass

from pipeline.processes.cgroup import resident_bytes

_ROOM = 64_000_000  # bytes that a child may always take: a replacement would need what it held before, too


@dataclass
class MemoryLimit:
    """A limit in bytes: that of the runs that set one (the smallest), else `share`, this child's share of the
    container's; 0: none. What the child held before its first batch, and some room, is always allowed: it would be
    replaced again and again otherwise."""

    share: int = 0
    _of_runs: int | None = None
    _least: int = 0

    def begin(self, limit: int | None) -> None:
        """Note that a batch begins, of a run with this limit."""
        if limit is not None:
            self._of_runs = limit if self._of_runs is None else min(self._of_runs, limit)
        self._least = self._least or resident_bytes() + _ROOM

    @property
    def bytes(self) -> int:
        limit = self._of_runs or self.share
        return max(limit, self._least) if limit else 0

    def excess(self) -> str:
        """Return a sentence if the child holds more than it may, else ""."""
        limit = self.bytes
        held = resident_bytes() if limit else 0
        return f"it holds {held / 1e6:,.0f} MB of {limit / 1e6:,.0f} MB" if held > limit else ""
