"""CSV and NDJSON as chunks of text columns: every value as written, absent ones null. Types are decided afterwards."""

import codecs
import csv
import itertools
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import orjson
import polars as pl
import pyarrow as pa
import pyarrow.csv

from pipeline.sources.listing import Listing, SourceFile, compression_of, open_file
from schemas.errors import SourceError
from schemas.spec import Source

_BLOCK_BYTES = 8 * 1024 * 1024
_SNIFF_BYTES = 1024 * 1024


@dataclass(frozen=True)
class Chunk:
    """The next rows of a file, as text columns. `quoted` are the columns in which JSON had a string: those are never
    taken for numbers."""

    file: int
    rows: pl.DataFrame
    quoted: frozenset[str] = frozenset()


def text_chunks(listing: Listing, source: Source) -> Iterator[Chunk]:
    """The source's rows in order, some megabytes at a time. Raises SourceError."""
    for at, file in enumerate(listing.files):
        if file.size == 0:
            continue
        if listing.format == "csv":
            yield from (Chunk(at, rows) for rows in _csv(file, source))
        else:
            yield from _ndjson(at, file)


def _open(file: SourceFile) -> Any:
    opened = open_file(file)
    compression = compression_of(file)
    return pa.CompressedInputStream(opened, compression) if compression else opened


# CSV ---------------------------------------------------------------------------------------------------------------


def _csv(file: SourceFile, source: Source) -> Iterator[pl.DataFrame]:
    head = _head(file)
    encoding = _encoding(head, file, source)
    text = codecs.getincrementaldecoder(encoding)(errors="replace").decode(head)
    delimiter = source.delimiter or _delimiter(text, file)
    names = _header(text, delimiter, file)
    stream = _open(file)
    if encoding not in ("utf-8", "utf-8-sig"):
        stream = pa.transcoding_input_stream(stream, encoding, "utf-8")
    try:
        reader = pyarrow.csv.open_csv(
            stream,
            read_options=pyarrow.csv.ReadOptions(
                block_size=_BLOCK_BYTES, column_names=names, skip_rows=0, use_threads=True
            ),
            parse_options=pyarrow.csv.ParseOptions(delimiter=delimiter, newlines_in_values=True),
            convert_options=pyarrow.csv.ConvertOptions(
                column_types=dict.fromkeys(names, pa.string()),
                null_values=source.nulls,
                strings_can_be_null=True,
                quoted_strings_can_be_null=True,
            ),
        )
        first = True
        for batch in reader:
            frame = pl.DataFrame(pa.Table.from_batches([batch]))
            yield frame[1:] if first else frame  # the header came along as a row, so that quoting is read one way
            first = False
    except (pa.ArrowInvalid, UnicodeDecodeError) as exc:
        raise SourceError(
            f"{file.uri}: not readable as CSV with delimiter {delimiter!r}: {_short(exc)}.",
            hint="Mend the line, or set source.delimiter or source.encoding.",
        ) from None


def _head(file: SourceFile) -> bytes:
    try:
        with _open(file) as stream:
            head: bytes = stream.read(_SNIFF_BYTES)
    except (pa.ArrowInvalid, OSError) as exc:
        raise SourceError(f"{file.uri}: cannot be read: {_short(exc)}.") from None
    return head


def _encoding(head: bytes, file: SourceFile, source: Source) -> str:
    if source.encoding:
        try:
            return codecs.lookup(source.encoding).name
        except LookupError:
            raise SourceError(
                f"source.encoding = {source.encoding!r}: no such encoding.", hint="For example cp1252."
            ) from None
    if head.startswith(codecs.BOM_UTF8):
        return "utf-8-sig"
    if head.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        return "utf-16"
    try:
        codecs.getincrementaldecoder("utf-8")().decode(head, final=False)
    except UnicodeDecodeError as exc:
        line = head[: exc.start].count(b"\n") + 1
        raise SourceError(
            f"{file.uri}: line {line} is not UTF-8.",
            hint=f"Say source.encoding: {_guess(head)} if that is what it was written in.",
        ) from None
    return "utf-8"


def _guess(head: bytes) -> str:
    from charset_normalizer import from_bytes

    best = from_bytes(head[:65536]).best()
    return best.encoding.replace("_", "-") if best and best.encoding != "utf_8" else "cp1252"


def _delimiter(text: str, file: SourceFile) -> str:
    line = next((line for line in text.splitlines() if line.strip()), "")
    if file.relative.lower().endswith((".tsv", ".tsv.gz")):
        return "\t"
    counts = {char: len(next(csv.reader([line], delimiter=char), [])) for char in ",;\t|"}
    return max(counts, key=lambda char: counts[char])


def _header(text: str, delimiter: str, file: SourceFile) -> list[str]:
    row = next(csv.reader(itertools.chain(text.lstrip("\ufeff").splitlines(keepends=True)), delimiter=delimiter), [])
    names = [name.strip() or f"column_{at}" for at, name in enumerate(row, start=1)]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise SourceError(f"{file.uri}: the header has {twice[0]!r} twice.", hint="Rename one of the columns.")
    if not names:
        raise SourceError(f"{file.uri}: there is no header line.")
    return names


def _short(exc: BaseException) -> str:
    return " ".join(str(exc).split())[:200].rstrip(".")


# NDJSON ------------------------------------------------------------------------------------------------------------


def _ndjson(at: int, file: SourceFile) -> Iterator[Chunk]:
    """Strings as they are, other scalars and nested values as their JSON text."""
    number = 0
    rows: list[dict[str, Any]] = []
    size = 0
    for line in _lines(file):
        number += 1
        if not line.strip():
            continue
        try:
            row = orjson.loads(line)
        except orjson.JSONDecodeError as exc:
            raise SourceError(f"{file.uri}: line {number} is not JSON: {_short(exc)}.") from None
        if not isinstance(row, dict):
            raise SourceError(f"{file.uri}: line {number} is no JSON object.", hint="One object a line: {{…}}.")
        rows.append(row)
        size += len(line)
        if size >= _BLOCK_BYTES:
            yield _chunk(at, rows)
            rows, size = [], 0
    if rows:
        yield _chunk(at, rows)


def _lines(file: SourceFile) -> Iterator[bytes]:
    rest = b""
    with _open(file) as stream:
        while block := stream.read(_BLOCK_BYTES):
            lines = (rest + block).split(b"\n")
            rest = lines.pop()
            yield from lines
    if rest:
        yield rest


def _chunk(at: int, rows: list[dict[str, Any]]) -> Chunk:
    names = dict.fromkeys(name for row in rows for name in row)
    columns = {name: pl.Series([_text(row.get(name)) for row in rows], dtype=pl.String) for name in names}
    quoted = frozenset(name for name in names if any(isinstance(row.get(name), str) for row in rows))
    return Chunk(at, pl.DataFrame(columns), quoted)


def _text(value: Any) -> str | None:
    if value is None or isinstance(value, str):
        return value
    return orjson.dumps(value).decode()
