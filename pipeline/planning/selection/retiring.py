"""Published partitions that the source has no more, and that a run retires. Pure.

asked for     `partition.gone: retire`, or `--prune`
blocks        beyond the end of the source, with `by: rows`: a block has no identity but its number
moved files   with `by: files`: the same content is new under another name; once that is published
"""

import datetime as dt
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from pipeline.planning.selection.partitions import select
from schemas.manifest import Manifest
from schemas.plan import Cause, Decision, Selection
from schemas.spec.sections import Partition


@dataclass(frozen=True)
class Source:
    """What the source has: `fresh` are its partitions that are not published yet, by the fingerprint of their input."""

    partitions: frozenset[str]
    fresh: Mapping[str, str]


def may_retire(spec: Partition, selection: Selection) -> bool:
    """Return True if a run of this selection may retire partitions at all."""
    if selection.limit_rows is not None:
        return False
    return selection.prune or spec.gone == "retire" or (spec.by in ("rows", "files") and _is_whole(selection))


def retirements(
    missing: Sequence[Manifest], source: Source, spec: Partition, selection: Selection, now: dt.datetime
) -> list[Decision]:
    """Decide which of the partitions that are gone a run retires, in order of key."""
    every = spec.every if spec.by == "time" else None
    names = sorted(found.partition for found in missing)
    pruned: set[str] = set()
    if selection.prune or spec.gone == "retire":
        pruned = set(_selected(names, selection, every, spec.zone, now))
    cause = _cause_of(spec, pruned, source) if _is_whole(selection) else _cause_of_pruned(pruned)
    found = []
    for manifest in sorted(missing, key=lambda one: one.partition):
        because = cause(manifest)
        if because is not None:
            moved_to = source.fresh.get(manifest.input_fingerprint, "") if because.kind == "moved" else ""
            found.append(_decision(manifest, because, moved_to))
    return found


def _is_whole(selection: Selection) -> bool:
    return not (selection.partitions or selection.from_date or selection.to_date or selection.last)


def _selected(names: list[str], selection: Selection, every: str | None, zone: str, now: dt.datetime) -> Sequence[str]:
    if selection.partitions:
        return [name for name in names if name in set(selection.partitions)]
    if _is_whole(selection) or not names:
        return names
    return select(names, selection, every=every, zone=zone, now=now, may_be_empty=True)


def _cause_of_pruned(pruned: set[str]) -> Callable[[Manifest], Cause | None]:
    return lambda manifest: Cause("gone", "gone from the source") if manifest.partition in pruned else None


def _cause_of(spec: Partition, pruned: set[str], source: Source) -> Callable[[Manifest], Cause | None]:
    asked = _cause_of_pruned(pruned)

    def cause(manifest: Manifest) -> Cause | None:
        if spec.by == "rows" and manifest.partition.startswith("block="):
            return Cause("gone", "beyond the end of the source")
        moved = source.fresh.get(manifest.input_fingerprint) if spec.by == "files" else None
        if moved is not None:
            return Cause("moved", f"its rows are in {moved} now")
        return asked(manifest)

    return cause


def _decision(manifest: Manifest, cause: Cause, moved_to: str) -> Decision:
    return Decision(
        partition=manifest.partition,
        run=False,
        retire=True,
        causes=(cause,),
        rows=manifest.counts.out,
        fingerprint=manifest.input_fingerprint,
        generation=manifest.generation,
        published_by=manifest.run,
        moved_to=moved_to,
    )
