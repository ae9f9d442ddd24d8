"""dedupe: near-duplicates marked, or filtered, within a partition; behind a barrier.

Rows are compared in order with those that were not like any before them: by MinHash over the words of `on` (an estimate
of the share of three-word phrases that two texts have in common), or by the cosine of a `vector` column, as `embed`
writes it. The first of its kind stands for its duplicates. Blank texts and null vectors are no one's duplicate.
"""

import re
import zlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import numpy as np
import numpy.typing as npt
import polars as pl
import pyarrow as pa
from pydantic import Field, model_validator

from schemas.errors import PartitionError, SpecError
from schemas.ids import digest
from schemas.manifest import Provenance
from stages.contract import RESERVED, Build, Options, TableStage, check_drop
from stages.tables.parts import parts

VERSION = "dedupe-1"
PERMUTATIONS = 128
BANDS = 32  # of 4 values each: two texts that share half of their phrases meet with 87 %, at 0.8 with all but certainty
MAX_VECTORS = 50_000
MAX_TEXTS = 1_000_000  # 640 bytes each
_PHRASE = 3
_PRIME = np.uint64((1 << 31) - 1)
_MIX = np.uint64(0x9E3779B97F4A7C15)
_WORD = re.compile(r"\w+")


class DedupeOptions(Options):
    on: list[str] = Field(default=[], description="text columns to compare")
    vector: str | None = Field(default=None, description="a list[float] column to compare instead")
    threshold: float = Field(default=0.8, gt=0, le=1, description="rows at least this similar are duplicates")
    keep: Literal["all", "first"] = Field(default="all", description="first: duplicates are filtered")
    duplicate: str = Field(default="duplicate", description="the bool column that marks duplicates")
    group: str | None = Field(default=None, description="an int column: the same for all of a kind")

    @model_validator(mode="after")
    def _one_of_both(self) -> "DedupeOptions":
        if bool(self.on) == (self.vector is not None):
            raise ValueError("give on: [text columns], or vector: the column of an embedding")
        return self


def build(wanted: Build) -> TableStage:
    """The stage of a spec that `uses: dedupe`. Raises SpecError."""
    options, stage = wanted.options(DedupeOptions), wanted.stage
    check_drop(wanted)
    _check(wanted, options)
    read = [options.vector] if options.vector is not None else options.on

    def over(source: Path) -> pl.LazyFrame:
        kinds = pl.Series(_kinds(source, read, options, wanted.where), dtype=pl.Int64)
        places = pl.Series(range(kinds.len()), dtype=pl.Int64)
        rows = pl.scan_parquet(source).drop(stage.drop)
        marked = rows.with_columns((kinds != places).alias(options.duplicate))
        if options.group is not None:
            marked = marked.with_columns(kinds.alias(options.group))
        return marked.filter(~pl.col(options.duplicate)) if options.keep == "first" else marked

    added = [pa.field(options.duplicate, pa.bool_())]
    added += [pa.field(options.group, pa.int64())] if options.group is not None else []
    names = {field.name for field in added}
    kept = [field for field in wanted.columns if field.name not in names and field.name not in stage.drop]
    return TableStage(
        spec=stage,
        columns=pa.schema([*kept, *added]),
        fingerprint=digest(VERSION, options.model_dump_json(), str(stage.drop), str(stage.version)),
        provenance=Provenance(stage=stage.name, uses="dedupe"),
        over=over,
    )


def _check(wanted: Build, options: DedupeOptions) -> None:
    columns = wanted.columns
    for name in (*options.on, *([options.vector] if options.vector else [])):
        if name not in columns.names:
            raise SpecError(f"{wanted.where}: {name!r} is no column here.", hint=f"Columns: {', '.join(columns.names)}")
        kind = columns.field(name).type
        listed = pa.types.is_list(kind) or pa.types.is_large_list(kind)
        if name == options.vector and not (listed and pa.types.is_floating(kind.value_type)):
            raise SpecError(f"{wanted.where}: with.vector = {name!r} is {kind}, not list[float].", hint="See: embed.")
    for name in (options.duplicate, *([options.group] if options.group is not None else [])):
        if name.startswith(RESERVED):
            raise SpecError(f"{wanted.where}: the column name {name!r} is reserved.")
        if name in columns.names and not wanted.stage.replace:
            raise SpecError(
                f"{wanted.where}: {name!r} is already a column.",
                hint="Name another: with: {duplicate: …, group: …}; or say replace: true.",
            )


def _kinds(source: Path, read: list[str], options: DedupeOptions, where: str) -> list[int]:
    """For each row the place of the first that it is like."""
    if options.vector is None:
        return _like_texts(_texts(source, read), options.threshold, where)
    vectors = _Vectors(options.threshold, where)
    found: list[int] = []
    for rows in parts(source, read):
        for vector in rows[options.vector].to_list():
            blank = not vector or None in vector
            found.append(len(found) if blank else vectors.first_like(len(found), np.asarray(vector, dtype=np.float64)))
    return found


def _texts(source: Path, read: list[str]) -> Iterator[str | None]:
    for rows in parts(source, read):
        for values in rows.iter_rows():
            text = "\n".join(str(part) for part in values if part is not None)
            yield text if _WORD.search(text) else None


def _like_texts(texts: Iterator[str | None], threshold: float, where: str) -> list[int]:
    """The same for texts. Most share no band with any other, so that only the few that do are looked at one by one."""
    found: list[int] = []
    places: list[int] = []
    made: list[npt.NDArray[np.uint32]] = []
    for text in texts:
        if text is not None:
            places.append(len(found))
            made.append(minhash(text))
        found.append(len(found))
        if len(made) > MAX_TEXTS:
            raise PartitionError(
                f"{where}: more than {MAX_TEXTS:,} texts in a partition.", hint="Make partitions smaller."
            )
    if not made:
        return found
    signatures = np.stack(made)
    made.clear()
    groups = _shared_bands(signatures)
    firsts: dict[tuple[int, int], list[int]] = {}
    for at in np.flatnonzero((groups >= 0).any(axis=1)).tolist():
        bands = [(band, int(groups[at, band])) for band in np.flatnonzero(groups[at] >= 0).tolist()]
        for other in sorted({place for band in bands for place in firsts.get(band, ())}):
            if float(np.mean(signatures[other] == signatures[at])) >= threshold:
                found[places[at]] = places[other]
                break
        else:
            for band in bands:
                firsts.setdefault(band, []).append(at)
    return found


def _shared_bands(signatures: npt.NDArray[np.uint32]) -> npt.NDArray[np.int32]:
    """Per text and band the number of the group of texts that agree in it; -1 for one that is alone."""
    width = PERMUTATIONS // BANDS
    out = np.empty((len(signatures), BANDS), dtype=np.int32)
    for band in range(BANDS):
        mixed = np.zeros(len(signatures), dtype=np.uint64)
        for column in range(band * width, (band + 1) * width):
            mixed = (mixed * _MIX) ^ signatures[:, column]
        _, group, counts = np.unique(mixed, return_inverse=True, return_counts=True)
        out[:, band] = np.where(counts[group] > 1, group, -1)
    return out


@dataclass
class _Vectors:
    """Firsts as one matrix of unit vectors, which grows by doubling."""

    threshold: float
    where: str
    places: list[int] = field(default_factory=list)
    units: npt.NDArray[np.float32] | None = None

    def first_like(self, at: int, value: npt.NDArray[np.float64]) -> int:
        """The earlier row that this one is like, or itself, remembered for those to come."""
        length = float(np.linalg.norm(value))
        if not length or not np.isfinite(length):
            return at
        unit = (value / length).astype(np.float32)
        known = len(self.places)
        if self.units is None:
            self.units = np.empty((64, unit.size), dtype=np.float32)
        if unit.size != self.units.shape[1]:
            raise PartitionError(
                f"{self.where}: vectors of {unit.size} and of {self.units.shape[1]} numbers cannot be compared.",
                hint="One model makes vectors of one length.",
            )
        like = np.flatnonzero(self.units[:known] @ unit >= self.threshold - 1e-6)
        if like.size:
            return self.places[int(like[0])]
        if known == MAX_VECTORS:
            raise PartitionError(
                f"{self.where}: more than {MAX_VECTORS:,} different vectors in a partition.",
                hint="Make partitions smaller, or compare texts: with: {on: [column]}.",
            )
        if known == len(self.units):
            self.units = np.concatenate([self.units, np.empty_like(self.units)])
        self.units[known] = unit
        self.places.append(at)
        return at


def minhash(text: str) -> npt.NDArray[np.uint32]:
    """The least of each of `PERMUTATIONS` hashes over the text's phrases; the same in every process."""
    words = [word.casefold() for word in _WORD.findall(text)]
    phrases = {" ".join(words[at : at + _PHRASE]) for at in range(max(1, len(words) - _PHRASE + 1))}
    hashes = np.array([zlib.crc32(phrase.encode("utf-8", "replace")) for phrase in phrases], dtype=np.uint64)
    mixed = (hashes[:, None] % _PRIME * _FACTORS + _OFFSETS) % _PRIME
    least: npt.NDArray[np.uint32] = mixed.min(axis=0).astype(np.uint32)
    return least


def _constants(name: str) -> npt.NDArray[np.uint64]:
    return np.array([int(digest(name, str(at))[:7], 16) + 1 for at in range(PERMUTATIONS)], dtype=np.uint64)


_FACTORS, _OFFSETS = _constants("factor"), _constants("offset")
