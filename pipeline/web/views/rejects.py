"""Rejected rows by class, a page of them, and what the calls of one asked."""

from dataclasses import dataclass, replace
from typing import Any

import orjson
import polars as pl
from starlette.requests import Request
from starlette.responses import Response

from pipeline.journal.requests import requests_of
from pipeline.outputs.rejects import Rejects, all_rejects, classes, retryable
from pipeline.sinks.row_files import row_name
from pipeline.web.rendering import pretty
from pipeline.web.site import Shown, Site
from pipeline.web.views.common import PAGE, dataset_of, number_of, show, site_of


@dataclass(frozen=True)
class RejectClass:
    """Rejected rows of one stage and error, over partitions; `retryable`: those that a retry would call for again."""

    stage: str
    error: str
    rows: int
    retryable: int
    partitions: int
    message: str


@dataclass(frozen=True)
class RejectedRow:
    """A rejected row. `generation` None: its partition was not published. `requests`: as sent, None if not kept."""

    partition: str
    generation: int | None
    row_id: str
    name: str
    stage: str
    error: str
    attempts: int
    message: str
    raw_answer: str
    requests: tuple[tuple[tuple[str, str], ...] | None, ...] = ()


def rejects(request: Request) -> Response:
    site, dataset, asked = site_of(request), dataset_of(request), request.query_params
    partition, error, stage = asked.get("partition", ""), asked.get("error", ""), asked.get("stage", "")
    found = _found(site, dataset, partition)
    chosen = [(one, _of_class(one.rows, stage, error)) for one in found]
    total = sum(rows.height for _, rows in chosen)
    page = number_of(asked, "page", 1)
    return show(
        request, "rejects", "rejects", dataset, partition=partition, error=error, stage=stage, classes=_classes(found),
        rows=_page(chosen, (page - 1) * PAGE), total=total, page=page, page_size=PAGE, more=total > page * PAGE,
        row=_one(dataset, found, asked.get("row", "")),
    )  # fmt: skip


def _found(site: Site, dataset: Shown, partition: str) -> list[Rejects]:
    """Return the rejects. Raises StoreError."""
    return site.recently.get(
        ("rejects", dataset.slug, partition), lambda: list(all_rejects(dataset.store, partition or None))
    )


def _of_class(rows: pl.DataFrame, stage: str, error: str) -> pl.DataFrame:
    for column, value in (("stage", stage), ("error", error)):
        rows = rows.filter(pl.col(column) == value) if value else rows
    return rows


def _classes(found: list[Rejects]) -> list[RejectClass]:
    lines: dict[tuple[str, str], list[dict[str, Any]]] = {}
    for rejects in found:
        for line in classes(rejects):
            lines.setdefault((str(line["stage"]), str(line["error"])), []).append(line)
    again = dict.fromkeys(lines, 0)
    for rejects in retryable(found):
        for stage, error in rejects.rows.select("stage", "error").iter_rows():
            again[stage, error] += 1
    grouped = [
        RejectClass(
            stage, error, sum(line["rows"] for line in many), again[stage, error], len(many), many[0]["message"] or ""
        )
        for (stage, error), many in lines.items()
    ]
    return sorted(grouped, key=lambda one: -one.rows)


def _page(chosen: list[tuple[Rejects, pl.DataFrame]], offset: int) -> list[RejectedRow]:
    lines: list[RejectedRow] = []
    for rejects, rows in chosen:
        here = rows.slice(offset, PAGE - len(lines)) if offset < rows.height else rows.head(0)
        offset = max(0, offset - rows.height)
        lines += [_row(rejects, line) for line in here.iter_rows(named=True)]
        if len(lines) == PAGE:
            break
    return lines


def _row(rejects: Rejects, line: dict[str, Any]) -> RejectedRow:
    return RejectedRow(
        partition=rejects.partition,
        generation=rejects.generation,
        row_id=line["row_id"],
        name=row_name(orjson.loads(line["key"] or "{}")) or line["row_id"][:12],
        stage=line["stage"],
        error=line["error"],
        attempts=line["attempts"],
        message=line["message"] or "",
        raw_answer=pretty(line["raw_answer"] or ""),
    )


def _one(dataset: Shown, found: list[Rejects], row: str) -> RejectedRow | None:
    """Return one row with what its calls asked."""
    for rejects in found if row else ():
        for line in rejects.rows.filter(pl.col("row_id") == row).iter_rows(named=True):
            calls = [request for request, _ in orjson.loads(line["calls"] or "[]")]
            kept = requests_of(dataset.store, rejects.partition, calls) if calls else {}
            asked = tuple(_messages(kept[call]) if call in kept else None for call in calls)
            one = _row(rejects, line)
            return replace(one, requests=asked)
    return None


def _messages(request: dict[str, Any]) -> tuple[tuple[str, str], ...]:
    return tuple((str(one.get("role", "")), _text(one.get("content"))) for one in request["messages"])


def _text(content: Any) -> str:
    return content if isinstance(content, str) else pretty(content)
