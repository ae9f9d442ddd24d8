"""All partitions as a map and a table; one partition with its generations."""

import asyncio
import datetime as dt
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import Response

from pipeline.outputs.changed_rows import earlier_generation
from pipeline.planning.partition_status import PartitionStatus
from pipeline.runs.html.templates import Figure
from pipeline.sinks import commits
from pipeline.web.apart import apart
from pipeline.web.facts.at_work import partitions_at_work
from pipeline.web.facts.partitions import MEASURES, STATES, Measure, map_of, state_of
from pipeline.web.rendering import ago, number, size
from pipeline.web.site import Shown, Site
from pipeline.web.views.common import PAGE, dataset_of, number_of, run_statistics, runs, show, site_of, statuses
from schemas.errors import TandemError, UsageError
from schemas.manifest import Manifest

_LEAST_MAPPED = 8
_COLUMNS = (
    ("partition", "partition", False), ("state", "state", False), ("rows", "rows", True),
    ("rejected", "rejected", True), ("pending", "waiting", True), ("size", "size", True),
    ("generation", "generation", True), ("at", "published", False),
)  # fmt: skip


@dataclass(frozen=True)
class PartitionRow:
    """A partition as a line of the table."""

    status: PartitionStatus
    state: str
    rows: int
    rejected: int
    pending: int
    generation: int
    at: dt.datetime | None

    def sort_key(self, name: str) -> Any:
        match name:
            case "partition":
                return self.status.partition
            case "state":
                return STATES.index(self.state)
            case "size":
                return self.status.bytes
            case "at":
                return self.at or dt.datetime.min.replace(tzinfo=dt.UTC)
        return getattr(self, name)


def _row(status: PartitionStatus, now: Mapping[str, str]) -> PartitionRow:
    manifest, state = status.published, state_of(status, now)
    if manifest is None:
        return PartitionRow(status, state, 0, 0, 0, 0, None)
    counts = manifest.counts
    return PartitionRow(
        status,
        state,
        counts.out,
        counts.rejected,
        counts.pending,
        manifest.generation,
        manifest.committed_at,
    )


async def partitions(request: Request) -> Response:
    site, dataset = site_of(request), await run_in_threadpool(dataset_of, request)
    connection = await site.connection(dataset.base)
    lines = await run_in_threadpool(runs, site, dataset)
    now = await partitions_at_work(connection, dataset.store, lines)
    return await run_in_threadpool(_partitions, request, now)


def _partitions(request: Request, now: Mapping[str, str]) -> Response:
    site, dataset, asked = site_of(request), dataset_of(request), request.query_params
    compared, problem = bool(asked.get("source")), ""
    try:
        found = _compared(site, dataset) if compared else statuses(site, dataset)
    except TandemError as exc:
        if not compared:
            raise
        found, compared, problem = statuses(site, dataset), False, exc.message
    found = [*found, *_first_at_work(found, now)]
    rows = [_row(status, now) for status in found]
    show_by = asked.get("show", "state")
    measure = _cost(site, dataset) if show_by == "cost" else MEASURES.get(show_by)
    drawn = map_of(found, measure, now) if len(found) >= _LEAST_MAPPED else None
    chosen = _chosen(rows, asked.get("status", ""), asked.get("find", ""))
    sort = asked.get("sort", "")
    if sort in {name for name, _, _ in _COLUMNS}:
        chosen = sorted(chosen, key=lambda row: row.sort_key(sort), reverse=bool(asked.get("down")))
    page = number_of(asked, "page", 1)
    counts = Counter(row.state for row in rows)
    return show(
        request, "partitions", "partitions", dataset,
        all=len(rows), figures=_figures(rows), map=drawn, cells=_cells(rows, drawn.cells) if drawn else [],
        measures=[("state", "state"), *((name, one.name) for name, one in MEASURES.items()), ("cost", "cost")],
        show=show_by if measure else "state", counts=[(name, counts[name]) for name in STATES if counts[name]],
        status=asked.get("status", ""), find=asked.get("find", ""), columns=_COLUMNS, sort=sort,
        down=bool(asked.get("down")), compared=compared, problem=problem,
        lines=chosen[(page - 1) * PAGE : page * PAGE], page=page, page_size=PAGE, more=len(chosen) > page * PAGE,
        total=len(chosen),
    )  # fmt: skip


def _first_at_work(found: list[PartitionStatus], now: Mapping[str, str]) -> list[PartitionStatus]:
    """Return those at work that the sink does not have yet."""
    known = {one.partition for one in found}
    return [
        PartitionStatus(key, None, 0, None, due=True, gone=False, reason="its first run") for key in sorted(now)
        if key not in known
    ]  # fmt: skip


def _cost(site: Site, dataset: Shown) -> Measure:
    """Return what each partition has cost so far, in the runs whose statistics are kept."""
    costs: dict[str, float] = {}
    for one in run_statistics(site, dataset).values():
        for line in one.lines:
            costs[line.partition] = costs.get(line.partition, 0.0) + line.cost_usd
    return Measure("cost", "USD", lambda status: costs.get(status.partition))


def _cells(rows: list[PartitionRow], places: tuple[tuple[int, int], ...]) -> list[list[Any]]:
    """Return what the map shows of each square under the pointer."""
    return [
        [x, y, row.status.partition, f"{row.state}, {number(row.rows)} rows"]
        for row, (x, y) in zip(rows, places, strict=True)
    ]


def _chosen(rows: list[PartitionRow], status: str, find: str) -> list[PartitionRow]:
    lowered = find.lower()
    return [row for row in rows if status in ("", row.state) and lowered in row.status.partition.lower()]


def _figures(rows: list[PartitionRow]) -> list[tuple[str, str]]:
    times = [row.at for row in rows if row.at is not None]
    return [
        ("published", f"{sum(row.at is not None for row in rows):,} of {sum(not r.status.retired for r in rows):,}"),
        ("rows", number(sum(row.rows for row in rows))),
        ("rejected", number(sum(row.rejected for row in rows))),
        ("waiting for a person", number(sum(row.pending for row in rows))),
        ("size", size(sum(row.status.bytes for row in rows))),
        ("last published", ago(max(times, default=None))),
    ]


def _compared(site: Site, dataset: Shown) -> list[PartitionStatus]:
    """Return the partitions with what a run would do, from the spec as it is now. Raises TandemError."""
    if dataset.spec is None:
        raise UsageError("The spec of this dataset is not known here.")
    spec, sink = dataset.spec, dataset.store.uri

    def read() -> list[PartitionStatus]:
        found: list[PartitionStatus] = asyncio.run(apart("compare", spec, sink))
        return found

    return site.recently.get(("compared", dataset.slug), read)


# One partition -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class GenerationRow:
    """A generation and what was different from the one before."""

    manifest: Manifest
    changes: str


def partition(request: Request) -> Response:
    site, dataset = site_of(request), dataset_of(request)
    key = request.query_params.get("key", "")
    status = next((one for one in statuses(site, dataset) if one.partition == key), None)
    if status is None:
        raise UsageError(f"{key}: no such partition.", hint="See the list of partitions.")
    history = list(commits.history(dataset.store, key))
    current = next((one for one in reversed(history) if one.present), None)
    checks = [(c.name, c.severity, c.rows, ", ".join(c.keys)) for c in (current.checks if current else ())]
    return show(
        request, "partition", "partitions", dataset,
        status=status, state_name=state_of(status), figures=_figures_of(status, current),
        earlier=earlier_generation(dataset.store, current) if current is not None else None, checks=checks,
        generations=[
            GenerationRow(one, changes_between(history[number - 1] if number else None, one))
            for number, one in reversed(list(enumerate(history)))
        ],
        stages=_stages(current) if current is not None else [],
        files=[(f.key, f.rows, f.size, f.sha256) for f in (current.files if current is not None else ())],
    )  # fmt: skip


def changes_between(before: Manifest | None, now: Manifest) -> str:
    """Return in words what made a generation differ from the one before."""
    if now.kind == "tombstone":
        return "a cancel: nothing was published"
    if now.kind == "retired":
        return "gone from the source"
    if before is None:
        return "the first"
    found = []
    for stage, aspects in now.stage_aspects.items():
        earlier = before.stage_aspects.get(stage)
        moved = [name for name in aspects if earlier is not None and aspects[name] != earlier.get(name)]
        if earlier is None:
            found.append(f"new stage {stage}")
        elif moved:
            found.append(f"{', '.join(moved)} of {stage}")
    found += [f"stage {stage} is gone" for stage in before.stage_aspects if stage not in now.stage_aspects]
    if before.input_fingerprint != now.input_fingerprint:
        found.append("the input")
    if before.counts.pending and now.counts.pending < before.counts.pending:
        found.append("rows that were answered")
    return "; ".join(found) or "asked for again"


def _figures_of(status: PartitionStatus, manifest: Manifest | None) -> list[tuple[str, str]]:
    if manifest is None:
        return [("published", "never")]
    counts = manifest.counts
    return [
        ("generation", number(manifest.generation)),
        ("rows", number(counts.out)),
        ("rows in", number(counts.rows_in)),
        ("rejected", number(counts.rejected)),
        ("filtered", number(counts.filtered)),
        ("waiting for a person", number(counts.pending)),
        ("size", size(status.bytes)),
    ]


def _stages(manifest: Manifest) -> list[tuple[object, ...]]:
    return [
        (
            one.stage,
            one.uses,
            ", ".join(f"{role}: {model}" for role, model in one.models.items()),
            one.prompt_digest or "",
            "; ".join(
                f"{name}: {Figure(f'{rows:,}')} rows"
                for models in manifest.answered_by.get(one.stage, {}).values()
                for name, rows in models.items()
            ),
        )
        for one in manifest.provenance
    ]
