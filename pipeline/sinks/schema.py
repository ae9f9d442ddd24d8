"""The dataset behind a sink: its pipeline, the types that its source was pinned to, its declared schema."""

from collections.abc import Mapping
from dataclasses import dataclass

import polars as pl
import pyarrow as pa
import pyarrow.compute as pc

from pipeline.stores import Store
from pipeline.stores.documents import read_document
from schemas import digests, ids, partition_keys
from schemas.errors import ObjectMissing, SchemaChanged, SinkError
from schemas.manifest import Manifest, Noun
from schemas.plan import REPUBLISH
from schemas.tables import decode_schema, encode_schema


class Dataset(Noun):
    """Written at the first publish. `types` pins a text source's columns; `keys` are columns that only paths hold."""

    format: int = 1
    pipeline: str
    types: dict[str, str] = {}
    keys: tuple[str, ...] = ()


class DeclaredSchema(Noun):
    """`columns` and `keys` are for people and other languages; `arrow_schema` and `arrow_keys` are exact (IPC, base64).
    Readers of version `compatible_since` and later understand one another; `earlier` are the versions before."""

    version: int
    columns: dict[str, str]
    keys: dict[str, str] = {}
    arrow_schema: str
    arrow_keys: str = ""
    compatible_since: int = 1
    earlier: tuple[dict[str, str], ...] = ()


def load_dataset(store: Store, pipeline: str) -> Dataset | None:
    """Return the dataset of the sink, None for a new one. Raises SinkError where it is another pipeline's."""
    try:
        found = read_document(store, ids.DATASET, Dataset)
    except ObjectMissing:
        return None
    if found.pipeline != pipeline:
        raise SinkError(
            f"{store.uri} is the sink of the pipeline {found.pipeline!r}, not of {pipeline!r}.",
            hint="Give each pipeline a sink.path of its own, or use the first one's name.",
        )
    return found


def claim(store: Store, dataset: Dataset, *, new_types: bool = False) -> Dataset:
    """Make the sink this pipeline's, pinning the types of columns not pinned yet, or of all with `new_types`. Raises
    SinkError."""
    known = load_dataset(store, dataset.pipeline)
    if known is None:
        if store.put_absent(ids.DATASET, dataset.model_dump_json().encode()):
            return dataset
        known = load_dataset(store, dataset.pipeline)
    assert known is not None
    types = {**known.types, **dataset.types} if new_types else {**dataset.types, **known.types}
    if types != known.types:
        known = known.model_copy(update={"types": types})
        store.put(ids.DATASET, known.model_dump_json().encode())
    return known


def load_schema(store: Store) -> DeclaredSchema | None:
    try:
        return read_document(store, ids.SCHEMA, DeclaredSchema)
    except ObjectMissing:
        return None


def schema_fingerprint(schema: pa.Schema) -> str:
    """Digest names and types, in order."""
    return digests.digest(*(f"{field.name}:{field.type}" for field in schema))


def key_schema(declared: DeclaredSchema) -> pa.Schema:
    """The columns that only paths hold."""
    return decode_schema(declared.arrow_keys) if declared.arrow_keys else pa.schema([])


def declare_schema(store: Store, schema: pa.Schema, keys: pa.Schema, *, new_version: bool = False) -> int:
    """Declare the schema of what is about to be published: the first, an additive change, or any with `new_version`.
    Returns its version. Raises SchemaChanged."""
    known = load_schema(store)
    if known is None:
        if store.put_absent(ids.SCHEMA, _declared(schema, keys, None).model_dump_json().encode()):
            return 1
        known = load_schema(store)
        assert known is not None
    _refuse(known, schema, keys, new_version)
    declared = _declared(schema, keys, known)
    if known.columns != declared.columns:
        store.put(ids.SCHEMA, declared.model_dump_json().encode())
        return declared.version
    return known.version


def _declared(schema: pa.Schema, keys: pa.Schema, known: DeclaredSchema | None) -> DeclaredSchema:
    """Return the version after the known one; if it is incompatible, readers of earlier versions cannot read it."""
    version = known.version + 1 if known else 1
    breaks = known is not None and bool(breaking(decode_schema(known.arrow_schema), schema))
    return DeclaredSchema(
        version=version,
        columns=_texts(schema),
        keys=_texts(keys),
        arrow_schema=encode_schema(schema),
        arrow_keys=encode_schema(keys),
        compatible_since=version if breaks or known is None else known.compatible_since,
        earlier=(*known.earlier, known.columns) if known else (),
    )


def _texts(schema: pa.Schema) -> dict[str, str]:
    return {field.name: str(field.type) for field in schema}


def restore_schema(
    store: Store, schema: pa.Schema, keys: pa.Schema, version: int, former: Mapping[int, pa.Schema]
) -> None:
    """Declare again what a lost `schema.json` declared. `former`: the columns of earlier versions that partitions still
    have; where they break readers of `schema`, a change of columns is under way."""
    broken = [number for number, columns in former.items() if breaking(columns, schema)]
    declared = DeclaredSchema(
        version=version,
        columns=_texts(schema),
        keys=_texts(keys),
        arrow_schema=encode_schema(schema),
        arrow_keys=encode_schema(keys),
        compatible_since=max(broken, default=0) + 1,
        earlier=tuple(_texts(former.get(number, pa.schema([]))) for number in range(1, version)),
    )
    store.put(ids.SCHEMA, declared.model_dump_json().encode())


def refuse_breaking(store: Store, schema: pa.Schema, keys: pa.Schema, *, new_version: bool = False) -> None:
    """Raise SchemaChanged where `declare_schema` would; declare nothing."""
    known = load_schema(store)
    if known is not None:
        _refuse(known, schema, keys, new_version)


def _refuse(known: DeclaredSchema, schema: pa.Schema, keys: pa.Schema, new_version: bool) -> None:
    present = {field.name: str(field.type) for field in keys}
    if present and known.keys and present != known.keys:
        raise SchemaChanged(
            f"The dataset is partitioned by {_key_list(known.keys)} and would be by {_key_list(present)}: its rows "
            "would be there twice.",
            hint="Undo the change of partition, or publish to another sink.path.",
        )
    difference = breaking(decode_schema(known.arrow_schema), schema)
    if difference and not new_version:
        raise SchemaChanged(
            f"The output would change the dataset's columns: {'; '.join(difference)}. Only new columns may be added.",
            hint=f"Undo the change, or publish every partition again, from the journal: {REPUBLISH}",
        )


def _key_list(keys: dict[str, str]) -> str:
    return ", ".join(f"{name} ({kind})" for name, kind in keys.items())


# Changes that break readers ------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class ColumnChange:
    """The last change of columns that was not additive: partitions of versions below `since` have the former columns.
    `text` lists the differences; empty where there never was one."""

    since: int = 0
    text: str = ""

    def outdates(self, manifest: Manifest) -> bool:
        """True if readers see a generation with former columns."""
        return manifest.present and manifest.schema_version < self.since


def column_change(declared: DeclaredSchema | None, columns: pa.Schema | None = None) -> ColumnChange:
    """Return the change under which the dataset is, or will be once `columns` are declared."""
    if declared is None:
        return ColumnChange()
    if columns is not None and (differences := breaking(decode_schema(declared.arrow_schema), columns)):
        return ColumnChange(declared.version + 1, "; ".join(differences))
    if declared.compatible_since == 1:
        return ColumnChange()
    since = declared.compatible_since
    (former,) = declared.earlier[since - 2 : since - 1] or ({},)
    return ColumnChange(since, "; ".join(_differences(former, declared.columns)))


def breaking(before: pa.Schema, after: pa.Schema) -> list[str]:
    """List the differences that readers of `before` would miss or misread in `after`."""
    kept = {field.name: field for field in before}
    types = {field.name: field.type for field in after}
    equal = {name for name, field in kept.items() if types.get(name) == field.type}
    now = {field.name: str(field.type) for field in after}
    return _differences({name: str(field.type) for name, field in kept.items() if name not in equal}, now)


def _differences(before: Mapping[str, str], after: Mapping[str, str]) -> list[str]:
    """List the columns that are gone or have another type, by name → type."""
    gone = {name: f"column {name!r} ({kind}) is gone" for name, kind in before.items() if name not in after}
    other = {
        name: f"column {name!r} was {kind} and is {after[name]}"
        for name, kind in before.items()
        if name in after and after[name] != kind
    }
    return [(gone | other)[name] for name in before if name in gone or name in other]


def key_values(partition: str, keys: pa.Schema) -> list[tuple[str, pa.Scalar]]:
    """The partition's keys and values, typed as declared; text where no type is declared."""
    values = []
    for name, text in partition_keys.partition_texts(partition):
        kind = keys.field(name).type if name in keys.names else pa.string()
        values.append((name, _typed(text, kind)))
    return values


def _typed(text: str | None, kind: pa.DataType) -> pa.Scalar:
    if text is None:
        return pa.nulls(1, kind)[0]
    value = pl.Series([text]).to_arrow()[0]  # pa.scalar imports pandas, where that is installed: a third of a second
    if pa.types.is_timestamp(kind) and kind.tz:
        return pc.assume_timezone(value.cast(pa.timestamp(kind.unit)), "UTC").cast(kind)
    return value.cast(kind)
