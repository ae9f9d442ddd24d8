"""Lone surrogates, which cannot be encoded."""

import re
from typing import Any

_SURROGATE = re.compile("[\ud800-\udfff]")


def without_surrogates(text: str) -> str:
    """Return the text as Unicode that can be encoded: half of a pair becomes U+FFFD."""
    return _SURROGATE.sub("\ufffd", text)


def encodable(value: Any) -> Any:
    """Return a JSON value whose texts, keys included, can be encoded: JSON can name halves of pairs, no file can hold
    them."""
    if isinstance(value, str):
        return without_surrogates(value)
    if isinstance(value, list):
        return [encodable(item) for item in value]
    if isinstance(value, dict):
        return {encodable(key): encodable(item) for key, item in value.items()}
    return value
