"""One row: a cell with its origin, the generation before beside it, and all other cells."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from starlette.requests import Request
from starlette.responses import Response

from pipeline.outputs.cell import find_row, identity_columns, trace
from pipeline.outputs.changed_rows import earlier_generation
from pipeline.outputs.reader import ReaderSchema, reader_schema
from pipeline.outputs.row_pages import gather
from pipeline.sinks import commits
from pipeline.sinks.row_files import row_name
from pipeline.stores import Store
from pipeline.web.facts.origin import StageText, stage_texts
from pipeline.web.rendering import link, plain
from pipeline.web.site import Shown
from pipeline.web.views.common import dataset_of, number_of, show, spec_of_generation
from pipeline.web.views.partitions import changes_between
from schemas.errors import UsageError
from schemas.manifest import Manifest
from schemas.spec.sections import Spec

_NOTHING = "The journal has nothing about this row: it may have been dropped (journal.keep), or the spec is not kept."


@dataclass(frozen=True)
class Generation:
    """A generation of a partition, with the spec that it was made with and the columns that identify a row."""

    manifest: Manifest
    spec: Spec | None
    shape: ReaderSchema
    identity: list[str]

    @classmethod
    def of(cls, store: Store, manifest: Manifest) -> "Generation":
        """Raises UsageError if its rows cannot be told apart."""
        spec, shape = spec_of_generation(store, manifest), reader_schema(store, [manifest])
        names = identity_columns(shape, manifest, spec.source.key if spec is not None else ())
        if names is None:
            raise UsageError("Rows of this dataset cannot be told apart: not all columns of their key are published.")
        return cls(manifest, spec, shape, names)

    def values(self, store: Store, row: str, hint: int = 0) -> dict[str, Any] | None:
        """Return a row's cells; None if the generation has it not."""
        place = find_row(store, self.manifest, self.shape, self.identity, row, hint)
        return None if place is None else gather([place], self.shape).to_dicts()[0]

    def traces(self, store: Store, row: str, values: Mapping[str, Any]) -> list[StageText]:
        if self.spec is None:
            return []
        return stage_texts(trace(store, self.manifest, self.spec, row, values), self.spec, self.manifest)


@dataclass(frozen=True)
class Before:
    """The cell in the generation before. `why`: what has changed since; `absent`: why there is no value."""

    generation: int
    run: str
    at: datetime
    value: str | None
    same: bool
    absent: str
    by: str
    why: str
    link: str


def row(request: Request) -> Response:
    dataset, asked = dataset_of(request), request.query_params
    partition, row_id, column = asked.get("partition", ""), asked.get("row", ""), asked.get("column", "")
    manifest = _manifest(dataset, partition, asked.get("generation", ""), asked.get("run", ""))
    generation = Generation.of(dataset.store, manifest)
    values = generation.values(dataset.store, row_id, number_of(asked, "at", 0, least=0))
    if values is None:
        raise UsageError(
            f"{partition} has no row {row_id!r} in generation {manifest.generation}.",
            hint="It may have been rejected, or be gone from the source; see the rejects.",
        )
    if column and column not in values:
        raise UsageError(f"There is no column {column!r}.", hint=f"Columns: {', '.join(values)}")
    traces = generation.traces(dataset.store, row_id, values)
    writer = next((one for one in traces if column in one.writes), None)
    shown_traces = [one for one in traces if writer is None or one is writer] if column else traces
    if column and writer is None:
        shown_traces = []
    latest = commits.current(dataset.store, partition)
    current = latest is not None and latest.generation == manifest.generation
    key = generation.spec.source.key if generation.spec is not None else []
    name = row_name({part: values[part] for part in key if part in values}) if key else ""
    target = {"partition": partition, "row": row_id, "generation": "" if current else manifest.generation}
    return show(
        request, "row", "rows", dataset, partition=partition, row_id=row_id, column=column, name=name,
        title=f"{column or 'row'} of {name or row_id[:12]}",
        value=plain(values[column]) if column and values[column] is not None else None,
        origin=_origin(column, writer, generation), traces=shown_traces, nothing=_nothing(column, traces, generation),
        before=_before(dataset, generation, row_id, column, values) if column and current else None,
        later="" if current else link("d", dataset.slug, "row", partition=partition, row=row_id, column=column),
        generation=manifest.generation, queries=_queries(column, writer, generation),
        values=[
            (head, plain(value), value is None, link("d", dataset.slug, "row", **target, column=head))
            for head, value in values.items()
        ],
        where=[
            ("partition", partition), ("generation", f"{manifest.generation}"), ("run", manifest.run),
            ("row id", row_id),
        ],
    )  # fmt: skip


def _manifest(dataset: Shown, partition: str, generation: str, run: str) -> Manifest:
    """Return the generation of this number, else the latest that this run has published, else the latest of all."""
    if run and not generation and partition:
        of_run = [one.generation for one in commits.history(dataset.store, partition) if one.run == run and one.present]
        generation = f"{of_run[-1]}" if of_run else ""
    if generation.isascii() and generation.isdigit():
        manifest = commits.read_commit(dataset.store, partition, int(generation)) if partition else None
    else:
        manifest = commits.current(dataset.store, partition) if partition else None
    if manifest is None or not manifest.present:
        raise UsageError(f"{partition}: no such partition is published.", hint="See the list of partitions.")
    return manifest


def _origin(column: str, writer: StageText | None, generation: Generation) -> str:
    if writer is not None:
        return f"Written by the stage {writer.name} ({writer.uses}), generation {generation.manifest.generation}."
    if column in generation.manifest.input_columns:
        return "A column of the source, passed through."
    if generation.spec is None:
        return "The spec of this generation is not kept, so the stage that wrote it is unknown."
    tables = [stage.name for stage in generation.spec.stages if not stage.output]
    return f"Written by a stage that works on tables: {', '.join(tables)}." if tables else "A key of the partition."


def _queries(column: str, writer: StageText | None, generation: Generation) -> list[tuple[str, str]]:
    """Return the stages over tables that may have written a cell that no model wrote, with their SQL."""
    if not column or writer is not None or generation.spec is None or column in generation.manifest.input_columns:
        return []
    return [(stage.name, stage.query) for stage in generation.spec.stages if stage.query]


def _nothing(column: str, traces: Sequence[StageText], generation: Generation) -> str:
    if column and (traces or column in generation.manifest.input_columns):
        return "No model was asked for this cell."
    return _NOTHING


def _before(dataset: Shown, now: Generation, row_id: str, column: str, values: Mapping[str, Any]) -> Before | None:
    """Return the cell in the generation before, None without one whose files are kept."""
    store = dataset.store
    manifest = earlier_generation(store, now.manifest)
    if manifest is None:
        return None
    earlier = Generation.of(store, manifest)
    found = earlier.values(store, row_id)
    absent = "That generation did not have the row." if found is None else ""
    if found is not None and column not in found:
        absent = "That generation did not have the column."
    value = (found or {}).get(column)
    writer = next((t for t in earlier.traces(store, row_id, found or {}) if column in t.writes), None)
    return Before(
        generation=manifest.generation,
        run=manifest.run,
        at=manifest.committed_at,
        value=None if value is None else plain(value),
        same=not absent and value == values[column],
        absent=absent,
        by=", ".join(dict.fromkeys(call.by or call.model for call in writer.calls)) if writer is not None else "",
        why=changes_between(manifest, now.manifest),
        link="" if absent else link(
            "d", dataset.slug, "row", partition=manifest.partition, row=row_id, column=column,
            generation=manifest.generation,
        ),
    )  # fmt: skip
