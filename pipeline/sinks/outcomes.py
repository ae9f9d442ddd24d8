"""Outcomes of partitions in a run: an object each while the run lasts, pages of many once it has completed.

<sink>/_tandem/runs/<run>/outcomes/<partition>.json    the last outcome of a partition
<sink>/_tandem/runs/<run>/ended/<number>.zst           outcomes with their times; an object of its own is newer
"""

import datetime as dt
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import orjson

from pipeline.progress_note import Note, unnoted
from pipeline.stores import Store
from pipeline.stores.base import ObjectInfo
from pipeline.stores.documents import read_document
from schemas import ids
from schemas.compressed_lines import compress, decompress
from schemas.errors import Damaged, ObjectMissing
from schemas.messages.partition import PartitionResult

_PAGE = 5_000
_THREADS = 16


@dataclass(frozen=True)
class Ended:
    """A partition's last outcome in a run, and its time."""

    result: PartitionResult
    at: dt.datetime


def write_outcome(store: Store, run: str, result: PartitionResult) -> None:
    store.put(ids.outcome(run, result.partition), result.model_dump_json().encode())


def load_outcome(store: Store, run: str, partition: str) -> PartitionResult | None:
    """Load the last outcome of a partition in a run."""
    try:
        return read_document(store, ids.outcome(run, partition), PartitionResult)
    except (ObjectMissing, Damaged):
        every = (one.result for _, page in _pages(store, run) for one in page)
        return next((result for result in every if result.partition == partition), None)


def outcomes(store: Store, run: str) -> Iterator[PartitionResult]:
    """Yield the last outcome of each partition of a run. Raises StoreError."""
    return (one.result for one in ended(store, run))


def ended(store: Store, run: str, since: dt.datetime | None = None, *, note: Note = unnoted) -> Iterator[Ended]:
    """Yield the last outcome of each partition of a run, those `since` a time. A damaged one is left out, as if the
    partition had not ended: the commits have the published state. Raises StoreError."""
    own = set()  # partitions with an object of their own
    for info, one in _read(store, list(store.list(ids.outcomes(run))), since, note):
        if one is not _GONE:
            own.add(ids.parse_outcome(info.key))
        if isinstance(one, Ended):
            yield one
    for _, page in _pages(store, run):
        for one in page:
            if one.result.partition not in own and (since is None or one.at >= since):
                yield one
            own.add(one.result.partition)


def gather(store: Store, run: str) -> None:
    """Put the outcomes of a completed run together into pages: readers get them with few requests. Repeatable, and
    nothing is lost if it is interrupted, or if another process does it at the same time: the slower one stops. Raises
    StoreError."""
    listed = list(store.list(ids.outcomes(run)))
    number = 1 + max((ids.parse_ended_page(info.key) for info in store.list(ids.ended_pages(run))), default=-1)
    for start in range(0, len(listed), _PAGE):
        read = _read(store, listed[start : start + _PAGE])
        found = [(info, one) for info, one in read if isinstance(one, Ended)]
        if not found:
            continue
        if not store.put_absent(ids.ended_page(run, number), _encoded(one for _, one in found)):
            return
        store.delete([info.key for info, _ in found])
        number += 1


def amend(
    store: Store, run: str, partitions: Collection[str], change: Callable[[PartitionResult], PartitionResult]
) -> bool:
    """Change the outcomes of some partitions where they are stored, their times aside. Returns True if any is another
    one now. Raises StoreError."""
    amended = False
    for partition in partitions:
        try:
            own = read_document(store, ids.outcome(run, partition), PartitionResult)
        except (ObjectMissing, Damaged):
            continue
        if (changed := change(own)) != own:
            write_outcome(store, run, changed)
            amended = True
    for key, page in _pages(store, run):
        new = [Ended(change(one.result), one.at) if one.result.partition in partitions else one for one in page]
        if new != page:
            store.put(key, _encoded(new))
            amended = True
    return amended


_GONE, _DAMAGED = object(), object()


def _read(
    store: Store, listed: Sequence[ObjectInfo], since: dt.datetime | None = None, note: Note = unnoted
) -> Iterator[tuple[ObjectInfo, object]]:
    """Yield each object with its outcome, or what is wrong with it; None for one before `since`."""

    def read(info: ObjectInfo) -> object:
        if since is not None and info.modified < since:
            return None
        try:
            return Ended(read_document(store, info.key, PartitionResult), info.modified)
        except ObjectMissing:
            return _GONE
        except Damaged:
            return _DAMAGED
        finally:
            note(0)

    if len(listed) < 2:
        yield from zip(listed, map(read, listed), strict=True)
        return
    with ThreadPoolExecutor(_THREADS, thread_name_prefix="tandem-outcomes") as threads:
        yield from zip(listed, threads.map(read, listed), strict=True)


def _pages(store: Store, run: str) -> Iterator[tuple[str, list[Ended]]]:
    """Yield the pages, the newest first, each with its key."""
    for key in sorted((info.key for info in store.list(ids.ended_pages(run))), reverse=True):
        try:
            lines = map(orjson.loads, decompress(store.get(key), "the page of outcomes"))
            page = [
                Ended(PartitionResult.model_validate(line["result"]), dt.datetime.fromisoformat(line["at"]))
                for line in lines
            ]
        except (ObjectMissing, ValueError, KeyError):
            continue  # as a damaged outcome
        yield key, page


def _encoded(page: Iterable[Ended]) -> bytes:
    return compress(orjson.dumps({"at": one.at, "result": one.result.model_dump(mode="json")}) for one in page)
