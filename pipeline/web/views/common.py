"""What all pages need: the dataset of the address, its tabs, parameters, and the page around it."""

import datetime as dt
from collections.abc import Callable, Mapping
from typing import Any

from starlette.requests import Request
from starlette.responses import HTMLResponse, RedirectResponse

from pipeline.planning.partition_status import PartitionStatus, partition_statuses
from pipeline.runs import requests
from pipeline.runs.statistics import document as statistics
from pipeline.runs.statistics.document import RunStatistics
from pipeline.stores import Store
from pipeline.web import rendering
from pipeline.web.facts.runs import RunLine, runs_of
from pipeline.web.rendering import link
from pipeline.web.site import Shown, Site
from schemas.errors import StoreError, TandemError
from schemas.manifest import Manifest
from schemas.spec.sections import Spec

PAGE = 100
_READ = 100  # of the latest runs, the statistics
_TABS = (
    ("partitions", "Partitions"), ("rows", "Rows"), ("runs", "Runs"), ("rejects", "Rejects"), ("review", "Review"),
    ("spend", "Spend"), ("schedules", "Schedules"),
)  # fmt: skip


def site_of(request: Request) -> Site:
    site: Site = request.app.state.site
    return site


def dataset_of(request: Request) -> Shown:
    return site_of(request).dataset(request.path_params["dataset"])


def statuses(site: Site, dataset: Shown) -> list[PartitionStatus]:
    """Return the partitions, as the sink has them. Raises StoreError."""
    now = dt.datetime.now(dt.UTC)
    return site.recently.get(("partitions", dataset.slug), lambda: list(partition_statuses(dataset.store, None, now)))


def runs(site: Site, dataset: Shown) -> list[RunLine]:
    """Return the runs, the newest first. Raises StoreError."""
    return site.recently.get(("runs", dataset.slug), lambda: runs_of(dataset.store))


def run_statistics(site: Site, dataset: Shown) -> dict[str, RunStatistics]:
    """Return the statistics of the latest runs that made calls, by the run's name. Raises StoreError."""

    def read() -> dict[str, RunStatistics]:
        called = [line.name for line in runs(site, dataset)[:_READ] if line.calls]  # a price may be unknown, or 0
        found = {name: statistics.load(dataset.store, name) for name in called}
        return {name: one for name, one in found.items() if one is not None}

    return site.recently.get(("statistics", dataset.slug), read)


def published(site: Site, dataset: Shown) -> list[Manifest]:
    """Return the current generations, as lists have them."""
    return [one.published for one in statuses(site, dataset) if one.published is not None]


def spec_of_generation(store: Store, manifest: Manifest) -> Spec | None:
    """Return the spec that a generation was made with; None where its run is not kept."""
    request = requests.load_request(store, manifest.run)
    try:
        return None if request is None else requests.load_spec_of(store, request.spec)
    except TandemError:
        return None


def number_of(parameters: Mapping[str, str], name: str, default: int, least: int = 1) -> int:
    """Return a number of an address, the default for what is none."""
    text = parameters.get(name, "")
    return max(least, int(text)) if text.isascii() and text.isdigit() and len(text) < 10 else default


def url_of(request: Request) -> Callable[..., str]:
    """Return a function that gives this address with some parameters changed."""
    path = request.url.path.lstrip("/").split("/")
    kept = {name: value for name, value in request.query_params.items() if name not in ("note", "token")}
    return lambda **changed: link(*path, **{**kept, **changed})


def show(request: Request, template: str, tab: str = "", dataset: Shown | None = None, **values: Any) -> HTMLResponse:
    site = site_of(request)
    note = site.noted(request.query_params.get("note", ""))
    return rendering.page(
        f"page/{template}.html", dataset=dataset, tab=tab, tabs=_tabs(site, dataset), note=note,
        acts=site.access.acts, csrf=site.access.csrf, url=url_of(request), **values,
    )  # fmt: skip


def _tabs(site: Site, dataset: Shown | None) -> list[tuple[str, str, int]]:
    """Return the tabs with the number of things that wait for somebody."""
    counts: dict[str, int] = {}
    try:
        for manifest in published(site, dataset) if dataset is not None else ():
            counts["rejects"] = counts.get("rejects", 0) + manifest.counts.rejected
            counts["review"] = counts.get("review", 0) + manifest.counts.pending
    except StoreError:
        counts = {}  # the page itself says what is wrong
    return [(name, label, counts.get(name, 0)) for name, label in _TABS]


def back_to(site: Site, text: str, *path: str, **parameters: Any) -> RedirectResponse:
    """Go to a page that shows this message once."""
    site.recently.forget()
    return RedirectResponse(link(*path, **parameters, note=site.note(text)), 303)
