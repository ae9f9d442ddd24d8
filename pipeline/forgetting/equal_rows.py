"""Rows that stay and whose answer is recorded only under the name of a forgotten row.

Rows of a batch that are equal in what a stage reads share one record, under the name of the first. Who shares it is
found from the rows themselves: rejects and questions name what they read by its fingerprint; of published rows it is
computed.
"""

from collections.abc import Iterator, Sequence
from pathlib import Path

import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.clouds import model_services
from pipeline.forgetting.identities import Identities
from pipeline.forgetting.journals import Answer, JournalSearch, Kept, unnamed
from pipeline.forgetting.tables import IdsByKey
from pipeline.planning.preparation import build_job_stages
from pipeline.runs.plan_pages import latest_plan
from pipeline.sinks import commits
from pipeline.sinks.schema import key_schema, key_values, load_schema
from pipeline.sources.snapshot import load as load_snapshot
from pipeline.stores import Store
from pipeline.stores.parquet import batches_of, table_of
from schemas import ids
from schemas.errors import Damaged, ObjectMissing, SourceError, StoreError
from schemas.manifest import Manifest
from schemas.spec.sections import Spec
from stages.contract import GraphStage, graph_stages
from stages.execution.row_prints import row_prints
from stages.user_code import add_user_folder

_ROWS = 65_536


def add_needed(spec: Spec, base: Path, store: Store, rows: Identities, found: JournalSearch, kept: Kept) -> None:
    """Add to `kept` the answers that rows of the current generations need, with one such row each. Raises UsageError if
    the spec's stages cannot be built, StoreError."""
    only = unnamed(found, kept)
    if not only:
        return
    stages = _stages_of(spec, base, store)
    for partition, answers in only.items():
        manifest = commits.current(store, partition)
        if manifest is None or not manifest.present:
            continue
        for name, answer in _answers_of(store, spec.source.key, manifest, stages):
            if answer in answers and not rows.has(name):
                kept.need(partition, answer, name, found)


def _stages_of(spec: Spec, base: Path, store: Store) -> list[GraphStage]:
    """Build the spec's stages over the columns of the last input that was read; the source itself is not. Returns none
    if the sink knows no input any more."""
    columns = _input_columns(store)
    if columns is None:
        return []
    add_user_folder(base)
    return graph_stages(build_job_stages(spec, columns, base, model_services()))


def _input_columns(store: Store) -> pa.Schema | None:
    plans = (latest_plan(store, run) for run in store.folders(ids.RUNS))
    last = sorted((plan for plan in plans if plan is not None), key=lambda plan: plan.created_at, reverse=True)
    found = [info.key for info in store.list(ids.SNAPSHOTS) if info.key.endswith("/snapshot.json")]
    for key in dict.fromkeys([*(plan.snapshot for plan in last), *found]):
        try:
            return load_snapshot(store, key).schema
        except (ObjectMissing, Damaged, SourceError):
            continue
    return None


def _answers_of(
    store: Store, key: Sequence[str], manifest: Manifest, stages: Sequence[GraphStage]
) -> Iterator[tuple[str, Answer]]:
    """Yield the identity of each row with each answer that it has, as far as the generation's files tell."""
    for file in (*manifest.rejects, *manifest.pending):
        with store.open_input(file.key) as source:
            table = pl.DataFrame(table_of(source, columns=["row_id", "stage_fingerprint", "row_fingerprint"]))
        yield from ((name, (stage, row)) for name, stage, row in table.iter_rows())
    declared = load_schema(store)
    keys = key_schema(declared) if declared is not None else pa.schema([])
    folder = dict(key_values(manifest.partition, keys)) if keys.names else {}
    for file in manifest.files:
        try:
            yield from _of_data(store, file.key, IdsByKey(list(key), folder), stages)
        except ObjectMissing as exc:
            raise StoreError(f"{store.uri}/{file.key} is gone.", hint="See: tandem outputs verify") from exc


def _of_data(store: Store, file: str, ids_of: IdsByKey, stages: Sequence[GraphStage]) -> Iterator[tuple[str, Answer]]:
    with store.open_input(file) as source, pq.ParquetFile(source) as parquet:
        names = set(parquet.schema_arrow.names) | ids_of.folder.keys()
        readable = [stage for stage in stages if set(stage.reads) <= names]
        if not readable or not ids_of.fits(parquet.schema_arrow):
            return
        for batch in batches_of(parquet, _ROWS):
            table = pa.Table.from_batches([batch])
            for name in ids_of.folder.keys() - set(table.column_names):
                table = table.append_column(name, pa.repeat(ids_of.folder[name], table.num_rows))
            frame, identities = pl.DataFrame(table), ids_of(table).to_list()
            for stage in readable:
                for name, row in zip(identities, row_prints(stage, frame, identities), strict=True):
                    yield name, (stage.fingerprint, row)
