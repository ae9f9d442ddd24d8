"""Partitions of an ended run to run again."""

from typing import Literal

from pipeline.runs import plan_pages, requests
from pipeline.sinks import commits, outcomes
from pipeline.stores import Store
from schemas.errors import RejectRateExceeded, by_code
from schemas.plan import RunRequest

Only = Literal["failed", "cancelled", "rejects"]


def to_retry(store: Store, request: RunRequest, only: Only) -> list[str]:
    """Return the partitions of a kind. `failed`; `cancelled`: also those not begun; `rejects`: published or refused
    with rejected rows. Partitions that were published since are left out."""
    times = {one.result.partition: one for one in outcomes.ended(store, request.run)}
    ended = {partition: one.result for partition, one in times.items()}
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
    return sorted(key for key in found if not _published_since(store, request.run, key, times.get(key)))


def _published_since(store: Store, run: str, partition: str, ended: outcomes.Ended | None) -> bool:
    current = commits.current(store, partition)
    if current is None or current.kind == "tombstone":
        return False
    began = requests.load_request(store, run)
    since = ended.at if ended is not None else began.created_at if began is not None else None
    return since is None or current.committed_at > since
