"""The dataset behind a sink: whose it is, the types that its source was pinned to, its declared schema."""

import pyarrow as pa

from pipeline.sources.snapshot import decode_schema, encode_schema
from pipeline.stores import Store
from schemas import ids
from schemas.errors import ObjectExists, ObjectMissing, SchemaChanged, SinkError
from schemas.manifest import Noun


class Dataset(Noun):
    """Written at the first publish. `types` pins a text source's columns; `keys` are columns that only paths hold."""

    format: int = 1
    pipeline: str
    types: dict[str, str] = {}
    keys: tuple[str, ...] = ()


class DeclaredSchema(Noun):
    """`columns` is for people and other languages; `arrow_schema` is exact (IPC, base64)."""

    version: int
    columns: dict[str, str]
    keys: dict[str, str] = {}
    arrow_schema: str


def load_dataset(store: Store, pipeline: str) -> Dataset | None:
    """What the sink holds, None for a new one. Raises SinkError where it is another pipeline's."""
    try:
        found = Dataset.model_validate_json(store.get(ids.DATASET))
    except ObjectMissing:
        return None
    if found.pipeline != pipeline:
        raise SinkError(
            f"{store.uri} is the sink of the pipeline {found.pipeline!r}, not of {pipeline!r}.",
            hint="Give each pipeline a sink.path of its own, or use the first one's name.",
        )
    return found


def claim(store: Store, wanted: Dataset) -> Dataset:
    """Make the sink this pipeline's, pinning the types of columns not pinned yet. Raises SinkError."""
    known = load_dataset(store, wanted.pipeline)
    if known is None:
        try:
            store.put_new(ids.DATASET, wanted.model_dump_json().encode())
            return wanted
        except ObjectExists:
            known = load_dataset(store, wanted.pipeline)
    assert known is not None
    types = {**wanted.types, **known.types}
    if types != known.types:
        known = known.model_copy(update={"types": types})
        store.put(ids.DATASET, known.model_dump_json().encode())
    return known


def load_schema(store: Store) -> DeclaredSchema | None:
    try:
        return DeclaredSchema.model_validate_json(store.get(ids.SCHEMA))
    except ObjectMissing:
        return None


def declare_schema(store: Store, schema: pa.Schema, keys: dict[str, str]) -> None:
    """Declare the schema of what is about to be published: the first, or an additive change. Raises SchemaChanged."""
    known = load_schema(store)
    wanted = DeclaredSchema(
        version=1 if known is None else known.version + 1,
        columns={field.name: str(field.type) for field in schema},
        keys=keys,
        arrow_schema=encode_schema(schema),
    )
    if known is None:
        try:
            store.put_new(ids.SCHEMA, wanted.model_dump_json().encode())
            return
        except ObjectExists:
            known = load_schema(store)
            assert known is not None
    _refuse(known, schema)
    if known.columns != wanted.columns:
        store.put(ids.SCHEMA, wanted.model_dump_json().encode())


def refuse_breaking(store: Store, schema: pa.Schema) -> None:
    """Raises SchemaChanged where `declare_schema` would; declares nothing."""
    known = load_schema(store)
    if known is not None:
        _refuse(known, schema)


def _refuse(known: DeclaredSchema, schema: pa.Schema) -> None:
    difference = breaking(decode_schema(known.arrow_schema), schema)
    if difference:
        raise SchemaChanged(
            f"The output would change the dataset's schema: {'; '.join(difference)}.",
            hint="Only new columns may be added. Undo the change, or publish to another sink.path.",
        )


def breaking(before: pa.Schema, after: pa.Schema) -> list[str]:
    """What readers of `before` would miss or misread in `after`."""
    said = []
    for field in before:
        if field.name not in after.names:
            said.append(f"column {field.name!r} ({field.type}) is gone")
        elif after.field(field.name).type != field.type:
            said.append(f"column {field.name!r} was {field.type} and is {after.field(field.name).type}")
    return said
