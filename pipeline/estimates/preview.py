"""Decide, count, estimate: what `plan` shows, and `run` and `backfill` say before money."""

import datetime as dt
from dataclasses import dataclass
from pathlib import Path

from pipeline.estimates.call_count import Forecast, forecast
from pipeline.estimates.cost_estimate import Estimate, estimate
from pipeline.journal.call_stats import taken
from pipeline.planning import builder, saved_plan
from pipeline.planning.job import Ready
from pipeline.planning.saved_plan import Agreed
from pipeline.runs import requests
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
    decided = list(builder.decisions(ready.job, ready.store, selection, now))
    decided = builder.limited(decided, selection.limit_rows)
    found = forecast(ready.job, ready.store, decided, fresh=selection.fresh)
    before = taken(ready.store, [count.stage for count in found.stages], [d.partition for d in decided])
    return Outlook(selection, now, found, estimate(ready.job, found, before))


def written_down(ready: Ready, outlook: Outlook) -> Agreed:
    """The plan as a thing that can be kept, looked at, and done later just so."""
    return Agreed(
        pipeline=ready.spec.name,
        sink=ready.store.uri,
        created_at=outlook.decided_at,
        spec=requests.request_digest(ready.spec, Selection()),
        selection=outlook.selection,
        stages=ready.job.shapes,
        partitions=tuple(outlook.found.decisions),
    )


def agreed_selection(spec: Spec, store: Store, plan: Path) -> Selection:
    """What `run --plan` selects. Raises UsageError, PlanOutdated for one of another pipeline, sink or spec."""
    found = saved_plan.read(plan)
    saved_plan.refuse_other(found, pipeline=spec.name, sink=store.uri, spec=requests.request_digest(spec, Selection()))
    return saved_plan.keep(store, found)
