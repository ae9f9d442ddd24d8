"""The rows to forget: values of the key as text, and the identities that journals and row files know them by.

An identity is a digest of the key's typed values. The text `17` may be a number or a text, so a row has an identity for
each type that its text may stand for; no two rows of one column share a text.
"""

import datetime as dt
import decimal
import hashlib
import itertools
import math
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TypeVar

import polars as pl

from schemas.errors import UsageError
from stages.journal.fingerprints import row_ids

_IDENTITY = re.compile(r"[0-9a-f]{32}")
_WHOLE = re.compile(r"-?(0|[1-9]\d*)")
_DECIMAL = re.compile(r"-?\d+(\.\d+)?")
_BOOLEANS = {"true": True, "false": False}
_LARGEST = 1 << 63
T = TypeVar("T")


@dataclass(frozen=True)
class ForgottenRow:
    """A row to forget: its text on the command line, and its possible identities."""

    text: str
    ids: frozenset[str]


def forgotten_row(text: str, key: Sequence[str]) -> ForgottenRow:
    """Parse one ROW: the key's value, `name=value, name=value` for a key of several columns, or the row's identity.
    Raises UsageError."""
    if _IDENTITY.fullmatch(text) and len(key) > 1:
        return ForgottenRow(text, frozenset((text,)))
    values = [text] if len(key) == 1 else _values(text, key)
    itself = (text,) if _IDENTITY.fullmatch(text) else ()
    return ForgottenRow(text, frozenset((*itself, *_identities(values, key))))


def _values(text: str, key: Sequence[str]) -> list[str]:
    names = "|".join(map(re.escape, sorted(key, key=len, reverse=True)))
    _, *parts = re.split(rf"(?:^|,\s*)({names})=", text)
    found = dict(zip(parts[::2], parts[1::2], strict=True))
    if found.keys() != set(key):
        example = ", ".join(f"{name}=…" for name in key)
        raise UsageError(
            f"{text!r} is no row: source.key has the columns {', '.join(key)}.", hint=f"Write a ROW as {example!r}."
        )
    return [found[name] for name in key]


def _identities(values: Sequence[str], key: Sequence[str]) -> Iterator[str]:
    """Yield the identity of the values under each type of each column."""
    for columns in itertools.product(*(list(_typed(value)) for value in values)):
        yield from row_ids(
            pl.DataFrame([column.alias(name) for column, name in zip(columns, key, strict=True)]), list(key)
        )


def _typed(text: str) -> Iterator[pl.Series]:
    yield pl.Series([text], dtype=pl.String)
    if _WHOLE.fullmatch(text) and abs(int(text)) < 2 * _LARGEST:
        yield pl.Series([int(text)], dtype=pl.UInt64 if int(text) >= _LARGEST else pl.Int64)
    if _DECIMAL.fullmatch(text):
        yield pl.Series([decimal.Decimal(text)], dtype=pl.Decimal(38, len(text.partition(".")[2])))
    if text.lower() in _BOOLEANS:
        yield pl.Series([_BOOLEANS[text.lower()]])
    for parse in (_float, _date, _time):
        if (found := parse(text)) is not None:
            yield found


def _float(text: str) -> pl.Series | None:
    value = _parsed(float, text)
    return pl.Series([value], dtype=pl.Float64) if value is not None and math.isfinite(value) else None


def _date(text: str) -> pl.Series | None:
    value = _parsed(dt.date.fromisoformat, text)
    return pl.Series([value], dtype=pl.Date) if value is not None else None


def _time(text: str) -> pl.Series | None:
    value = _parsed(dt.datetime.fromisoformat, text)
    if value is None:
        return None
    if value.tzinfo is None:
        return pl.Series([value], dtype=pl.Datetime("us"))
    return pl.Series([value.astimezone(dt.UTC)], dtype=pl.Datetime("us", "UTC"))


def _parsed(parse: Callable[[str], T], text: str) -> T | None:
    try:
        return parse(text)
    except (ValueError, OverflowError):
        return None


# Sets of rows ------------------------------------------------------------------------------------------------------


def salted(salt: bytes, text: str) -> str:
    """Return a digest of a text from which, without the salt, the text cannot be guessed."""
    return hashlib.blake2b(text.encode(), key=salt, digest_size=16).hexdigest()


@dataclass(frozen=True)
class Identities:
    """The identities of the rows to forget: plain, and, of a command that was killed, as salted digests."""

    plain: frozenset[str]
    salt: bytes = b""
    digests: frozenset[str] = frozenset()

    def mask(self, ids: pl.Series) -> pl.Series:
        """Return True for each of these identities that is to be forgotten."""
        found = ids.is_in(self._plain.implode()).fill_null(value=False)
        if not self.digests:
            return found
        return found | pl.Series([id is not None and self._noted(id) for id in ids.to_list()], dtype=pl.Boolean)

    def has(self, id: str) -> bool:
        return id in self.plain or (bool(self.digests) and self._noted(id))

    def any_of(self, ids: Iterable[str]) -> bool:
        return any(map(self.has, ids))

    def _noted(self, id: str) -> bool:
        return salted(self.salt, id) in self.digests

    @cached_property
    def _plain(self) -> pl.Series:
        return pl.Series(sorted(self.plain), dtype=pl.String)
