"""Decide, count, estimate: what `plan` shows, and `run` and `backfill` say before money."""

import datetime as dt
from dataclasses import dataclass

from pipeline import plans
from pipeline.estimate import Estimate, estimate
from pipeline.forecast import Forecast, forecast
from pipeline.planning import Selection
from pipeline.preflight import Ready


@dataclass(frozen=True)
class Outlook:
    """What a run would do, and what that would take."""

    found: Forecast
    estimate: Estimate


def looked_ahead(ready: Ready, selection: Selection) -> Outlook:
    """The same decisions that a run of this selection makes. Raises UsageError, StoreError."""
    decided = list(plans.decisions(ready.job, ready.store, selection, dt.datetime.now(dt.UTC)))
    decided = plans.limited(decided, selection.limit_rows)
    found = forecast(ready.job, ready.store, decided, fresh=selection.fresh)
    return Outlook(found, estimate(ready.job, found))
