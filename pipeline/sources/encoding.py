"""Text files: opened, decompressed, their encoding found, decoded with an error that names the line."""

import codecs
import io
from dataclasses import dataclass
from typing import Any

import polars as pl
import pyarrow as pa

from pipeline.sources.listing import SourceFile, compression_of, open_file
from schemas.errors import SourceError
from schemas.spec.sections import Source

BLOCK_BYTES = 4 * 1024 * 1024
SNIFF_BYTES = 1024 * 1024
# Letters of western languages in cp1252: by letter counts alone, short texts are guessed to be in rare languages.
_WESTERN = frozenset("àâäáãåæçéèêëíìîïñóòôöõøœúùûüÿßÀÂÄÁÃÅÆÇÉÈÊËÍÌÎÏÑÓÒÔÖÕØŒÚÙÛÜŸ€£§°º«»¿¡–—‘’“”„…•·™®© ")


@dataclass(frozen=True)
class Chunk:
    """The next rows of a file, as text columns. `quoted` are the columns in which JSON had a string: those are never
    read as numbers."""

    file: int
    rows: pl.DataFrame
    quoted: frozenset[str] = frozenset()


def open_text(file: SourceFile) -> Any:
    opened = open_file(file)
    compression = compression_of(file)
    return pa.CompressedInputStream(opened, compression) if compression else opened


class Utf8(io.RawIOBase):
    """A file of any encoding as UTF-8 without byte order mark. `error` holds a decoding error with its line."""

    def __init__(self, source: Any, encoding: str, file: SourceFile) -> None:
        self.error: SourceError | None = None
        self._source, self._encoding, self._file = source, encoding, file
        self._decoder = codecs.getincrementaldecoder(encoding)()
        self._rest = self._tail = b""
        self._lines = 0
        self._last = ""
        self._begun = self._ended = False

    @property
    def ends_quoted(self) -> bool:
        return self._tail.rstrip(b"\r\n").endswith(b'"')

    def unfinished_line(self) -> tuple[int, str] | None:
        """Return number and text of the last line if it does not end; None if it does. Reads on to the end."""
        while not self._ended:
            self._next()
        return (self._lines + 1, self._last) if self._last else None

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
        block = self._source.read(BLOCK_BYTES)
        self._ended = not block
        try:
            text = self._decoder.decode(block, final=self._ended)
        except UnicodeDecodeError as exc:
            self.error = not_decodable(self._file, self._encoding, exc, self._lines)
            raise self.error from None
        if text and not self._begun:
            text, self._begun = text.removeprefix("\ufeff"), True
        self._lines += text.count("\n")
        self._last = text.rpartition("\n")[2] if "\n" in text else self._last + text
        return text.encode("utf-8", "replace")


def not_decodable(file: SourceFile, encoding: str, exc: UnicodeDecodeError, lines: int) -> SourceError:
    line = lines + exc.object[: exc.start].count(b"\n") + 1
    if encoding not in ("utf-8", "utf-8-sig"):
        return SourceError(f"{file.uri}: line {line:,} is not {encoding}.", hint="Correct source.encoding.")
    guess = _guess(exc.object[max(0, exc.start - 32_768) : exc.start + 32_768])
    return SourceError(
        f"{file.uri}: line {line:,} is not UTF-8.",
        hint=f"Set source.encoding: {guess} if the file was written in it.",
    )


def unfinished(file: SourceFile, line: int, fault: str) -> SourceError:
    """Return the error for a last line that was not written to its end."""
    return SourceError(
        f"{file.uri}: line {line:,}, the last, has no line end and {fault}: it is cut off, or still being written.",
        hint="Run it again once the file is complete; source.settle or source.done make runs wait for that.",
    )


def head_of(file: SourceFile) -> bytes:
    try:
        with open_text(file) as stream:
            head: bytes = stream.read(SNIFF_BYTES)
    except (pa.ArrowInvalid, OSError) as exc:
        raise SourceError(f"{file.uri}: cannot be read: {short(exc)}.") from None
    return head


def encoding_of(head: bytes, file: SourceFile, source: Source) -> str:
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
        raise not_decodable(file, "utf-8", exc, 0) from None
    if b"\0" in head:
        raise SourceError(
            f"{file.uri}: has NUL bytes, so it is not UTF-8 text.",
            hint=f"Set source.encoding: {_guess(head)} if the file was written in it.",
        )
    return "utf-8"


def _guess(sample: bytes) -> str:
    """Return the likeliest encoding. cp1252 stands for all that read the sample as it does."""
    from charset_normalizer import from_bytes

    zeros = [sample[0::2].count(0), sample[1::2].count(0)]
    if sum(zeros) * 10 > len(sample):
        return "utf-16-le" if zeros[1] > zeros[0] else "utf-16-be"
    best = from_bytes(sample[:65536]).best()
    if best is None or best.encoding in ("utf_8", "ascii"):
        return "cp1252"
    high = {char for char in sample.decode("cp1252", "replace") if char > "\x7f"}
    return "cp1252" if high <= _WESTERN else best.encoding.replace("_", "-")


def short(exc: BaseException) -> str:
    return " ".join(str(exc).split())[:200].rstrip(".")
