"""Lone surrogates, which cannot be encoded."""

import re

_SURROGATE = re.compile("[\ud800-\udfff]")


def without_surrogates(text: str) -> str:
    """Return the text as Unicode that can be encoded: half of a pair becomes U+FFFD."""
    return _SURROGATE.sub("\ufffd", text)
