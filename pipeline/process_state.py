"""The shared state of one process: bounded caches of immutable values, threads and a lock.

It belongs to the process, not to a worker or a run: batches of all runs share it, on purpose. It changes nothing that
is written; without it everything would be read again, more slowly. Other process-wide state is only pure caches
(`lru_cache`), settings (`pipeline.settings`), and what belongs to a library: Temporal's runtime, LangChain's cache hook
(`stages.models.own_models`), the HTTP session of an event loop (`stages.models.wires.http`).
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
    """`row_groups` and `footers`: of Parquet sources, read recently. The batches of a partition are smaller than its
    row groups, run at the same time, and would each read the group again; at most some tens run at once.

    `snapshots`: inputs by sink and key. `journal_writers`: own threads of the journal, as a user's synchronous nodes
    may hold every thread of the default pool while they wait for a flush. `table_transactions`: held during a commit
    to a Delta or Iceberg table, as transactions of one process would only conflict with each other.
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
