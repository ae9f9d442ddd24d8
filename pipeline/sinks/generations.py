"""Places of files: the current generation's in `data/` and `rejects/`, those of earlier generations in history.

A publication leaves a mark before it uploads anything, and settles the partition after its commit:

    mark → upload → commit → former files move to history → remove the mark

So `data/` read by glob is right again as soon as nothing is marked, and whatever a process that died left behind is
found by its mark. Settling touches only files of generations up to the one that was read as current, whose names
no process can commit any more; it may run anywhere, at any time, twice at once.
"""

import datetime as dt
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import orjson

from pipeline.sinks import commits
from pipeline.stores import ObjectInfo, Store
from schemas import ids
from schemas.errors import ObjectMissing, StoreRefused
from schemas.manifest import Manifest, named
from schemas.spec.sections import Sink


@dataclass(frozen=True)
class Retention:
    """The time that replaced files stay in `data/`, and the number of earlier generations that stay in history."""

    stay: dt.timedelta = dt.timedelta(0)
    generations: int = 1


@dataclass(frozen=True)
class Mark:
    """A partition that is not settled. `generation` is the one that was about to be published."""

    key: str
    partition: str
    generation: int
    run: str
    retention: Retention


def retention_of(sink: Sink) -> Retention:
    return Retention(sink.keep_superseded, sink.keep_generations)


# Marks -------------------------------------------------------------------------------------------------------------


def mark(store: Store, partition: str, generation: int, run: str, retention: Retention) -> None:
    """Mark the partition as not settled, before anything of this generation is uploaded."""
    content = {"run": run, "keep_s": retention.stay.total_seconds(), "generations": retention.generations}
    store.put(ids.unsettled(partition, generation), orjson.dumps(content))


def marks(store: Store, partition: str | None = None) -> Iterator[Mark]:
    """Yield the marks of partitions that are not settled, all or one; a mark that cannot be read names no run."""
    for info in list(store.list(f"{ids.UNSETTLED}{partition}/" if partition else ids.UNSETTLED)):
        owner, generation = ids.parse_unsettled(info.key)
        if partition is None or owner == partition:
            content = _content(store, info.key)
            yield Mark(info.key, owner, generation, str(content.get("run", "")), _retention(content))
    for info in list(store.list(f"{ids.SUPERSEDED}{partition}.json" if partition else ids.SUPERSEDED)):
        owner = info.key.removeprefix(ids.SUPERSEDED).removesuffix(".json")
        yield Mark(info.key, owner, 0, "", _retention(_content(store, info.key)))


def any_marked(store: Store) -> bool:
    """True if a reader by glob may see rows twice somewhere."""
    return any(next(iter(store.list(prefix)), None) is not None for prefix in (ids.UNSETTLED, ids.SUPERSEDED))


def _content(store: Store, key: str) -> Mapping[str, object]:
    try:
        found = orjson.loads(store.get(key))
    except (ObjectMissing, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def _retention(content: Mapping[str, object]) -> Retention:
    stay, generations = content.get("keep_s", 0), content.get("generations", 1)
    return Retention(
        dt.timedelta(seconds=stay) if isinstance(stay, int | float) else dt.timedelta(0),
        generations if isinstance(generations, int) else 1,
    )


# Settling ----------------------------------------------------------------------------------------------------------


def earlier(store: Store, manifest: Manifest, count: int) -> list[Manifest]:
    """Return the `count` generations before this one, newest first, with other files: a tombstone repeats its
    parent's files. Raises StoreRefused where a manifest cannot be read."""
    found: list[Manifest] = []
    seen = {frozenset(named(manifest))}
    for generation in range(manifest.generation - 1, 0, -1):
        if len(found) >= count:
            break
        one = commits.read_commit(store, manifest.partition, generation)
        if one is not None and one.present and frozenset(named(one)) not in seen:
            seen.add(frozenset(named(one)))
            found.append(one)
    return found


def settle(store: Store, manifest: Manifest, retention: Retention, now: dt.datetime) -> dt.datetime | None:
    """Bring a partition's folders to the state of its current manifest: files of kept generations move to history, the
    rest of our own goes. Returns the time when the next files that stay for readers are due, None if all is settled."""
    partition = manifest.partition
    if store.head(ids.lagging(partition)) is not None:
        return now  # the table's readers are still sent to the former files
    current = named(manifest)
    try:
        kept = set().union(*(named(one) for one in earlier(store, manifest, retention.generations)))
    except StoreRefused:
        return now  # the files of an unreadable manifest are unknown: none is removed
    committed: dict[int, dt.datetime] | None = None  # listed only if a former file is there
    moving, removed, due = [], [], []
    for info, generation, key in _parts(store, manifest):
        if key in current or (key in kept and ids.history(key) == info.key):
            continue
        if committed is None:
            committed = _committed(store, partition)
        left = committed.get(generation + 1, info.modified) + retention.stay
        if left > now and not info.key.startswith(ids.HISTORY):
            due.append(left)
        elif key in kept:
            moving.append(info.key)
        else:
            removed.append(info.key)
    for key in moving:
        try:
            store.copy(key, ids.history(key))
        except ObjectMissing:  # another process moved it
            continue
        removed.append(key)
    store.delete(removed)
    return min(due, default=None)


def settle_marked(store: Store, manifest: Manifest, retention: Retention, now: dt.datetime) -> None:
    """Settle a partition that was just published, and remove its marks if nothing is left to do."""
    partition = manifest.partition
    if settle(store, manifest, retention, now) is None:
        done = [f"{ids.SUPERSEDED}{partition}.json"]
        for key in store.keys(f"{ids.UNSETTLED}{partition}/"):
            owner, generation = ids.parse_unsettled(key)
            if owner == partition and generation <= manifest.generation:
                done.append(key)
        store.delete(done)


def _committed(store: Store, partition: str) -> dict[int, dt.datetime]:
    return {
        parsed[1]: info.modified
        for info in store.list(ids.commits_of(partition))
        if (parsed := ids.parse_commit(info.key)) is not None and parsed[0] == partition
    }


def _parts(store: Store, manifest: Manifest) -> Iterator[tuple[ObjectInfo, int, str]]:
    """Yield files of generations up to this one, in data or history, with their key in manifests."""
    partition = manifest.partition
    data, rejects = ids.data_folder(partition), ids.rejects_folder(partition)
    history = ids.history_folder(partition)
    homes = {folder: folder for folder in (data, rejects, ids.pending_folder(partition), ids.index_folder(partition))}
    homes |= {f"{history}rejects/": rejects, history: data}
    listed = [folder for folder in homes if not folder.startswith(history)]
    if manifest.generation > 1:  # before the first, nothing can have moved there
        listed.append(history)
    for prefix in listed:
        for info in list(store.list(prefix)):
            folder = next(folder for folder in homes if info.key.startswith(folder))
            generation = ids.parse_part(folder, info.key)
            if generation is not None and generation <= manifest.generation:
                yield info, generation, f"{homes[folder]}{info.key.removeprefix(folder)}"


def uncommitted(store: Store, partition: str, current: int) -> list[str]:
    """Return the files of uncommitted generations that readers by glob see."""
    found = []
    for folder in (ids.data_folder(partition), ids.rejects_folder(partition)):
        for info in store.list(folder):
            generation = ids.parse_part(folder, info.key)
            if generation is not None and generation > current:
                found.append(info.key)
    return found


def locate(store: Store, key: str) -> str | None:
    """Return the present key of a file that a manifest names: in place, or in history. None where it is gone."""
    for path in dict.fromkeys((key, ids.history(key))):
        if store.head(path) is not None:
            return path
    return None
