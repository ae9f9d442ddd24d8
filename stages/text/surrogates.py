"""Lone surrogates, which no encoding knows."""

import re

_SURROGATE = re.compile("[\ud800-\udfff]")


def without_surrogates(text: str) -> str:
    """The text as Unicode that can be written: half of a pair becomes U+FFFD."""
    return _SURROGATE.sub("\ufffd", text)
