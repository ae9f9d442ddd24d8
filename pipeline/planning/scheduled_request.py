"""Request of a schedule's firing: a run, or nothing. The required partitions are computed from the source and from
manifests, not from earlier firings."""

import datetime as dt
from pathlib import Path

from pipeline.planning import builder
from pipeline.planning.preparation import make_job
from pipeline.progress_note import Note
from pipeline.runs import requests
from pipeline.settings import expanded
from pipeline.sources.listing import list_source
from pipeline.stores import Store
from schemas import digests, ids
from schemas.errors import UsageError
from schemas.messages.schedule import FiringDecision, FiringRequest
from schemas.plan import Due, Selection
from schemas.spec.durations import parse_duration
from schemas.spec.sections import Spec
from stages.models.choice import ModelServices


def request_of_firing(store: Store, request: FiringRequest, services: ModelServices, note: Note) -> FiringDecision:
    """Write the request of the firing's run, unless nothing is due. Errors of spec or source are left to the run, which
    reports them."""
    spec, base = requests.load_spec_of(store, request.spec), Path(request.base)
    polls = request.when == "new-files"
    listing, absent = _listing(spec, base)
    # With another spec, the same files count as new.
    listing = digests.digest(request.spec, listing) if polls and listing else ""
    if polls and not listing:
        return FiringDecision(note=absent)
    if polls and listing == request.seen:
        return FiringDecision(listing=listing, note="no file is new or changed")
    lookback = parse_duration(request.lookback)
    selection = Selection(
        due=Due(at=request.at, since=request.since or _before(request.at, lookback), lookback=lookback, open=polls)
    )
    if not absent and not _any_due(spec, base, store, selection, services, note):
        return FiringDecision(listing=listing, note="everything that is due is published")
    name = ids.scheduled_run(request.at, "new-files" if polls else "scheduled")
    requests.write_request(store, spec, base, selection, name)
    return FiringDecision(run=name, listing=listing)


def _listing(spec: Spec, base: Path) -> tuple[str, str]:
    """Return the fingerprint of the source's present files, or the reason why there are none."""
    try:
        return list_source(expanded(spec).source, base).fingerprint, ""
    except UsageError as exc:
        return "", str(exc)


def _any_due(spec: Spec, base: Path, store: Store, selection: Selection, services: ModelServices, note: Note) -> bool:
    try:
        job = make_job(spec, base, store, services.apart(), note=note)
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
