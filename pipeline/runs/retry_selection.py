"""Partitions of an ended run to run again."""

from typing import Literal

from pipeline.runs import outcomes, plan_pages, requests
from pipeline.sinks import commits
from pipeline.stores import Store
from schemas import ids
from schemas.errors import RejectRateExceeded, by_code
from schemas.plan import RunRequest

Only = Literal["failed", "cancelled", "rejects"]


def to_retry(store: Store, request: RunRequest, only: Only) -> list[str]:
    """Return the partitions of a kind. `failed`; `cancelled`: also those not begun; `rejects`: published or refused
    with rejected rows. Partitions that were published since are left out."""
    ended = {result.partition: result for result in outcomes.outcomes(store, request.run)}
    if only == "rejects":
        return sorted(
            key
            for key, result in ended.items()
            if result.counts.rejected or by_code(result.error) is RejectRateExceeded
        )
    found = {key for key, result in ended.items() if result.outcome == only}
    if only == "cancelled":
        found |= {key for key, result in ended.items() if result.outcome == "not_run"}
        found |= (plan_pages.planned_partitions(store, request.run) or set()) - ended.keys()
    return sorted(key for key in found if not _published_since(store, request.run, key))


def _published_since(store: Store, run: str, partition: str) -> bool:
    current = commits.current(store, partition)
    if current is None or current.kind == "tombstone":
        return False
    outcome = store.head(ids.outcome(run, partition))
    began = requests.load_request(store, run)
    since = outcome.modified if outcome is not None else began.created_at if began is not None else None
    return since is None or current.committed_at > since
