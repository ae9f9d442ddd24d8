"""A plan that was saved to be run unchanged: `tandem plan --out FILE`, then `tandem run --plan FILE`.

It holds, for each partition, the input and the generation of its decision. If any of that has changed since, the plan
is refused, with the changes. Generations that a run of the same plan published are no change: it may be resumed.
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
    """`spec` is the digest of the settings that shape a run; `stages` are the shapes to publish with."""

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
        """Convert plans of earlier versions, which have a reason in words in place of its causes."""
        for line in data.get("partitions", ()) if isinstance(data, dict) else ():
            if isinstance(line, dict) and "reason" in line:
                line["causes"] = [("other", line.pop("reason"))]
        return data


def write(path: Path, plan: SavedPlan) -> None:
    """Write the plan to a file. Raises UsageError if it cannot be written."""
    try:
        path.write_text(plan.model_dump_json(indent=1) + "\n")
    except OSError as exc:
        raise UsageError(f"--out {path}: {exc.strerror or exc}.", hint="Name a file that can be written.") from None


def read(path: Path) -> SavedPlan:
    """Read a plan from a file. Raises UsageError for a file that is no plan."""
    try:
        found = SavedPlan.model_validate_json(path.read_bytes())
    except OSError as exc:
        raise UsageError(f"--plan {path}: {exc.strerror or exc}.", hint="Write one: tandem plan --out FILE") from None
    except ValidationError:
        raise UsageError(f"--plan {path}: not a plan of Tandem's.", hint="Write one: tandem plan --out FILE") from None
    if found.tandem_plan != FORMAT:
        raise UsageError(
            f"--plan {path}: of another version of Tandem.", hint="Write a new one: tandem plan --out FILE"
        )
    return found


def keep(store: Store, plan: SavedPlan) -> Selection:
    """Store the plan in the sink, where its run finds it. Returns the selection of a run of this plan."""
    data = plan.model_dump_json().encode()
    key = ids.agreed(hashlib.sha256(data).hexdigest())
    store.put_absent(key, data)
    return plan.selection.model_copy(update={"agreed": key})


def load(store: Store, key: str) -> SavedPlan:
    return read_document(store, key, SavedPlan)


def refuse_other(plan: SavedPlan, *, pipeline: str, sink: str, spec: str) -> None:
    """Raise PlanOutdated for a plan of another pipeline, sink or spec."""
    for field, then, now in (
        ("pipeline", plan.pipeline, pipeline), ("sink", plan.sink, sink), ("spec", plan.spec, spec),
    ):  # fmt: skip
        if then != now:
            change = "the spec has changed" if field == "spec" else f"it is of the {field} {then!r}, not {now!r}"
            raise _outdated([change])


def verify_still_valid(
    plan: SavedPlan, decided: Sequence[Decision], stages: Mapping[str, str], own: Callable[[str], bool]
) -> list[Decision]:
    """Return the plan's decisions, if still valid. `own` is true for runs of this plan. Raises PlanOutdated."""
    changes = [f"stage {name!r} has changed" for name in stages if plan.stages.get(name) != stages[name]]
    then = {decision.partition: decision for decision in plan.partitions}
    now = {decision.partition: decision for decision in decided}
    changes += [f"{key} is new" for key in now if key not in then]
    changes += [f"{key} is gone" for key in then if key not in now]
    valid = []
    for key, decision in now.items():
        if (before := then.get(key)) is None:
            continue
        published = decision.generation != before.generation
        ours = published and own(decision.published_by)
        if decision.fingerprint != before.fingerprint:
            changes.append(f"{key}: its input has changed")
        elif published and not ours:
            changes.append(f"{key}: run {decision.published_by!r} published it")
        runs = before.run and (decision.run or not ours)
        valid.append(replace(decision, run=runs, causes=before.causes if runs else decision.causes))
    if changes:
        raise _outdated(changes)
    return valid


def _outdated(changes: Sequence[str]) -> PlanOutdated:
    more = f" and {len(changes) - _NAMED:,} more" if len(changes) > _NAMED else ""
    return PlanOutdated(
        f"The plan is no longer valid: {'; '.join(changes[:_NAMED])}{more}.",
        hint="Make a new one: tandem plan --out FILE",
    )
