"""Partition keys (`day=2026-11-01`): encode a value as a safe folder name, and decode it."""

import re
from collections.abc import Sequence
from urllib.parse import unquote

from schemas.digests import digest

_SAFE = frozenset("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789_-")
_MAX_VALUE_BYTES = 128
# Escapes are upper-case, so this lower-case one can only mean "cut here, the digest of the whole follows".
_CUT = "%7e"
# How sinks of earlier commits wrote empty text, which other readers take for `~`.
EMPTY_BEFORE = _CUT
# What Hive, Spark and pyarrow write and read for a null partition value; the text itself is encoded (leading `_`).
NULL = "__HIVE_DEFAULT_PARTITION__"


def encode_value(value: str) -> str:
    """Return one path component for any text: injective, and safe on S3, POSIX and in URLs.

    Keeps `[A-Za-z0-9_-]` and inner dots, percent-encodes the rest with upper-case hex. A leading `_` is encoded too:
    readers skip such names. Above 128 bytes the rest is replaced by a digest. Empty text stays empty (`v=`), which
    DuckDB, Polars, pandas and pyarrow read as what it is.
    """
    last = len(value) - 1
    out = []
    for position, char in enumerate(value):
        safe = (char in _SAFE and not (char == "_" and position == 0)) or (char == "." and 0 < position < last)
        out.append(char if safe else "".join(f"%{byte:02X}" for byte in char.encode("utf-8", "surrogatepass")))
    encoded = "".join(out)
    if len(encoded) > _MAX_VALUE_BYTES:
        return re.sub(r"%.?\Z", "", encoded[:60]) + _CUT + digest(value)
    return encoded


def decode_value(encoded: str) -> str | None:
    """Return the encoded text, None for a null or if only its digest was kept."""
    if encoded == EMPTY_BEFORE:
        return ""
    if encoded == NULL:
        return None
    return None if _CUT in encoded else unquote(encoded, errors="surrogatepass")


def partition_key(levels: Sequence[tuple[str, str | None]]) -> str:
    """Return a key such as `day=2026-11-01` or `year=2026/month=11`. Names and values are encoded; None is a partition
    of nulls."""
    return "/".join(f"{encode_value(name)}={NULL if value is None else encode_value(value)}" for name, value in levels)


def parse_partition_key(key: str) -> list[tuple[str, str | None]]:
    """Return the decoded levels of a partition key; a value is None if only its digest was kept."""
    levels = []
    for part in key.split("/"):
        name, _, value = part.partition("=")
        levels.append((decode_value(name) or name, decode_value(value)))
    return levels


def partition_texts(key: str) -> list[tuple[str, str | None]]:
    """Return the levels of a partition key for readers: None only for a null; the digest if only that was kept."""
    levels = []
    for part in key.split("/"):
        name, _, value = part.partition("=")
        text = decode_value(value)
        levels.append((decode_value(name) or name, value if text is None and value != NULL else text))
    return levels
