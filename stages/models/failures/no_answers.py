"""Empty answers: an error of the provider, an empty answer of the model, or a row that alone is never answered."""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from langchain_core.messages import AIMessage
from langchain_core.outputs import ChatResult

from schemas.errors import NoAnswer, RowError
from stages.models.finish import CUT_OFF, PAUSED, WITHHELD, finish_of

MAX_ATTEMPTS = 5
# With these a model has to answer; other requests of a user's graph may have an empty answer.
_NEEDS_ANSWER = ("response_format", "tools", "functions")


def check_answered(result: ChatResult, parameters: Mapping[str, Any]) -> ChatResult:
    """Return the result. Raises NoAnswer if the provider failed while it answered, or the answer is empty; RowError for
    one that pauses, which a batch job cannot go on with."""
    message = result.generations[0].message
    if not isinstance(message, AIMessage):
        return result
    finish = finish_of(message)
    if finish == "error":
        raise NoAnswer("the provider failed while it answered", kind="empty_answer")
    if finish == PAUSED:
        paused = RowError("the answer paused before its end", kind="endless_answer", hint="tier: standard goes on.")
        paused.billed = True
        raise paused
    reply = message.tool_calls or message.invalid_tool_calls or message.additional_kwargs.get("refusal")
    if reply or finish in CUT_OFF or finish in WITHHELD or not any(parameters.get(name) for name in _NEEDS_ANSWER):
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
    """Counts the empty answers of each request in this process."""

    count: Counter[str] = field(default_factory=Counter)

    def rejects(self, failure: NoAnswer, request: str, *, others: bool, outage: bool) -> RowError | None:
        """Return the reject of a row that is never answered while `others` are; during an apparent outage after twice
        as many attempts, because several such rows at the end of a run look like one."""
        self.count[request] += 1
        if not others or self.count[request] < MAX_ATTEMPTS * (2 if outage else 1):
            return None
        del self.count[request]
        return RowError(failure.message, kind=failure.kind, raw=failure.raw)
