"""CSV as frames of text columns: every value as written, absent ones null. Types are decided afterwards."""

import codecs
import csv
import io
import itertools
import re
from collections.abc import Iterator
from typing import Any

import polars as pl
import pyarrow as pa
import pyarrow.csv

from pipeline.sources.encoding import BLOCK_BYTES, SNIFF_BYTES, Utf8, encoding_of, head_of, open_text, short, unfinished
from pipeline.sources.listing import SourceFile
from schemas.errors import SourceError
from schemas.spec.sections import Source

_SNIFF_ROWS = 20


# CSV ---------------------------------------------------------------------------------------------------------------


def csv_frames(file: SourceFile, source: Source) -> Iterator[pl.DataFrame]:
    head = head_of(file)
    if not head.strip():
        return
    encoding = encoding_of(head, file, source)
    text = codecs.getincrementaldecoder(encoding)(errors="replace").decode(head).removeprefix("\ufeff")
    delimiter = source.delimiter or _delimiter(text, file, cut=len(head) == SNIFF_BYTES)
    names = _header(text, delimiter, file)
    ragged = _Ragged()
    with open_text(file) as opened:
        stream = Utf8(opened, encoding, file)
        try:
            reader = pyarrow.csv.open_csv(
                pa.PythonFile(stream, mode="r"),
                read_options=pyarrow.csv.ReadOptions(
                    block_size=BLOCK_BYTES,
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
            skip = 1  # the header is read as a row, so that its quoting is read as that of the rows
            last = None
            for batch in reader:
                frame = pl.DataFrame(pa.Table.from_batches([batch]))
                yield frame[skip:]
                skip = max(0, skip - frame.height)
                last = frame[-1:, -1:] if frame.height else last
        except (pa.ArrowInvalid, OSError) as exc:
            error = stream.error or _torn(file, stream, ragged)
            raise error or _csv_error(file, delimiter, ragged.message or short(exc)) from None
        if last is not None:
            _refuse_open_quote(file, stream, delimiter, last.item() or "")


class _Ragged:
    """Handler of rows with too many or too few fields; every one is an error. `message` describes the row, `cut_off` is
    its text if it has too few."""

    message = ""
    cut_off = ""

    def __call__(self, row: Any) -> str:
        self.cut_off = row.text if row.actual_columns < row.expected_columns else ""
        self.message = (
            f"row {row.number:,} (the header is row 1) has {row.actual_columns} field(s), "
            f"the header {row.expected_columns}"
        )
        return "error"


def _torn(file: SourceFile, stream: Utf8, ragged: _Ragged) -> SourceError | None:
    """Return the error for a last row that is short of fields because its line is not written to its end."""
    line = stream.unfinished_line() if ragged.cut_off else None
    if line is None or not ragged.cut_off.endswith(line[1]):
        return None
    return unfinished(file, line[0], "has fewer fields than the header")


def _refuse_open_quote(file: SourceFile, stream: Utf8, delimiter: str, value: str) -> None:
    """Raise SourceError if the last row's last value has an opening quote only; Arrow takes what there is of it."""
    if "\n" in value and not stream.ends_quoted:
        raise _csv_error(file, delimiter, "a quote is opened and never closed")
    line = stream.unfinished_line()
    opened = '"' + value.replace('"', '""')
    if line is not None and (line[1] == opened or line[1].endswith(delimiter + opened)):
        raise unfinished(file, line[0], "opens a quote without closing it")


def _csv_error(file: SourceFile, delimiter: str, reason: str) -> SourceError:
    if "straddl" in reason:
        reason = f"a row is longer than {BLOCK_BYTES // 1024**2} MB, or a quote is opened and never closed"
    return SourceError(
        f"{file.uri}: not readable as CSV with delimiter {delimiter!r}: {reason}.",
        hint="Correct the line, or set source.delimiter or source.encoding.",
    )


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
        raise _csv_error(file, delimiter, f"its header: {short(exc)}") from None
    if not row:
        raise SourceError(f"{file.uri}: there is no header line.")
    names = [name.strip() or f"column_{index}" for index, name in enumerate(row, start=1)]
    repeated = sorted({name for name in names if names.count(name) > 1})
    if repeated:
        raise SourceError(f"{file.uri}: the header has {repeated[0]!r} twice.", hint="Rename one of the columns.")
    return names


# NDJSON ------------------------------------------------------------------------------------------------------------
