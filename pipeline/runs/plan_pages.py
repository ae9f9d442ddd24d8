"""A plan and its pages, read back."""

from collections.abc import Iterator

from pipeline.stores import Store
from schemas import ids
from schemas.messages.run import Page, PlannedPartition
from schemas.plan import Plan


def load_plan(store: Store, key: str) -> Plan:
    return Plan.model_validate_json(store.get(key))


def latest_plan(store: Store, run: str) -> Plan | None:
    """The plan that a run made last; None while it has none."""
    keys = [info.key for info in store.list(f"{ids.run_folder(run)}plan-") if info.key.endswith("/plan.json")]
    return max((load_plan(store, key) for key in keys), key=lambda plan: plan.created_at, default=None)


def load_page(store: Store, plan_key: str, page: int) -> Page:
    return Page.model_validate_json(store.get(ids.plan_page(plan_key, page)))


def planned_lines(store: Store, run: str, plan: str = "") -> Iterator[PlannedPartition]:
    """Each partition of a plan, or of all plans of a run where none is named."""
    prefix = f"{plan.removesuffix('plan.json')}page-" if plan else f"{ids.run_folder(run)}plan-"
    for info in store.list(prefix):
        if "/page-" in info.key:
            yield from Page.model_validate_json(store.get(info.key)).partitions


def planned_partitions(store: Store, run: str) -> set[str] | None:
    """The partitions that a run's plans would work on; None while it has no plan."""
    pages = [info.key for info in store.list(f"{ids.run_folder(run)}plan-") if "/page-" in info.key]
    if not pages:
        return None
    found = (Page.model_validate_json(store.get(key)) for key in pages)
    return {planned.key for page in found for planned in page.partitions if planned.run}
