"""A plan that was written down, to be done just so: `tandem plan --out FILE`, then `tandem run --plan FILE`.

It says for each partition by which input and over which generation it was decided. Where any of that has moved since,
it is refused, and says what moved. What a run of the same plan published is no such move: it carries itself on.
"""

import datetime as dt
import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from pydantic import ValidationError, model_validator

from pipeline.stores import Store
from pipeline.stores.documents import read_document
from schemas import ids
from schemas.errors import PlanOutdated, UsageError
from schemas.manifest import Noun
from schemas.plan import Decision, Selection

FORMAT = 1
_NAMED = 3


class SavedPlan(Noun):
    """`spec` is the digest of what a spec makes a run do; `stages` are the shapes to publish with."""

    tandem_plan: int = FORMAT
    pipeline: str
    sink: str
    created_at: dt.datetime
    spec: str
    selection: Selection
    stages: dict[str, str]
    partitions: tuple[Decision, ...]

    @model_validator(mode="before")
    @classmethod
    def _of_earlier_version(cls, data: Any) -> Any:
        """Plans were once written with a reason in words in place of its causes."""
        for line in data.get("partitions", ()) if isinstance(data, dict) else ():
            if isinstance(line, dict) and "reason" in line:
                line["causes"] = [("other", line.pop("reason"))]
        return data


def write(path: Path, agreed: SavedPlan) -> None:
    """Raises UsageError where the file cannot be written."""
    try:
        path.write_text(agreed.model_dump_json(indent=1) + "\n")
    except OSError as exc:
        raise UsageError(f"--out {path}: {exc.strerror or exc}.", hint="Name a file that can be written.") from None


def read(path: Path) -> SavedPlan:
    """Raises UsageError for what is no plan."""
    try:
        found = SavedPlan.model_validate_json(path.read_bytes())
    except OSError as exc:
        raise UsageError(f"--plan {path}: {exc.strerror or exc}.", hint="Write one: tandem plan --out FILE") from None
    except ValidationError:
        raise UsageError(f"--plan {path}: not a plan of Tandem's.", hint="Write one: tandem plan --out FILE") from None
    if found.tandem_plan != FORMAT:
        raise UsageError(f"--plan {path}: of another version of Tandem.", hint="Write it anew: tandem plan --out FILE")
    return found


def keep(store: Store, agreed: SavedPlan) -> Selection:
    """The selection of a run that does what was agreed. The plan is kept in the sink, where its run finds it."""
    data = agreed.model_dump_json().encode()
    key = ids.agreed(hashlib.sha256(data).hexdigest())
    store.put_absent(key, data)
    return agreed.selection.model_copy(update={"agreed": key})


def load(store: Store, key: str) -> SavedPlan:
    return read_document(store, key, SavedPlan)


def refuse_other(agreed: SavedPlan, *, pipeline: str, sink: str, spec: str) -> None:
    """Raises PlanOutdated for a plan of another pipeline, sink or spec."""
    for what, then, now in (
        ("pipeline", agreed.pipeline, pipeline), ("sink", agreed.sink, sink), ("spec", agreed.spec, spec),
    ):  # fmt: skip
        if then != now:
            said = "the spec has changed" if what == "spec" else f"it is of the {what} {then!r}, not {now!r}"
            raise _outdated([said])


def verify_still_valid(
    agreed: SavedPlan, decided: Sequence[Decision], stages: Mapping[str, str], own: Callable[[str], bool]
) -> list[Decision]:
    """What was agreed, where it still stands. `own` tells a run of this plan by its name. Raises PlanOutdated."""
    moved = [f"stage {name!r} has changed" for name in stages if agreed.stages.get(name) != stages[name]]
    then = {decision.partition: decision for decision in agreed.partitions}
    now = {decision.partition: decision for decision in decided}
    moved += [f"{key} is new" for key in now if key not in then]
    moved += [f"{key} is gone" for key in then if key not in now]
    out = []
    for key, decision in now.items():
        if (before := then.get(key)) is None:
            continue
        published = decision.generation != before.generation
        ours = published and own(decision.published_by)
        if decision.fingerprint != before.fingerprint:
            moved.append(f"{key}: its input has changed")
        elif published and not ours:
            moved.append(f"{key}: run {decision.published_by!r} published it")
        runs = before.run and (decision.run or not ours)
        out.append(replace(decision, run=runs, causes=before.causes if runs else decision.causes))
    if moved:
        raise _outdated(moved)
    return out


def _outdated(moved: Sequence[str]) -> PlanOutdated:
    more = f" and {len(moved) - _NAMED:,} more" if len(moved) > _NAMED else ""
    return PlanOutdated(
        f"The plan does not hold any more: {'; '.join(moved[:_NAMED])}{more}.",
        hint="Make it anew: tandem plan --out FILE",
    )
