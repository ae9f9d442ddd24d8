"""Preview of a run (decisions, counts, estimate), which `plan`, `run` and `backfill` show before it costs money."""

import datetime as dt
from dataclasses import dataclass
from pathlib import Path

from pipeline.estimates.call_count import CallCount, count_calls
from pipeline.estimates.cost_estimate import Estimate, estimate
from pipeline.journal.call_stats import call_stats
from pipeline.planning import builder, saved_plan
from pipeline.planning.job import Ready
from pipeline.planning.saved_plan import SavedPlan
from pipeline.runs import requests
from pipeline.runs.answering_models import answering_models
from pipeline.sinks import catalogue
from pipeline.sinks.catalogue import Catalogue
from pipeline.stores import Store
from schemas.manifest import Answerers
from schemas.plan import Decision, Selection
from schemas.spec.sections import Spec


@dataclass(frozen=True)
class Preview:
    """Decisions, calls and estimate of a run of the selection, and the models that answered what is published."""

    selection: Selection
    decided_at: dt.datetime
    found: CallCount
    estimate: Estimate
    answered_by: Answerers


@dataclass(frozen=True)
class Decisions:
    """Decisions of a run of the selection, before any row is read."""

    selection: Selection
    decided_at: dt.datetime
    decisions: list[Decision]
    known: Catalogue | None  # of all partitions, if it was read

    @property
    def to_run(self) -> set[str]:
        return {decision.partition for decision in self.decisions if decision.run}


def decide(ready: Ready, selection: Selection) -> Decisions:
    """Make the same decisions as a run of this selection. Raises UsageError, StoreError."""
    now = dt.datetime.now(dt.UTC)
    few = len(ready.job.snapshot.partitions) <= catalogue.FEW or (selection.partitions and not selection.prune)
    known = None if few else catalogue.read(ready.store)
    decided = list(builder.decisions(ready.job, ready.store, selection, now, known=known))
    return Decisions(selection, now, builder.limited(decided, selection.limit_rows), known)


def preview(ready: Ready, selection: Selection) -> Preview:
    """Decide, count and estimate. Raises UsageError, StoreError."""
    return preview_of(ready, decide(ready, selection))


def preview_of(ready: Ready, decided_before: Decisions) -> Preview:
    """Count and estimate decisions. Raises StoreError."""
    selection, now, decided = decided_before.selection, decided_before.decided_at, decided_before.decisions
    known = decided_before.known
    published = known.published if known is not None else None
    found = count_calls(ready.job, ready.store, decided, fresh=selection.fresh, published=published)
    before = call_stats(ready.store, [count.stage for count in found.stages], [d.partition for d in decided])
    answered_by = answering_models(published if published is not None else catalogue.indexed(ready.store))
    return Preview(selection, now, found, estimate(ready.job, found, before), answered_by)


def to_saved_plan(ready: Ready, preview: Preview) -> SavedPlan:
    """Make a saved plan of a preview, to be kept, read, and run later unchanged."""
    return SavedPlan(
        pipeline=ready.spec.name,
        sink=ready.store.uri,
        created_at=preview.decided_at,
        spec=requests.request_digest(ready.spec, Selection()),
        selection=preview.selection,
        stages=ready.job.shapes,
        partitions=tuple(preview.found.decisions),
    )


def selection_of_saved_plan(spec: Spec, store: Store, plan: Path) -> Selection:
    """Return the selection of `run --plan`. Raises UsageError, PlanOutdated for another pipeline, sink or spec."""
    found = saved_plan.read(plan)
    saved_plan.refuse_other(found, pipeline=spec.name, sink=store.uri, spec=requests.request_digest(spec, Selection()))
    return saved_plan.keep(store, found)
