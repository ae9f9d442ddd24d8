"""The first page: every dataset in one line."""

from dataclasses import dataclass
from datetime import datetime

from starlette.requests import Request
from starlette.responses import Response

from pipeline.settings import temporal_configured
from pipeline.web.facts.runs import RunLine
from pipeline.web.site import Shown, Site
from pipeline.web.views.common import published, runs, show, site_of, statuses
from schemas.errors import TandemError


@dataclass(frozen=True)
class DatasetLine:
    """A dataset with its counts; `problem`: why they cannot be read."""

    dataset: Shown
    rows: int = 0
    partitions: int = 0
    published: int = 0
    rejected: int = 0
    pending: int = 0
    cost_usd: float = 0.0
    published_at: datetime | None = None
    last: RunLine | None = None
    problem: str = ""


def datasets(request: Request) -> Response:
    site = site_of(request)
    lines = [_line(site, dataset) for dataset in site.datasets().values()]
    temporal = "Temporal is configured." if temporal_configured() else ""
    return show(request, "datasets", lines=lines, temporal=temporal)


def _line(site: Site, dataset: Shown) -> DatasetLine:
    try:
        current = published(site, dataset)
        listed = runs(site, dataset)
        return DatasetLine(
            dataset=dataset,
            rows=sum(manifest.counts.out for manifest in current),
            partitions=sum(not status.retired for status in statuses(site, dataset)),
            published=len(current),
            rejected=sum(manifest.counts.rejected for manifest in current),
            pending=sum(manifest.counts.pending for manifest in current),
            cost_usd=sum(line.cost_usd for line in listed),
            published_at=max((manifest.committed_at for manifest in current), default=None),
            last=listed[0] if listed else None,
        )
    except TandemError as exc:
        return DatasetLine(dataset, problem=f"{exc.message} {exc.hint or ''}".strip())
