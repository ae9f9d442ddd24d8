"""Questions to a person as the journal keeps them: what a pending row waits for, and whether it is answered.

A question is identified by its content, not by its place: a graph that asks something else, because its prompt or an
earlier answer changed, gets no answer to an earlier question.
"""

from collections.abc import Iterable
from dataclasses import asdict, dataclass
from typing import Any

from stages.journal.known import Known
from stages.journal.records import AnswerRecord, QuestionKey, RowRecord

PENDING = "pending"


@dataclass(frozen=True)
class GraphQuestion:
    """`asks` is the argument of `interrupt()`, JSON-like; `digest` is its digest, `ordinal` its number among equal ones
    of the row. `schema`: the JSON schema of an answer. `refused`: the nonce of an answer that did not fit, `why` the
    reason."""

    asks: Any
    digest: str
    ordinal: int
    schema: dict[str, Any] | None = None
    refused: str | None = None
    why: str | None = None

    @property
    def key(self) -> QuestionKey:
        return self.digest, self.ordinal


class RowPending(Exception):
    """The row cannot continue before a person has answered."""

    def __init__(self, questions: Iterable[GraphQuestion]) -> None:
        super().__init__("waiting for an answer")
        self.questions = tuple(questions)


def describe_questions(questions: Iterable[GraphQuestion]) -> dict[str, Any]:
    """Return the `error` of a pending row's record."""
    return {
        "kind": PENDING,
        "message": "waiting for an answer",
        "questions": [asdict(question) for question in questions],
    }


def questions_of(record: RowRecord) -> list[GraphQuestion]:
    """Return the questions that a row waits for; none if it is not pending."""
    if record.status != PENDING:
        return []
    return [GraphQuestion(**question) for question in (record.error or {}).get("questions", ())]


def is_waiting(record: RowRecord | None, known: Known) -> bool:
    """True if the row is parked, without a new answer to any of its questions."""
    if record is None or record.status != PENDING:
        return False
    answers = known.answers.get(record.key, {})
    return not any(is_answered(question, answers.get(question.key)) for question in questions_of(record))


def is_answered(question: GraphQuestion, answer: AnswerRecord | None) -> bool:
    return answer is not None and answer.nonce != question.refused
