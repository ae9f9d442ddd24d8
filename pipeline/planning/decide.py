"""Decide to run or skip a partition, with the reason. Pure: everything is decided from values."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from pipeline.sinks.schema import ColumnChange
from schemas.manifest import Manifest
from schemas.plan import Cause, Decision, Reprocess

_NEVER = Cause("never_published", "never published")
_BACK = Cause("never_published", "back in the source")
_PARTIAL = Cause("partial", "published partially")
_UP_TO_DATE = (Cause("up_to_date", "up to date"),)
_REQUESTED = (Cause("asked", "asked to reprocess"),)


@dataclass(frozen=True)
class OutputShape:
    """The shape of a run's output: the stages' shapes and aspects, the columns of the input, and the change of
    published columns that outdates partitions."""

    stages: Mapping[str, str]
    aspects: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    columns: Sequence[str] = ()
    change: ColumnChange = field(default_factory=ColumnChange)


class PartitionInput(NamedTuple):
    """A partition as the source has it now."""

    partition: str
    rows: int
    fingerprint: str


def decide(
    found: PartitionInput,
    current: Manifest | None,
    *,
    shape: OutputShape,
    reprocess: Reprocess,
    last_failed: str | None = None,
    answered: int = 0,
) -> Decision:
    """Run or skip, by comparing the published generation with the present input. The one function behind `plan`, `run`
    and `backfill`. `answered`: the number of pending rows that a person has answered since."""
    causes, level = _difference(current, found.fingerprint, shape, last_failed, answered)
    order = ("missing", "failed", "stale", "all")
    runs = order.index(reprocess) >= order.index(level)
    if level == "all" and runs:
        causes = _REQUESTED
    return Decision(
        partition=found.partition,
        run=runs,
        causes=causes,
        rows=found.rows,
        fingerprint=found.fingerprint,
        generation=current.generation if current else 0,
        published_by=current.run if current else "",
        index=current.index.key if current and current.index else None,
    )


def is_current_shape(of_shape: Manifest, shape: OutputShape) -> bool:
    """True if generations that share the fields of this manifest have the output's shape."""
    return dict(of_shape.stage_fingerprints) == dict(shape.stages) and of_shape.schema_version >= shape.change.since


def up_to_date(
    found: PartitionInput, reprocess: Reprocess, *, generation: int, published_by: str, index: str | None
) -> Decision:
    """Decide for a published partition without any difference: the same as `decide`, without its manifest."""
    runs = reprocess == "all"
    return Decision(
        partition=found.partition, run=runs, causes=_REQUESTED if runs else _UP_TO_DATE, rows=found.rows,
        fingerprint=found.fingerprint, generation=generation, published_by=published_by, index=index,
    )  # fmt: skip


def _difference(
    current: Manifest | None, input_fingerprint: str, shape: OutputShape, last_failed: str | None, answered: int
) -> tuple[tuple[Cause, ...], Reprocess]:
    """Return the differences, and the least `--reprocess` that runs them. The input is last, as its rows follow it."""
    found = [] if last_failed is None else [Cause("last_attempt", f"last attempt {last_failed}")]
    if current is None or not current.present:
        return (_BACK if current is not None and current.kind == "retired" else _NEVER, *found), "missing"
    if current.kind == "partial":
        found.append(_PARTIAL)
    if shape.change.outdates(current):
        found.append(Cause("columns", f"published columns changed ({shape.change.text})"))
    if dict(current.stage_fingerprints) != dict(shape.stages):
        found.append(Cause("stages", _stages_changed(current, shape)))
    if current.input_fingerprint != input_fingerprint:
        found.append(Cause("input", "input changed" + _columns_changed(current.input_columns, shape.columns)))
    if found:
        return tuple(found), "stale" if last_failed is None else "failed"
    if answered:
        return (Cause("answered", f"{answered:,} of {current.counts.pending:,} pending rows answered"),), "stale"
    if current.counts.pending:
        return (Cause("pending", f"{current.counts.pending} rows pending"),), "all"
    return _UP_TO_DATE, "all"


def _columns_changed(before: Sequence[str], now: Sequence[str]) -> str:
    if not before or not now:
        return ""
    changes = [f"column `{name}` is new" for name in now if name not in before]
    changes += [f"column `{name}` is gone" for name in before if name not in now]
    return f" ({', '.join(changes)})" if changes else ""


def _stages_changed(current: Manifest, shape: OutputShape) -> str:
    before, now = current.stage_fingerprints, shape.stages
    changes = [
        *(
            _aspects_changed(name, current.stage_aspects.get(name, {}), shape.aspects.get(name, {}))
            for name in now
            if name in before and before[name] != now[name]
        ),
        *(f"stage `{name}` is new" for name in now if name not in before),
        *(f"stage `{name}` is gone" for name in before if name not in now),
    ]
    return ", ".join(changes) or "order of stages changed"


def _aspects_changed(stage: str, before: Mapping[str, str], now: Mapping[str, str]) -> str:
    """Name the changed aspects, as `prompt and model of `triage` changed`; the stage alone if none is known."""
    named = [name for name in before if name in now and before[name] != now[name]]
    if not named:
        return f"stage `{stage}` changed"
    *firsts, last = named
    return f"{', '.join(firsts)} and {last} of `{stage}` changed" if firsts else f"{last} of `{stage}` changed"


# Before opening ----------------------------------------------------------------------------------------------------


def unchanged(
    manifest: Manifest | None, fingerprint: str, stages: dict[str, str], *, answered: int, change: ColumnChange
) -> bool:
    """True if the current generation holds what a run would publish. `answered`: the number of its pending rows."""
    return (
        manifest is not None
        and manifest.kind == "published"
        and not change.outdates(manifest)
        and manifest.input_fingerprint == fingerprint
        and dict(manifest.stage_fingerprints) == stages
        and not answered
    )
