"""A page of rows: filtered, sorted, or those that the last generation changed."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, get_args

from starlette.datastructures import QueryParams
from starlette.requests import Request
from starlette.responses import Response

from pipeline.outputs.cell import identities, identity_columns
from pipeline.outputs.changed_rows import ChangedRow, ChangedRows, changed_rows, earlier_generation
from pipeline.outputs.reader import ReaderSchema, reader_schema
from pipeline.outputs.row_pages import Filter, Operator, Order, RowPage, read_page
from pipeline.sinks import commits
from pipeline.web.rendering import cell, link
from pipeline.web.site import Shown, Site
from pipeline.web.views.common import (
    PAGE,
    dataset_of,
    number_of,
    published,
    show,
    site_of,
    spec_of_generation,
)
from schemas.arrow_tables import empty_frame
from schemas.errors import UsageError
from schemas.manifest import Manifest
from schemas.spec.sections import Spec

_OPERATORS = (
    ("is", "is"), ("not", "is not"), ("contains", "contains"), ("least", "at least"), ("most", "at most"),
    ("empty", "is empty"),
)  # fmt: skip
_MOST_KEYS = 2_000  # offered while one types
_NONE = "tandem run"
_LONGEST = 400  # characters of a cell that has changed: the difference may be at its end


@dataclass(frozen=True)
class Head:
    """A column: `stage` is the one that writes it, empty for a column of the source."""

    name: str
    type: str
    stage: str
    right: bool


@dataclass(frozen=True)
class Cell:
    """A value as text. `before`: of the earlier generation, if that differs and had the row."""

    text: str
    null: bool
    moved: bool = False
    before: str | None = None


@dataclass(frozen=True)
class Row:
    """A row. `id` is its identity, empty where that cannot be told; `at` its number in the partition."""

    partition: str
    id: str
    at: int
    cells: tuple[Cell, ...]


def rows(request: Request) -> Response:
    site, dataset, asked = site_of(request), dataset_of(request), request.query_params
    partition = asked.get("partition", "")
    manifests = [one for one in published(site, dataset) if partition in ("", one.partition)]
    if partition and not manifests:
        raise UsageError(f"{partition}: no such partition is published.", hint="See the list of partitions.")
    common = {
        "partition": partition, "keys": [one.partition for one in published(site, dataset)[:_MOST_KEYS]],
        "find": asked.get("find", ""), "column": asked.get("column", ""), "operator": asked.get("operator", "is"),
        "value": asked.get("value", ""), "operators": _OPERATORS, "sort": asked.get("sort", ""),
        "down": bool(asked.get("down")), "page": number_of(asked, "page", 1), "page_size": PAGE,
        "several": len(manifests) > 1, "statuses": _statuses(dataset, partition, manifests),
    }  # fmt: skip
    if not any(one.counts.out for one in manifests):
        text = "This partition is empty." if partition else "Nothing is published yet."
        return show(
            request, "rows", "rows", dataset, **common, changed=False, heads=[], names=[], rows=[], more=False, total=0,
            lead="", none_text=text, none_command="" if partition else _NONE, stopped="",
        )  # fmt: skip
    page = number_of(asked, "page", 1)
    found = _changed(site, dataset, manifests, page) if asked.get("changed") else _read(dataset, manifests, asked)
    return show(request, "rows", "rows", dataset, **common, **found)


def _statuses(dataset: Shown, partition: str, manifests: Sequence[Manifest]) -> list[tuple[str, int, str]]:
    """Return what became of source rows, with the number, and where those are that are not published."""
    counts = [manifest.counts for manifest in manifests]
    found = [("published", sum(one.out for one in counts), "")]
    for name, place in (("rejected", "rejects"), ("pending", "review")):
        number = sum(getattr(one, name) for one in counts)
        found += [(name, number, link("d", dataset.slug, place, partition=partition))] if number else []
    filtered = sum(one.filtered for one in counts)
    return [*found, *([("filtered", filtered, "")] if filtered else [])]


def _read(dataset: Shown, manifests: Sequence[Manifest], asked: QueryParams) -> dict[str, Any]:
    shape = reader_schema(dataset.store, manifests)
    spec = spec_of_generation(dataset.store, manifests[-1])
    order = Order(asked["sort"], bool(asked.get("down"))) if asked.get("sort") else None
    page = read_page(
        dataset.store, manifests, offset=(number_of(asked, "page", 1) - 1) * PAGE, limit=PAGE,
        filters=filters_of(asked), order=order,
    )  # fmt: skip
    heads = heads_of(shape, spec, manifests[-1])
    return {
        "changed": False,
        "heads": heads,
        "names": shape.schema.names,
        "rows": _rows(page, [head.name for head in heads], shape, manifests[-1], spec),
        "more": page.more,
        "total": page.total,
        "lead": _lead(page, len(manifests)),
        "none_text": "No row matches." if page.of else "Nothing is published yet.",
        "none_command": "",
        "stopped": _stopped(page),
    }


def filters_of(asked: QueryParams) -> list[Filter]:
    """Return the filters of an address. Raises UsageError for an unknown condition."""
    found = [Filter("*", "contains", asked["find"])] if asked.get("find") else []
    if column := asked.get("column"):
        operator = asked.get("operator", "is")
        if operator not in get_args(Operator):
            raise UsageError(f"{operator!r} is no condition.", hint=f"There are: {', '.join(get_args(Operator))}.")
        found.append(Filter(column, operator, asked.get("value", "")))  # type: ignore[arg-type]  # checked above
    return found


def heads_of(shape: ReaderSchema, spec: Spec | None, manifest: Manifest) -> list[Head]:
    """Return the columns as they are shown: the key, what stages wrote, the others."""
    writers = _writers(shape, spec, manifest) if spec is not None else {}
    types = empty_frame(shape.schema).schema
    key = spec.source.key if spec is not None else []
    names = sorted(shape.schema.names, key=lambda name: (name not in key, name not in writers))
    return [
        Head(name, _type(str(shape.schema.field(name).type)), writers.get(name, ""), types[name].is_numeric())
        for name in names
    ]


def _writers(shape: ReaderSchema, spec: Spec, manifest: Manifest) -> dict[str, str]:
    """Return the stage of each column: by its declared output; what is neither that, nor of the source, nor a key of
    the partition, is of a stage over tables."""
    tables = ", ".join(stage.name for stage in spec.stages if stage.query)
    known = {*manifest.input_columns, *(part.partition("=")[0] for part in manifest.partition.split("/"))}
    by_table = {name: tables for name in shape.schema.names if name not in known} if tables else {}
    return by_table | {name: stage.name for stage in spec.stages for name in stage.output}


def _type(arrow: str) -> str:
    names = {"string": "text", "large_string": "text", "double": "float", "bool": "true/false"}
    if arrow.startswith("timestamp"):
        return "time, UTC" if "tz=" in arrow else "time"
    return names.get(arrow, arrow)


def _lead(page: RowPage, partitions: int) -> str:
    where = f"{page.of:,} rows in {partitions:,} partition{'s' * (partitions != 1)}"
    return where if page.total is None or page.total == page.of else f"{page.total:,} of {where}"


def _stopped(page: RowPage) -> str:
    if page.total is not None or page.searched == page.of or page.more:
        return ""
    return f"Searched {page.searched:,} of {page.of:,} rows, then stopped: choose a partition to search the rest."


def _rows(page: RowPage, names: Sequence[str], shape: ReaderSchema, manifest: Manifest, spec: Spec | None) -> list[Row]:
    identity = identity_columns(shape, manifest, spec.source.key if spec is not None else ())
    row_ids = identities(page.rows, identity) if identity else [""] * page.rows.height
    lines = []
    for place, row_id, values in zip(page.places, row_ids, page.rows.select(names).iter_rows(), strict=True):
        cells = tuple(Cell(cell(value), value is None) for value in values)
        lines.append(Row(place.part.partition, row_id, place.row, cells))
    return lines


# What the last generation changed ------------------------------------------------------------------------------------


def _changed(site: Site, dataset: Shown, manifests: Sequence[Manifest], page: int) -> dict[str, Any]:
    store = dataset.store
    spec = spec_of_generation(store, manifests[-1])
    key = spec.source.key if spec is not None else []
    offset, lines, compared, total = (page - 1) * PAGE, list[Row](), 0, 0
    shape, more, without = reader_schema(store, manifests), False, 0
    heads, differing = heads_of(shape, spec, manifests[-1]), set[str]()
    for listed in manifests:
        if more:
            break
        whole = commits.read_commit(store, listed.partition, listed.generation) if listed.generation > 1 else None
        earlier = earlier_generation(store, whole) if whole is not None else None
        if whole is None or earlier is None:
            without += 1
            continue
        compared += 1
        differences = site.recently.get(
            ("changed", dataset.slug, whole.partition, whole.generation),
            partial(changed_rows, store, whole, earlier, key),
        )
        differing.update(name for row in differences.rows if row.before is not None for name in row.columns)
        mine = differences.rows[max(0, offset - total) : max(0, offset - total) + PAGE - len(lines)]
        total += len(differences.rows)
        lines += _changed_rows(differences, mine, [head.name for head in heads], key)
        more = total > offset + len(lines)
    return {
        "changed": True,
        "heads": heads,
        "names": shape.schema.names,
        "rows": lines,
        "more": more,
        "total": None if more else total,
        "lead": _changed_lead(total, compared, more, [head.name for head in heads if head.name in differing]),
        "none_text": "No row differs between the last two generations." if compared else _NO_EARLIER,
        "none_command": "",
        "stopped": f"{without:,} of {len(manifests):,} partitions have no earlier generation." if without else "",
    }


_NO_EARLIER = "There is no earlier generation to compare with: sink.keep_generations says how many are kept."


def _changed_lead(total: int, compared: int, more: bool, differing: Sequence[str]) -> str:
    columns = f" Columns that differ: {', '.join(differing)}." if differing else ""
    least = "at least " if more else ""
    return (
        f"{least}{total:,} rows differ between the last two generations of {compared:,} "
        f"partition{'s' * (compared != 1)}.{columns} The earlier value is struck through; rows that were rejected, or "
        "wait for a person, are in neither."
    )


def _changed_rows(
    differences: ChangedRows, rows: Sequence[ChangedRow], shown: Sequence[str], key: Sequence[str]
) -> list[Row]:
    if not rows:
        return []
    now, before = differences.values(rows)
    names = identity_columns(differences.shape, differences.current, key)
    row_ids = identities(now, names) if names else [""] * len(rows)
    earlier = iter(before.to_dicts())
    found = []
    for row, row_id, values in zip(rows, row_ids, now.to_dicts(), strict=True):
        old = next(earlier) if row.before is not None else None
        cells = tuple(_changed_cell(name, values.get(name), row, old) for name in shown)
        found.append(Row(differences.current.partition, row_id, row.now.row, cells))
    return found


def _changed_cell(name: str, value: Any, row: ChangedRow, old: dict[str, Any] | None) -> Cell:
    if old is None:
        return Cell(cell(value), value is None, moved=True)
    if name not in row.columns:
        return Cell(cell(value), value is None)
    before = "null" if old.get(name) is None else cell(old[name], _LONGEST)
    return Cell(cell(value, _LONGEST), value is None, moved=True, before=before)
