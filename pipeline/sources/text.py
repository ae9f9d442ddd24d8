"""CSV and NDJSON as chunks of text columns: every value as written, absent ones null. Types are decided afterwards."""

import codecs
import csv
import io
import itertools
import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import orjson
import polars as pl
import pyarrow as pa
import pyarrow.csv

from pipeline.sources.listing import Listing, SourceFile, check_unchanged, compression_of, open_file
from schemas.errors import SourceError
from schemas.spec.sections import Source

_BLOCK_BYTES = 4 * 1024 * 1024
_SNIFF_BYTES = 1024 * 1024
_SNIFF_ROWS = 20
# What cp1252 makes of text in a western language; counting letters, short texts are taken for the oddest languages.
_WESTERN = frozenset("àâäáãåæçéèêëíìîïñóòôöõøœúùûüÿßÀÂÄÁÃÅÆÇÉÈÊËÍÌÎÏÑÓÒÔÖÕØŒÚÙÛÜŸ€£§°º«»¿¡–—‘’“”„…•·™®© ")


@dataclass(frozen=True)
class Chunk:
    """The next rows of a file, as text columns. `quoted` are the columns in which JSON had a string: those are never
    taken for numbers."""

    file: int
    rows: pl.DataFrame
    quoted: frozenset[str] = frozenset()


def text_chunks(listing: Listing, source: Source) -> Iterator[Chunk]:
    """The source's rows in order, some megabytes at a time. Raises SourceError, InputChanged."""
    for at, file in enumerate(listing.files):
        if file.size == 0:
            continue
        if listing.format == "csv":
            yield from (Chunk(at, rows) for rows in _csv(file, source))
        else:
            yield from _ndjson(at, file)
        check_unchanged(file)


def _open(file: SourceFile) -> Any:
    opened = open_file(file)
    compression = compression_of(file)
    return pa.CompressedInputStream(opened, compression) if compression else opened


# CSV ---------------------------------------------------------------------------------------------------------------


def _csv(file: SourceFile, source: Source) -> Iterator[pl.DataFrame]:
    head = _head(file)
    if not head.strip():
        return
    encoding = _encoding(head, file, source)
    text = codecs.getincrementaldecoder(encoding)(errors="replace").decode(head).removeprefix("\ufeff")
    delimiter = source.delimiter or _delimiter(text, file, cut=len(head) == _SNIFF_BYTES)
    names = _header(text, delimiter, file)
    ragged = _Ragged()
    with _open(file) as opened:
        stream = _Utf8(opened, encoding, file)
        try:
            reader = pyarrow.csv.open_csv(
                pa.PythonFile(stream, mode="r"),
                read_options=pyarrow.csv.ReadOptions(
                    block_size=_BLOCK_BYTES,
                    column_names=names,
                    use_threads=False,  # rows are counted only in one thread
                ),
                parse_options=pyarrow.csv.ParseOptions(
                    delimiter=delimiter, newlines_in_values=True, invalid_row_handler=ragged
                ),
                convert_options=pyarrow.csv.ConvertOptions(
                    column_types=dict.fromkeys(names, pa.string()),
                    null_values=source.nulls,
                    strings_can_be_null=True,
                    quoted_strings_can_be_null=True,
                ),
            )
            skip = 1  # the header comes along as a row, so that its quoting is read as that of the rows
            last = None
            for batch in reader:
                frame = pl.DataFrame(pa.Table.from_batches([batch]))
                yield frame[skip:]
                skip = max(0, skip - frame.height)
                last = frame[-1:, -1:] if frame.height else last
        except (pa.ArrowInvalid, OSError) as exc:
            raise stream.error or _csv_error(file, delimiter, ragged.said or _short(exc)) from None
        if last is not None and "\n" in (last.item() or "") and not stream.ends_quoted:
            raise _csv_error(file, delimiter, "a quote is opened and never closed")


class _Ragged:
    """Hears of rows with too many or too few fields; every one is an error."""

    said = ""

    def __call__(self, row: Any) -> str:
        self.said = (
            f"row {row.number:,} (the header is row 1) has {row.actual_columns} field(s), "
            f"the header {row.expected_columns}"
        )
        return "error"


class _Utf8(io.RawIOBase):
    """A file of any encoding as UTF-8 without byte order mark. What cannot be decoded is an `error` with its line."""

    def __init__(self, source: Any, encoding: str, file: SourceFile) -> None:
        self.error: SourceError | None = None
        self._source, self._encoding, self._file = source, encoding, file
        self._decoder = codecs.getincrementaldecoder(encoding)()
        self._rest = self._tail = b""
        self._lines = 0
        self._begun = self._ended = False

    @property
    def ends_quoted(self) -> bool:
        return self._tail.rstrip(b"\r\n").endswith(b'"')

    def readable(self) -> bool:
        return True

    def read(self, size: int = -1) -> bytes:
        while not self._ended and (size < 0 or len(self._rest) < size):
            self._rest += self._next()
        size = len(self._rest) if size < 0 else size
        data, self._rest = self._rest[:size], self._rest[size:]
        if data.strip(b"\r\n"):
            self._tail = data[-1024:]
        return data

    def _next(self) -> bytes:
        block = self._source.read(_BLOCK_BYTES)
        self._ended = not block
        try:
            text = self._decoder.decode(block, final=self._ended)
        except UnicodeDecodeError as exc:
            self.error = _not_decodable(self._file, self._encoding, exc, self._lines)
            raise self.error from None
        if text and not self._begun:
            text, self._begun = text.removeprefix("\ufeff"), True
        self._lines += text.count("\n")
        return text.encode("utf-8", "replace")


def _not_decodable(file: SourceFile, encoding: str, exc: UnicodeDecodeError, lines: int) -> SourceError:
    line = lines + exc.object[: exc.start].count(b"\n") + 1
    if encoding not in ("utf-8", "utf-8-sig"):
        return SourceError(f"{file.uri}: line {line:,} is not {encoding}.", hint="Say source.encoding as it is.")
    guess = _guess(exc.object[max(0, exc.start - 32_768) : exc.start + 32_768])
    return SourceError(
        f"{file.uri}: line {line:,} is not UTF-8.",
        hint=f"Say source.encoding: {guess} if that is what it was written in.",
    )


def _csv_error(file: SourceFile, delimiter: str, said: str) -> SourceError:
    if "straddl" in said:
        said = f"a row is longer than {_BLOCK_BYTES // 1024**2} MB, or a quote is opened and never closed"
    return SourceError(
        f"{file.uri}: not readable as CSV with delimiter {delimiter!r}: {said}.",
        hint="Mend the line, or set source.delimiter or source.encoding.",
    )


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
            found = codecs.lookup(source.encoding)
        except LookupError:
            found = None
        if found is None or not found._is_text_encoding:
            raise SourceError(f"source.encoding = {source.encoding!r}: no such encoding.", hint="For example cp1252.")
        return found.name
    if head.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        return "utf-16"
    try:
        codecs.getincrementaldecoder("utf-8")().decode(head, final=False)
    except UnicodeDecodeError as exc:
        raise _not_decodable(file, "utf-8", exc, 0) from None
    if b"\0" in head:
        raise SourceError(
            f"{file.uri}: has NUL bytes, so it is not UTF-8 text.",
            hint=f"Say source.encoding: {_guess(head)} if that is what it was written in.",
        )
    return "utf-8"


def _guess(sample: bytes) -> str:
    """The likeliest encoding. cp1252 stands for all that read the sample as it does."""
    from charset_normalizer import from_bytes

    zeros = [sample[0::2].count(0), sample[1::2].count(0)]
    if sum(zeros) * 10 > len(sample):
        return "utf-16-le" if zeros[1] > zeros[0] else "utf-16-be"
    best = from_bytes(sample[:65536]).best()
    if best is None or best.encoding in ("utf_8", "ascii"):
        return "cp1252"
    high = {char for char in sample.decode("cp1252", "replace") if char > "\x7f"}
    return "cp1252" if high <= _WESTERN else best.encoding.replace("_", "-")


def _records(text: str, delimiter: str) -> Iterator[list[str]]:
    """The rows of a text, blank lines left out."""
    return (row for row in csv.reader(io.StringIO(text, newline=""), delimiter=delimiter) if row)


def _delimiter(text: str, file: SourceFile, *, cut: bool) -> str:
    """The character that cuts the first rows into the most fields, an equal number in each if there is such a one."""
    if re.search(r"\.tsv(\.\w+)?$", file.relative.lower()):
        return "\t"
    scores = {}
    for char in ",;\t|":
        try:
            widths = [len(row) for row in itertools.islice(_records(text, char), _SNIFF_ROWS)]
        except csv.Error:
            widths = [1]
        widths = widths[:-1] if cut and 1 < len(widths) < _SNIFF_ROWS else widths  # the last one is broken off
        scores[char] = (len(set(widths)) == 1 and widths[0] > 1, widths[0] if widths else 0)
    return max(scores, key=lambda char: scores[char])


def _header(text: str, delimiter: str, file: SourceFile) -> list[str]:
    try:
        row = next(_records(text, delimiter), [])
    except csv.Error as exc:
        raise _csv_error(file, delimiter, f"its header: {_short(exc)}") from None
    if not row:
        raise SourceError(f"{file.uri}: there is no header line.")
    names = [name.strip() or f"column_{at}" for at, name in enumerate(row, start=1)]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise SourceError(f"{file.uri}: the header has {twice[0]!r} twice.", hint="Rename one of the columns.")
    return names


def _short(exc: BaseException) -> str:
    return " ".join(str(exc).split())[:200].rstrip(".")


# NDJSON ------------------------------------------------------------------------------------------------------------

_LONG_NUMBER = re.compile(rb"[0-9]{19}")


def _ndjson(at: int, file: SourceFile) -> Iterator[Chunk]:
    """Strings as they are, other scalars and nested values as their JSON text."""
    number = 0
    rows: list[dict[str, Any]] = []
    names: dict[str, None] = {}
    size = 0
    for line in _lines(file):
        number += 1
        if not line.strip():
            continue
        row = _json_object(line, number, file)
        names.update(dict.fromkeys(row))
        rows.append(row)
        size += len(line)
        if size >= _BLOCK_BYTES and names:
            yield _chunk(at, rows, names)
            rows, size = [], 0
    if rows and not names:
        raise SourceError(f"{file.uri}: none of its objects has a key.")
    if rows:
        yield _chunk(at, rows, names)


def _json_object(line: bytes, number: int, file: SourceFile) -> dict[str, Any]:
    try:
        row: Any = orjson.loads(line)
    except orjson.JSONDecodeError as exc:
        array = number == 1 and line.lstrip()[:1] == b"["
        hint = "One object a line; an array is turned into that by: jq -c '.[]'" if array else ""
        raise SourceError(f"{file.uri}: line {number:,} is not JSON: {_short(exc)}.", hint=hint) from None
    if not isinstance(row, dict):
        raise SourceError(f"{file.uri}: line {number:,} is no JSON object.", hint="One object a line: {…}.")
    if _LONG_NUMBER.search(line):  # orjson would round an integer of more than 64 bits: it is kept as text
        return dict(json.loads(line, parse_int=lambda digits: int(digits) if len(digits) < 19 else digits))
    return row


def _lines(file: SourceFile) -> Iterator[bytes]:
    rest = b""
    try:
        with _open(file) as stream:
            begun = False
            while block := stream.read(_BLOCK_BYTES):
                if not begun:
                    block, begun = block.removeprefix(codecs.BOM_UTF8), True
                lines = (rest + block).split(b"\n")
                rest = lines.pop()
                yield from lines
    except (pa.ArrowInvalid, OSError) as exc:
        raise SourceError(f"{file.uri}: cannot be read: {_short(exc)}.") from None
    if rest:
        yield rest


def _chunk(at: int, rows: list[dict[str, Any]], names: dict[str, None]) -> Chunk:
    columns = {name: pl.Series([_text(row.get(name)) for row in rows], dtype=pl.String) for name in names}
    quoted = frozenset(name for name in names if any(isinstance(row.get(name), str) for row in rows))
    return Chunk(at, pl.DataFrame(columns), quoted)


def _text(value: Any) -> str | None:
    if value is None or isinstance(value, str):
        return value
    return orjson.dumps(value).decode()
