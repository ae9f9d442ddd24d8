"""The beginning that the requests of a stage have in common, which a provider's cache can keep: system text, examples,
and what the prompt says before the first value of a row. It is marked in the messages, and nothing of it is in a
digest."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, TypeVar

from langchain_core.messages import BaseMessage

from stages.text.tokens import tokens_of_bytes

_COMMON = "tandem_common"
_MARK = "cache_control"
_NEARLY = 0.75  # of the least length: tokens are estimated
AnyMessage = TypeVar("AnyMessage", bound=BaseMessage)


class End(NamedTuple):
    """The end of the prefix: the place of its last message, and the characters of that message's text, or the parts of
    its content, that belong to it."""

    place: int
    length: int


def common(message: AnyMessage, characters: int | None = None) -> AnyMessage:
    """Mark a message of text: all before it, and so many of its characters (None: all), are the same for all rows."""
    length = len(str(message.content)) if characters is None else characters
    message.additional_kwargs[_COMMON] = length
    return message


def end_of(messages: Sequence[BaseMessage]) -> End | None:
    """Return the end of the prefix: the last that a stage has marked, else the last mark for the provider's cache that
    a graph of a user's has set; None without either."""
    for index in range(len(messages) - 1, -1, -1):
        if length := messages[index].additional_kwargs.get(_COMMON):
            return End(index, length)
    for index in range(len(messages) - 1, -1, -1):
        content = messages[index].content
        if isinstance(content, list):
            marked = [at for at, part in enumerate(content) if isinstance(part, dict) and _MARK in part]
            if marked:
                return End(index, marked[-1] + 1)
    return None


def is_ours(messages: Sequence[BaseMessage], end: End) -> bool:
    """True if a stage has marked this end, so that the request has no mark for the provider yet."""
    return isinstance(messages[end.place].content, str)


def part_of(sent: Sequence[Mapping[str, Any]], end: End) -> list[Any]:
    """Return the prefix of messages in the form in which they are sent."""
    return [*sent[: end.place], sent[end.place]["content"][: end.length]]


def is_long_enough(size: int, least: int) -> bool:
    """True if a prefix of `size` bytes may have the `least` tokens that are cached."""
    return tokens_of_bytes(size) >= _NEARLY * least
