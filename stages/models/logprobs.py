"""The probability that a model gave to the values it chose, by the log-probabilities of their tokens.

A wire puts them into an answer's metadata as `[bytes of the token, log-probability]` in their order. A value is as
probable as its tokens are together.
"""

import json
import math
from collections.abc import Collection, Iterator
from typing import Any

from langchain_core.messages import AIMessage

LOGPROBS = "logprobs"
_DECODER = json.JSONDecoder(strict=False)
_BLANKS = " \t\r\n"


def tokens_with_logprobs(found: Any, text: str, logprob: str) -> list[list[float]] | None:
    """Return the tokens of an answer as its metadata has them; None without them. `text` and `logprob`: the names of
    both in the provider's form."""
    tokens: list[list[float]] = []
    for token in found or ():
        data, value = token.get("bytes"), token.get(logprob)
        if not isinstance(value, int | float):
            return None
        size = len(data) if isinstance(data, list) else len(str(token.get(text) or "").encode())
        tokens.append([size, round(float(value), 6)])
    return tokens or None


def least_probability(message: AIMessage, names: Collection[str]) -> float | None:
    """Return the probability of the least probable value among the outputs `names`; None where that is not known: the
    answer has no log-probabilities, or they are not of its text, or it is no JSON object."""
    tokens, text = message.response_metadata.get(LOGPROBS), message.text
    if not tokens:
        return None
    data = text.encode()
    if sum(size for size, _ in tokens) != len(data):
        return None
    spans = dict(_values_in(text))
    if not names or any(name not in spans for name in names):
        return None
    return min(_probability(tokens, *_in_bytes(text, spans[name])) for name in names)


def _in_bytes(text: str, span: tuple[int, int]) -> tuple[int, int]:
    begin, end = span
    first = len(text[:begin].encode())
    return first, first + len(text[begin:end].encode())


def _probability(tokens: list[list[float]], begin: int, end: int) -> float:
    total, at = 0.0, 0
    for size, logprob in tokens:
        if at < end and at + size > begin:
            total += logprob
        at += int(size)
    return min(1.0, math.exp(total))


def _values_in(text: str) -> Iterator[tuple[str, tuple[int, int]]]:
    """Yield the names and places of the values of the first JSON object in a text, as far as it can be read."""
    at = text.find("{") + 1
    while at:
        try:
            name, at = _DECODER.raw_decode(text, _past_blanks(text, at))
            at = _past_blanks(text, at)
            if not isinstance(name, str) or text[at : at + 1] != ":":
                return
            begin = _past_blanks(text, at + 1)
            _, end = _DECODER.raw_decode(text, begin)
        except (ValueError, RecursionError):
            return
        yield name, (begin, end)
        at = _past_blanks(text, end)
        at = at + 1 if text[at : at + 1] == "," else 0


def _past_blanks(text: str, at: int) -> int:
    while text[at : at + 1] in _BLANKS and at < len(text):
        at += 1
    return at
