"""Records as frames, in the form of compacted journals: their JSON, and the columns by which they are searched, which
Polars takes from it. No record is made an object for that: it would take several times as long."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Self

import orjson
import polars as pl
import pyarrow as pa

from stages.journal.records import Record, encode_record

COMPACTED = pa.schema(
    [
        pa.field("kind", pa.string()),  # see `_KIND`
        pa.field("id", pa.string()),
        pa.field("key", pa.string()),  # row fingerprint, request digest, or that of what requests have in common
        pa.field("stage", pa.string()),  # stage fingerprint; of a request the digest of its common part; none of a call
        pa.field("run", pa.string()),
        pa.field("nonce", pa.string()),
        pa.field("body", pa.binary()),
        pa.field("used", pa.float64()),  # see pipeline.journal.compaction
    ]
)
REQUEST, COMMON = "request", "common"
REQUESTS = (REQUEST, COMMON)  # kinds that are for people only: in row groups of their own, behind the others
CHUNK = 4_000  # records of a frame
HELD_BYTES = 8_000_000  # of their JSON

_TEXTS = ("k", "id", "row", "request", "common", "stage", "status", "run", "nonce")
_FIELDS = pl.Struct({**dict.fromkeys(_TEXTS, pl.String), "at": pl.Float64})
_is_call, _is_request, _is_common = (pl.col("k") == kind for kind in ("call", REQUEST, COMMON))
# A pending row is no outcome: it may need a call, and its calls be of use. A person's answer makes void what came
# before it.
_KIND = (
    pl.when((pl.col("k") == "row") & (pl.col("status") == "pending"))
    .then(pl.lit("pending"))
    .when(pl.col("k") == "answer")
    .then(pl.lit("void"))
    .otherwise(pl.col("k"))
)
_SEARCHED = (
    _KIND.alias("kind"),
    pl.when(_is_common).then(pl.lit("")).otherwise(pl.col("id")).alias("id"),
    pl.when(_is_call | _is_request).then(pl.col("request")).when(_is_common).then(pl.col("common"))
    .otherwise(pl.col("row")).alias("key"),
    pl.when(_is_request).then(pl.col("common")).when(_is_call | _is_common).then(pl.lit("")).otherwise(pl.col("stage"))
    .alias("stage"),
    pl.col("run"),
    pl.when(_is_call).then(pl.col("nonce")).otherwise(pl.lit("")).alias("nonce"),
    pl.col("body"),
    pl.col("at").alias("used"),
)  # fmt: skip


def of_bodies(bodies: Sequence[bytes]) -> pl.DataFrame:
    """Return the frame of records by their JSON, not yet used."""
    texts = pl.LazyFrame({"body": bodies}, schema={"body": pl.Binary})
    fields = pl.col("body").cast(pl.String).str.json_decode(_FIELDS)
    return texts.with_columns(fields.alias("fields")).unnest("fields").select(_SEARCHED).collect()


@dataclass(frozen=True)
class Digests:
    """The digests by which some records are found: identities of rows, rows with their stages, requests of calls."""

    ids: list[str | None] = field(default_factory=list)
    rows: list[str | None] = field(default_factory=list)
    stages: list[str] = field(default_factory=list)
    calls: list[str | None] = field(default_factory=list)

    @classmethod
    def of_bodies(cls, bodies: Iterable[bytes]) -> Self:
        """Take them from the JSON of records, one by one: of some tens, faster than by a frame. What a record lacks is
        None, as it is null there."""
        found = cls()
        for body in bodies:
            record = orjson.loads(body)
            kind = record["k"]
            if kind != COMMON:
                found.ids.append(record.get("id"))
            if kind == "call":
                found.calls.append(record.get("request"))
            elif kind not in REQUESTS and record.get("stage"):
                found.rows.append(record.get("row"))
                found.stages.append(record["stage"])
        return found


def of_records(records: Iterable[Record]) -> pl.DataFrame:
    """Return the frame of records, not yet used."""
    return of_bodies([encode_record(record) for record in records])


def chunked(segments: Iterable[Sequence[bytes]]) -> Iterator[pl.DataFrame]:
    """Yield frames of some thousand records, of which each segment holds some; memory does not grow with the
    segments."""
    held: list[bytes] = []
    size = 0
    for bodies in segments:
        held.extend(bodies)
        size += sum(map(len, bodies))
        if len(held) >= CHUNK or size >= HELD_BYTES:
            yield of_bodies(held)
            held, size = [], 0
    if held:
        yield of_bodies(held)
