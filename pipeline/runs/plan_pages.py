"""A plan and its pages, read back."""

import datetime as dt
from collections.abc import Iterator

from pipeline.runs.report import load_report
from pipeline.stores import Store
from pipeline.stores.documents import read_document
from schemas import ids
from schemas.messages.run import Page, PlannedPartition
from schemas.plan import Plan

_SECOND = dt.timedelta(seconds=1)


def load_plan(store: Store, key: str) -> Plan:
    return read_document(store, key, Plan)


def latest_plan(store: Store, run: str) -> Plan | None:
    """Load the last plan of a run; None while it has none."""
    keys = [info.key for info in store.list(f"{ids.run_folder(run)}plan-") if info.key.endswith("/plan.json")]
    return max((load_plan(store, key) for key in keys), key=lambda plan: plan.created_at, default=None)


def load_page(store: Store, plan_key: str, page: int) -> Page:
    return read_document(store, ids.plan_page(plan_key, page), Page)


def is_closed(store: Store, run: str) -> bool:
    """True if a run has ended: its last plan is older than its report."""
    report = store.head(ids.report(run))
    last = latest_plan(store, run)
    if report is None or last is None or last.created_at <= report.modified:
        return report is not None
    # S3 tells whole seconds, in which a short run may have been planned and ended.
    if last.created_at - report.modified >= _SECOND:
        return False
    told = load_report(store, run)
    return told is not None and told.finished_at is not None and told.finished_at >= last.created_at


def planned_lines(store: Store, run: str, plan: str = "") -> Iterator[PlannedPartition]:
    """Yield each partition of a plan, or of all plans of a run if none is named."""
    prefix = f"{plan.removesuffix('plan.json')}page-" if plan else f"{ids.run_folder(run)}plan-"
    for info in store.list(prefix):
        if "/page-" in info.key:
            yield from read_document(store, info.key, Page).partitions


def planned_partitions(store: Store, run: str) -> set[str] | None:
    """Return the partitions that a run's plans run; None while it has no plan."""
    pages = [info.key for info in store.list(f"{ids.run_folder(run)}plan-") if "/page-" in info.key]
    if not pages:
        return None
    found = (read_document(store, key, Page) for key in pages)
    return {planned.key for page in found for planned in page.partitions if planned.run}
