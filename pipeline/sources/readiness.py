"""Readiness of a source's files: those that their writers may still be at are left to a later run.

A file is ready once it has stood still for `source.settle`, and once its marker lies beside it (`source.done`). A
marker that is older than its file belongs to an earlier version of it.
"""

import datetime as dt
import os
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from pipeline.sources.listing import Listing, SourceFile, bucket_of, changed_at, list_source
from pipeline.sources.markers import is_marker, marker_names
from schemas import digests
from schemas.errors import SourceError
from schemas.spec.durations import format_duration
from schemas.spec.sections import Source, Spec

_SETTLE = dt.timedelta(seconds=10)  # of local files under a trigger: they are often written in place
_NAMED = 3


@dataclass(frozen=True)
class WaitingFile:
    """A file that is not taken yet, and what it waits for. `partition`: the one that it alone, or its folder, makes."""

    relative: str
    waits_for: str
    partition: str = ""

    def __str__(self) -> str:
        return f"{self.relative} {self.waits_for}"


@dataclass(frozen=True)
class Readiness:
    """The files to read, those that wait, and a text that changes when a marker of the files to read does."""

    listing: Listing
    waiting: tuple[WaitingFile, ...] = ()
    markers: str = ""


def named(files: Sequence[WaitingFile]) -> str:
    """Name the first of some waiting files, and count the others."""
    more = f" and {len(files) - _NAMED:,} more" if len(files) > _NAMED else ""
    return "; ".join(str(file) for file in files[:_NAMED]) + more


def settling(spec: Spec) -> Spec:
    """Return the spec of a run that new files start: without `source.settle`, local files have to stand still for some
    seconds. Objects on S3 appear whole."""
    source = spec.source
    if source.settle is not None or source.path.startswith("s3://"):
        return spec
    return spec.model_copy(update={"source": source.model_copy(update={"settle": _SETTLE})})


def ready_files(source: Source, base: Path, *, now: float | None = None) -> Readiness:
    """List the source and leave out what waits at `now` (seconds since 1970, by default the present). Raises
    SourceError also if every file waits."""
    listing = list_source(source, base)
    if not source.settle and source.done is None:
        return Readiness(listing)
    now = time.time() if now is None else now
    markers = {} if source.done is None else _marker_times(listing.files, source.done)
    waits = {file: _waits_for(file, source, markers, now) for file in listing.files}
    ready = tuple(file for file in listing.files if not waits[file])
    waiting = tuple(WaitingFile(file.relative, reason) for file, reason in waits.items() if reason)
    if not any(file.size for file in ready):
        raise SourceError(
            f"source.path = {source.path!r}: no file is ready: {named(waiting)}.",
            hint="Run it again once a file is written to its end.",
        )
    seen = digests.digest(*(f"{markers[file.uri]:f}" for file in ready)) if markers else ""
    return Readiness(Listing(ready, listing.format), waiting, seen)


def _waits_for(file: SourceFile, source: Source, markers: dict[str, float], now: float) -> str:
    """Return what a file waits for; empty if it is ready. The text is the same as long as file and marker are."""
    if source.done is not None:
        names = " or ".join(marker_names(Path(file.relative).name, source.done))
        if file.uri not in markers:
            return f"waits for its marker {names}"
        if markers[file.uri] < file.changed_at:
            return f"changed at {_text(file.changed_at)}, after its marker, and waits for a newer {names}"
    if source.settle and now - file.changed_at < source.settle.total_seconds():
        settle = format_duration(source.settle)
        return f"changed at {_text(file.changed_at)} and waits until it has stood still for {settle}"
    return ""


def _text(at: float) -> str:
    return dt.datetime.fromtimestamp(at, dt.UTC).strftime("%Y-%m-%d %H:%M:%S UTC")


def _marker_times(files: Sequence[SourceFile], pattern: str) -> dict[str, float]:
    """Return when the newest marker of each file changed; files without one are left out."""
    present = _s3_markers(files, pattern) if files[0].uri.startswith("s3://") else None
    found: dict[str, float] = {}
    for file in files:
        folder, _, name = file.uri.rpartition("/")
        for marker in marker_names(name, pattern):
            uri = f"{folder}/{marker}"
            at = _changed_at(uri) if present is None else present.get(uri)
            if at is not None:
                found[file.uri] = max(at, found.get(file.uri, at))
    return found


def _changed_at(path: str) -> float | None:
    try:
        return changed_at(os.stat(path))
    except OSError:
        return None


def _s3_markers(files: Sequence[SourceFile], pattern: str) -> dict[str, float]:
    """Return the markers in all folders that hold files, in one listing."""
    root = os.path.commonpath([file.uri.removeprefix("s3://").rpartition("/")[0] for file in files])
    bucket, _, folder = root.partition("/")
    listed = bucket_of(bucket).list(f"{folder}/" if folder else "")
    return {
        f"s3://{bucket}/{info.key}": info.modified.timestamp()
        for info in listed
        if is_marker(info.key.rpartition("/")[2], pattern)
    }
