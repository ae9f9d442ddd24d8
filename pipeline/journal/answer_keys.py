"""The keys by which records are found over a whole dataset: 60-bit numbers, the same in every version and on every
machine.

    (stage fingerprint, row fingerprint)     a row's outcome, its voids and nodes
    identity of the source row               all records of the row, of any stage
    request digest                           the calls of a request, whichever row asked it

Both are digests already, so a key is a part of them. Two things of one key are no error: the journal that it leads to
is searched by the whole digests.
"""

import polars as pl

_DIGITS = 15  # hexadecimal, of a digest: 60 bits, as Polars parses signed numbers of 64
KEYS = pl.UInt64


def of_digests(digests: pl.Series) -> pl.Series:
    """Return the keys of digests in hexadecimal; null for other texts."""
    number = digests.str.slice(0, _DIGITS).str.to_integer(base=16, strict=False)
    return number.cast(KEYS).alias("key")


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
    by_row = of_digests(about_rows["key"]) ^ of_digests(about_rows["stage"])
    calls = of_digests(records.filter(pl.col("kind") == "call")["key"])
    return pl.concat([of_digests(records["id"]), by_row.alias("key"), calls]).drop_nulls().unique()
