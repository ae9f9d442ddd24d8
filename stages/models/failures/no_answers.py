"""Answers that are none: told from a model's own, and from a row that alone is never answered."""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from langchain_core.messages import AIMessage
from langchain_core.outputs import ChatResult

from schemas.errors import NoAnswer, RowError
from stages.models.finish import CUT_OFF, WITHHELD, finish_of

MAX_ATTEMPTS = 5
# With these a model has to say something; what a graph of the user's asks otherwise may have no answer.
_WANTED = ("response_format", "tools", "functions")


def checked(result: ChatResult, asked: Mapping[str, Any]) -> ChatResult:
    """The result. Raises NoAnswer where the provider failed while it answered, or the model said nothing at all."""
    message = result.generations[0].message
    if not isinstance(message, AIMessage):
        return result
    finish = finish_of(message)
    if finish == "error":
        raise NoAnswer("the provider failed while it answered", kind="empty_answer")
    said = message.tool_calls or message.invalid_tool_calls or message.additional_kwargs.get("refusal")
    if said or finish in CUT_OFF or finish in WITHHELD or not any(asked.get(name) for name in _WANTED):
        return result
    content = message.content
    text = content if isinstance(content, str) else "".join(_text(part) for part in content)
    if not text.strip():
        raise NoAnswer("the provider's answer is empty", kind="empty_answer")
    return result


def _text(part: Any) -> str:
    return part if isinstance(part, str) else str(part.get("text", ""))


@dataclass
class NoAnswers:
    """How often each request got none, in this process."""

    count: Counter[str] = field(default_factory=Counter)

    def rejects(self, failure: NoAnswer, request: str, *, others: bool, outage: bool) -> RowError | None:
        """The reject of a row that is never answered while `others` are; in what looks like an outage after twice as
        many attempts, as several such rows at the end of a run look like one."""
        self.count[request] += 1
        if not others or self.count[request] < MAX_ATTEMPTS * (2 if outage else 1):
            return None
        del self.count[request]
        return RowError(failure.message, kind=failure.kind, raw=failure.raw)
