"""What all work of one process shares, in one place: bounded caches of immutable things, threads and a lock.

It is the process's, not a worker's or a run's: batches of all runs meet in it, on purpose. Nothing in it changes what
is written; without it everything would be read again, more slowly. Elsewhere process-wide are only pure memos
(`lru_cache`), settings (`pipeline.settings`), and what belongs to a library: Temporal's runtime, LangChain's cache hook
(`stages.models.own_models`), the HTTP session of an event loop (`stages.models.wires.transport`).
"""

import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.recent_cache import Recent

_MB = 1024 * 1024


def _table_bytes(table: Any) -> int:
    return int(table.nbytes)


def _footer_bytes(metadata: Any) -> int:
    return int(metadata.serialized_size)


@dataclass(frozen=True)
class ProcessState:
    """`row_groups` and `footers`: of Parquet sources, read a moment ago. The batches of a partition are smaller than
    its row groups, run at the same time, and would each read the group anew; those at work are at most some tens.

    `snapshots`: inputs by sink and key. `journal_writers`: threads of the journal's own, as a user's synchronous nodes
    may hold every thread of the default pool while they wait for a flush. `table_transactions`: held by who commits to
    a Delta or Iceberg table, as transactions of one process would only overtake each other.
    """

    row_groups: Recent[pa.Table] = field(default_factory=lambda: Recent(48 * _MB, _table_bytes, most=24))
    footers: Recent[pq.FileMetaData] = field(default_factory=lambda: Recent(16 * _MB, _footer_bytes, most=1_000))
    snapshots: Recent[Any] = field(default_factory=lambda: Recent(8, lambda snapshot: 1, most=8))
    journal_writers: ThreadPoolExecutor = field(
        default_factory=lambda: ThreadPoolExecutor(max_workers=8, thread_name_prefix="tandem-journal")
    )
    table_transactions: threading.Lock = field(default_factory=threading.Lock)

    def forget(self) -> None:
        """Empty the caches."""
        for cache in (self.row_groups, self.footers, self.snapshots):
            cache.clear()


STATE = ProcessState()
