"""The shared state of one process: bounded caches of immutable values, threads and a lock.

It belongs to the process, not to a worker or a run: batches of all runs share it, on purpose. It changes nothing that
is written; without it everything would be read again, more slowly. Other process-wide state is only pure caches
(`lru_cache`), settings (`pipeline.settings`), and what belongs to a library: Temporal's runtime, LangChain's cache hook
(`stages.models.own_models`), the HTTP session of an event loop (`stages.models.wires.http`).
"""

import threading
import uuid
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


def _filter_bytes(file: Any) -> int:
    return int(file.filters.bytes)


@dataclass(frozen=True)
class ProcessState:
    """`row_groups` and `footers`: of Parquet sources, read recently. The batches of a partition are smaller than its
    row groups, run at the same time, and would each read the group again; at most some tens run at once.

    `answer_files`: opened files of answer indexes, whose filters say which keys they surely have not. `calls`: those
    of journals in which single calls were looked up, in local files.

    `snapshots`: inputs by sink and key. `journal_writers`: own threads of the journal, as a user's synchronous nodes
    may hold every thread of the default pool while they wait for a flush. `table_transactions`: held during a commit
    to a Delta or Iceberg table, as transactions of one process would only conflict with each other.
    """

    row_groups: Recent[pa.Table] = field(default_factory=lambda: Recent(48 * _MB, _table_bytes, most=24))
    footers: Recent[pq.FileMetaData] = field(default_factory=lambda: Recent(16 * _MB, _footer_bytes, most=1_000))
    snapshots: Recent[Any] = field(default_factory=lambda: Recent(8, lambda snapshot: 1, most=8))
    answer_files: Recent[Any] = field(default_factory=lambda: Recent(96 * _MB, _filter_bytes, most=500))
    calls: Recent[Any] = field(default_factory=lambda: Recent(16, lambda calls: 1, most=16))
    journal_writers: ThreadPoolExecutor = field(
        default_factory=lambda: ThreadPoolExecutor(max_workers=8, thread_name_prefix="tandem-journal")
    )
    table_transactions: threading.Lock = field(default_factory=threading.Lock)

    def forget(self) -> None:
        """Empty the caches."""
        for cache in (self.row_groups, self.footers, self.snapshots, self.answer_files, self.calls):
            cache.clear()


STATE = ProcessState()


@dataclass
class Command:
    """The command that a process works for, with its other processes: rows that are equal share their answers there
    while they are at work. A process of its own until its supervisor names one."""

    name: str = field(default_factory=lambda: uuid.uuid4().hex[:16])


COMMAND = Command()
