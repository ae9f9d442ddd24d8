"""Small objects of a source: each is read whole by one request, several side by side, some ahead of their use.

Opened as large ones are, an object takes seven requests, one after the other: looks at whether it is the one that was
listed, its beginning, its content.
"""

from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace

from pipeline.sources.listing import SourceFile, read_listed

_SMALL_BYTES = 256 * 1024
_THREADS, _AHEAD = 16, 64  # objects: at most 16 MB


def read_ahead(files: Sequence[SourceFile]) -> Iterator[SourceFile]:
    """Yield the files in order, small objects of S3 with their content. Raises InputChanged, StoreError."""
    waiting: deque[SourceFile | Future[SourceFile]] = deque()
    with ThreadPoolExecutor(_THREADS, thread_name_prefix="tandem-source") as threads:
        try:
            for file in files:
                waiting.append(threads.submit(_whole, file) if _is_small(file) else file)
                if len(waiting) > _AHEAD:
                    yield _file(waiting.popleft())
            while waiting:
                yield _file(waiting.popleft())
        finally:
            threads.shutdown(wait=False, cancel_futures=True)


def _is_small(file: SourceFile) -> bool:
    return file.uri.startswith("s3://") and 0 < file.size <= _SMALL_BYTES


def _whole(file: SourceFile) -> SourceFile:
    return replace(file, content=read_listed(file))


def _file(found: SourceFile | Future[SourceFile]) -> SourceFile:
    return found.result() if isinstance(found, Future) else found
