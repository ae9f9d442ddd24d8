"""The keys by which records are found over a whole dataset: 60-bit numbers, the same in every version and on every
machine.

    (stage fingerprint, row fingerprint)     a row's outcome, its voids and nodes
    identity of the source row               all records of the row, of any stage
    request digest                           the calls of a request, whichever row asked it

Both are digests already, so a key is a part of them. Two things of one key are no error: the journal that it leads to
is searched by the whole digests.
"""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import polars as pl

from pipeline.journal.record_frames import Digests

_DIGITS = 15  # hexadecimal, of a digest: 60 bits, as Polars parses signed numbers of 64
KEYS = pl.UInt64
_FULL = 32  # digits of a digest
_NO_DIGIT = 255
_VALUES = np.full(256, _NO_DIGIT, dtype=np.uint8)  # of ASCII characters
_VALUES[np.frombuffer(b"0123456789abcdef", dtype=np.uint8)] = np.arange(16)


def of_digests(digests: pl.Series) -> pl.Series:
    """Return the keys of digests in hexadecimal; null for other texts."""
    numbers = _of_full_digests(digests)
    if numbers is not None:
        return pl.Series("key", numbers, dtype=KEYS)
    number = digests.str.slice(0, _DIGITS).str.to_integer(base=16, strict=False)
    return number.cast(KEYS, strict=False).alias("key")  # a text may be a negative number


def _of_full_digests(digests: pl.Series) -> npt.NDArray[np.uint64] | None:
    """Return the same for digests that all have 32 digits, which is nearly always so, in a third of the time; None for
    other texts."""
    if digests.is_empty() or digests.null_count():
        return None
    texts = digests.to_arrow(compat_level=pl.CompatLevel.oldest())
    _, offsets, content = texts.buffers()
    if content is None:
        return None
    ends = np.frombuffer(offsets, dtype=np.int64)[texts.offset : texts.offset + len(texts) + 1]
    if (np.diff(ends) != _FULL).any():
        return None
    characters = np.frombuffer(content, dtype=np.uint8)[ends[0] : ends[-1]].reshape(-1, _FULL)
    digits = _VALUES[characters[:, : _DIGITS + 1]]
    if digits.max() == _NO_DIGIT:
        return None
    numbers: npt.NDArray[np.uint64] = (digits[:, ::2] << 4 | digits[:, 1::2]).view(">u8")[:, 0]
    return numbers >> np.uint64(4)


def of_first_bytes(numbers: npt.NDArray[np.uint64]) -> pl.Series:
    """Return the keys of digests in binary, by the first eight bytes of each as a number."""
    return pl.Series("key", numbers.astype(np.uint64) >> np.uint64(64 - 4 * _DIGITS), dtype=KEYS)


def of_digest(digest: str) -> int:
    """Return the key of one digest."""
    return int(digest[:_DIGITS], 16)


def of_rows(stage: str, rows: pl.Series) -> pl.Series:
    """Return the keys of row fingerprints under a stage's fingerprint."""
    keys: pl.Series = of_digests(rows) ^ of_digests(pl.Series([stage], dtype=pl.String)).item()
    return keys


def of_records(records: pl.DataFrame) -> pl.Series:
    """Return the keys, each once, by which the records of a chunk are found; columns `kind`, `id`, `key`, `stage`."""
    about_rows = records.filter(~pl.col("kind").is_in(["call", "request", "common"]) & (pl.col("stage") != ""))
    calls = records.filter(pl.col("kind") == "call")["key"]
    return _together(records["id"], about_rows["key"], about_rows["stage"], calls)


def of_bodies(bodies: Sequence[bytes]) -> pl.Series:
    """Return the same for some tens of records by their JSON."""
    found = Digests.of_bodies(bodies)
    return _together(*(pl.Series(some, dtype=pl.String) for some in (found.ids, found.rows, found.stages, found.calls)))


def _together(ids: pl.Series, rows: pl.Series, stages: pl.Series, calls: pl.Series) -> pl.Series:
    by_row = of_digests(rows) ^ of_digests(stages)
    return pl.concat([of_digests(ids), by_row.alias("key"), of_digests(calls)]).drop_nulls().unique()
