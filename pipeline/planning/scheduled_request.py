"""Request of a schedule's firing: a run, or nothing. The required partitions are computed from the source and from
manifests, not from earlier firings."""

import datetime as dt
from pathlib import Path

from pipeline.planning import builder
from pipeline.planning.preparation import make_job
from pipeline.progress_note import Note
from pipeline.runs import requests
from pipeline.settings import expanded
from pipeline.sources.readiness import Readiness, named, ready_files, settling
from pipeline.stores import Store
from schemas import digests, ids
from schemas.errors import UsageError
from schemas.messages.schedule import FiringDecision, FiringRequest
from schemas.plan import Due, Selection
from schemas.spec.durations import parse_duration
from schemas.spec.sections import Spec
from stages.models.settings.choice import ModelServices


def request_of_firing(store: Store, request: FiringRequest, services: ModelServices, note: Note) -> FiringDecision:
    """Write the request of the firing's run, unless nothing is due. Errors of spec or source are left to the run, which
    reports them."""
    spec, base = requests.load_spec_of(store, request.spec), Path(request.base)
    polls = request.when == "new-files"
    found = _ready_files(spec, base, new_files=polls)
    if polls and isinstance(found, str):
        return FiringDecision(note=found)
    # With another spec, the same files count as new. Files that wait do not count: a later firing sees them as new.
    listing = _digest(request.spec, found) if polls and isinstance(found, Readiness) else ""
    waits = _waits(found)
    if polls and listing == request.seen:
        return FiringDecision(listing=listing, note=f"no file is new or changed{waits}")
    lookback = parse_duration(request.lookback)
    selection = Selection(
        due=Due(at=request.at, since=request.since or _before(request.at, lookback), lookback=lookback, open=polls)
    )
    if isinstance(found, Readiness) and not _any_due(spec, base, store, selection, services, note):
        return FiringDecision(listing=listing, note=f"everything that is due is published{waits}")
    name = ids.scheduled_run(request.at, "new-files" if polls else "scheduled")
    requests.write_request(store, spec, base, selection, name)
    return FiringDecision(run=name, listing=listing, note=waits.removeprefix("; "))


def _ready_files(spec: Spec, base: Path, *, new_files: bool) -> Readiness | str:
    """Return the source's present files, or the reason why there are none to read."""
    try:
        ready = expanded(spec)
        return ready_files((settling(ready) if new_files else ready).source, base)
    except UsageError as exc:
        return str(exc)


def _digest(spec: str, found: Readiness) -> str:
    return digests.digest(spec, found.listing.fingerprint, *([found.markers] if found.markers else []))


def _waits(found: Readiness | str) -> str:
    """Return what a firing leaves to a later one, as the end of its note."""
    return f"; {named(found.waiting)}" if isinstance(found, Readiness) and found.waiting else ""


def _any_due(spec: Spec, base: Path, store: Store, selection: Selection, services: ModelServices, note: Note) -> bool:
    try:
        new_files = selection.due is not None and selection.due.open
        job = make_job(spec, base, store, services.apart(), note=note, new_files=new_files)
        return any(
            decision.run or decision.retire
            for decision in builder.decisions(job, store, selection, dt.datetime.now(dt.UTC), note=note)
        )
    except UsageError:
        return True


def _before(time: dt.datetime, lookback: dt.timedelta) -> dt.datetime:
    try:
        return time - lookback
    except OverflowError:
        return dt.datetime.min.replace(tzinfo=dt.UTC)
