"""Decide, count, estimate: what `plan` shows, and `run` and `backfill` say before money."""

import datetime as dt
from dataclasses import dataclass
from pathlib import Path

from pipeline import agreed, plans
from pipeline.agreed import Agreed
from pipeline.estimate import Estimate, estimate
from pipeline.forecast import Forecast, forecast
from pipeline.history import taken
from pipeline.preflight import Ready
from pipeline.stores import Store
from schemas.plan import Selection
from schemas.spec.sections import Spec


@dataclass(frozen=True)
class Outlook:
    """What a run of the selection would do, and what that would take."""

    selection: Selection
    decided_at: dt.datetime
    found: Forecast
    estimate: Estimate


def looked_ahead(ready: Ready, selection: Selection) -> Outlook:
    """The same decisions that a run of this selection makes. Raises UsageError, StoreError."""
    now = dt.datetime.now(dt.UTC)
    decided = list(plans.decisions(ready.job, ready.store, selection, now))
    decided = plans.limited(decided, selection.limit_rows)
    found = forecast(ready.job, ready.store, decided, fresh=selection.fresh)
    before = taken(ready.store, [count.stage for count in found.stages], [d.partition for d in decided])
    return Outlook(selection, now, found, estimate(ready.job, found, before))


def written_down(ready: Ready, outlook: Outlook) -> Agreed:
    """The plan as a thing that can be kept, looked at, and done later just so."""
    return Agreed(
        pipeline=ready.spec.name,
        sink=ready.store.uri,
        created_at=outlook.decided_at,
        spec=plans.request_digest(ready.spec, Selection()),
        selection=outlook.selection,
        stages=ready.job.shapes,
        partitions=tuple(outlook.found.decisions),
    )


def agreed_selection(spec: Spec, store: Store, plan: Path) -> Selection:
    """What `run --plan` selects. Raises UsageError, PlanOutdated for one of another pipeline, sink or spec."""
    found = agreed.read(plan)
    agreed.refuse_other(found, pipeline=spec.name, sink=store.uri, spec=plans.request_digest(spec, Selection()))
    return agreed.keep(store, found)
