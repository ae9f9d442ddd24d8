"""The datasets of a run by OpenLineage's naming, with their columns; kept beside the plan for the run's last event."""

import os
import re
from collections.abc import Sequence
from pathlib import Path

import pyarrow as pa

from pipeline.telemetry.lineage.origins import origins
from schemas.manifest import Noun
from schemas.spec.sections import Spec
from stages.contract import AnyStage

_GLOB = re.compile(r"[*?\[]")
_S3 = "s3://"


class Column(Noun):
    """A column, its type as Arrow writes it, and of an output the columns of the input that it was made from; `by`: the
    stages that made it, empty for one that is passed through."""

    name: str
    type: str
    origins: tuple[str, ...] = ()
    by: tuple[str, ...] = ()


class Dataset(Noun):
    """A dataset by OpenLineage's naming. `table`: a name under which an Iceberg catalog has it."""

    namespace: str
    name: str
    columns: tuple[Column, ...] = ()
    table: str = ""


class Datasets(Noun):
    """What a run reads and publishes. `rows`, `bytes`, `files`: of the whole source."""

    source: Dataset
    output: Dataset
    rows: int = 0
    bytes: int = 0
    files: int = 0


def named_dataset(path: str, base: Path = Path("/")) -> Dataset:
    """Return the dataset at a path: a file, a folder or a glob, whose fixed part names it; local, or `s3://…`."""
    if path.startswith(_S3):
        bucket, _, key = path.removeprefix(_S3).partition("/")
        return Dataset(namespace=f"{_S3}{bucket}", name=_fixed(key).strip("/") or "/")
    local = path.removeprefix("file://")
    return Dataset(namespace="file", name=os.path.abspath(_fixed(str(base / local))))


def datasets_of(spec: Spec, base: Path, sink: str, before: pa.Schema, after: pa.Schema, stages: Sequence[AnyStage]) -> (
    Datasets
):  # fmt: skip
    """Return the datasets of a spec whose stages are built. `sink`: its URI, or folder; `before`: the columns of the
    source, `after`: the published ones."""
    made = origins(stages, before)
    output = named_dataset(f"{sink.rstrip('/')}/data")
    table = (spec.sink.table or f"tandem.{spec.name}") if spec.sink.format == "iceberg" else ""
    columns = []
    for field in after:
        origin = made.get(field.name)  # none of columns that publishing adds
        columns.append(
            Column(
                name=field.name,
                type=str(field.type),
                origins=origin.columns if origin is not None else (),
                by=origin.by if origin is not None else (),
            )
        )
    source = named_dataset(spec.source.path, base)
    return Datasets(
        source=source.model_copy(update={"columns": tuple(Column(name=f.name, type=str(f.type)) for f in before)}),
        output=output.model_copy(update={"columns": tuple(columns), "table": table}),
    )


def _fixed(path: str) -> str:
    """Return the folders of a path before the first that is a pattern."""
    parts = path.split("/")
    kept = next((at for at, part in enumerate(parts) if _GLOB.search(part)), len(parts))
    return "/".join(parts[:kept])
