"""Find rows that wait for a person, and answer them. Identical rows share one question; the answers of a partition are
written together.

An answer costs nothing until the next `tandem run` of the partition, which calls models only for what was missing.
"""

import datetime as dt
import time
import uuid
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import orjson
import polars as pl

from pipeline.review import questions
from pipeline.review.questions import PendingRows, QuestionKey
from pipeline.sinks import catalogue
from pipeline.stores import Store
from schemas import digests
from schemas.errors import UsageError
from stages.journal.records import AnswerRecord

RUN = "review"
_SHOWN = 3


@dataclass(frozen=True)
class ReviewQuestion:
    """A question of one or several identical rows of a partition. `generation` None: the partition waits for the
    answer. `answer` is the answer as JSON, None while there is none. `rows` are (row id, key) of the rows."""

    partition: str
    generation: int | None
    id: str
    question_key: QuestionKey
    rows: tuple[tuple[str, dict[str, Any]], ...]
    stage: str
    question: Any
    reads: dict[str, Any]
    schema: dict[str, Any] | None
    why: str | None
    asked_at: dt.datetime
    answer: str | None

    @property
    def row_id(self) -> str:
        return self.rows[0][0]

    @property
    def key(self) -> dict[str, Any]:
        return self.rows[0][1]

    def is_of(self, row: str) -> bool:
        """True if `--row` names this question: by its id, a row's id, the key as JSON, or a value of the key."""
        if row == self.id:
            return True
        for row_id, key in self.rows:
            if row in (row_id, orjson.dumps(key).decode()) or row in {str(value) for value in key.values()}:
                return True
        return False

    def as_json(self) -> dict[str, Any]:
        return {
            "partition": self.partition,
            "generation": self.generation,
            "id": self.id,
            "row_id": self.row_id,
            "key": self.key,
            "rows": len(self.rows),
            "stage": self.stage,
            "question": self.question,
            "row": self.reads,
            "schema": self.schema,
            "refused": self.why,
            "asked_at": self.asked_at.isoformat(),
            "answer": orjson.loads(self.answer) if self.answer is not None else None,
            "answered": self.answer is not None,
        }


def open_questions(store: Store, partition: str | None = None) -> list[ReviewQuestion]:
    """Return the questions whose rows have not gone on yet, by partition, oldest first."""
    found: list[ReviewQuestion] = []
    for parked in _parked(store, partition):
        rows = questions.with_answers(parked.rows, questions.read_answers(store, parked.partition))
        found += sorted(_grouped(parked, rows), key=lambda question: (question.asked_at, question.id))
    return sorted(found, key=lambda question: question.partition)


def _parked(store: Store, partition: str | None) -> Iterator[PendingRows]:
    found = catalogue.published(store, None if partition is None else [partition])
    manifests = list(catalogue.manifests(found))
    waiting_rows = questions.waiting(store, {manifest.partition: manifest.generation for manifest in manifests})
    yield from (parked for parked in waiting_rows if partition in (None, parked.partition))
    waiting = {parked.partition for parked in waiting_rows}
    for manifest in manifests:
        if manifest.partition not in waiting and manifest.present and manifest.pending:
            yield PendingRows(manifest.partition, manifest.generation, questions.of_generation(store, manifest))


def _grouped(parked: PendingRows, rows: pl.DataFrame) -> Iterator[ReviewQuestion]:
    for (*key,), part in rows.group_by(*questions.QUESTION, maintain_order=True):
        first = part.row(0, named=True)
        stage, row, question, ordinal = str(key[0]), str(key[1]), str(key[2]), int(str(key[3]))
        yield ReviewQuestion(
            partition=parked.partition,
            generation=parked.generation,
            id=digests.digest(parked.partition, stage, row, question, str(ordinal))[:12],
            question_key=(stage, row, question, ordinal),
            rows=tuple((row_id, orjson.loads(row_key)) for row_id, row_key in part.select("row_id", "key").iter_rows()),
            stage=first["stage"],
            question=orjson.loads(first["question"]),
            reads=orjson.loads(first["row"]),
            schema=orjson.loads(first["schema"]) if first["schema"] else None,
            why=first["why"] if first["answer"] is None else None,
            asked_at=first["asked_at"],
            answer=first["answer"],
        )


def questions_of_row(waiting: Sequence[ReviewQuestion], row: str) -> list[ReviewQuestion]:
    """Return the questions of `--row`. Raises UsageError if there are none."""
    matches = [question for question in waiting if question.is_of(row)]
    if not matches:
        examples = ", ".join(_named(question) for question in waiting[:_SHOWN])
        raise UsageError(
            f"--row {row}: no row with this id or key waits for an answer.",
            hint=f"Waiting: {examples}" if examples else "No row waits for an answer.",
        )
    return matches


def single_question(waiting: Sequence[ReviewQuestion], row: str) -> ReviewQuestion:
    """Return the one question of `--row`. Raises UsageError if there are none or several."""
    matches = questions_of_row(waiting, row)
    if len(matches) > 1:
        examples = "; ".join(
            f"{question.id} ({question.partition}: {shown(question.question, 60)})" for question in matches[:_SHOWN]
        )
        raise UsageError(f"--row {row}: this matches {len(matches)} questions.", hint=f"Give the id of one: {examples}")
    return matches[0]


def _named(question: ReviewQuestion) -> str:
    return ", ".join(str(value) for value in question.key.values())[:60]


def shown(value: Any, most: int = 160) -> str:
    """Return a question or an answer as one line of at most `most` characters."""
    text = " ".join((value if isinstance(value, str) else orjson.dumps(value, default=str).decode()).split())
    return text if len(text) <= most else text[: most - 1] + "…"


# Answering ---------------------------------------------------------------------------------------------------------


def parsed(text: str, *, as_text: bool = False) -> Any:
    """Return a typed answer: parsed if it is JSON, else the text itself."""
    if as_text:
        return text
    try:
        return orjson.loads(text)
    except orjson.JSONDecodeError:
        return text


def refusal(question: ReviewQuestion, answer: Any) -> str | None:
    """Return the reason to refuse an answer, else None."""
    if answer is None:
        return "null is not an answer"
    if question.schema is None:
        return None
    return mismatch(answer, question.schema)


def mismatch(value: Any, schema: Mapping[str, Any]) -> str | None:
    """Return the first difference of a value from a JSON schema, else None. The resumed graph checks the rest."""
    if "enum" in schema and value not in schema["enum"]:
        return f"{shown(value, 60)} is not one of {', '.join(map(str, schema['enum']))}"
    expected = schema.get("type")
    if isinstance(expected, str) and not isinstance(value, _TYPES.get(expected, object)):
        return f"{shown(value, 60)} is not of type {expected}"
    if isinstance(value, bool) and expected in ("integer", "number"):
        return f"{shown(value, 60)} is not of type {expected}"
    if isinstance(value, dict):
        missing = [name for name in schema.get("required", ()) if name not in value]
        if missing:
            return f"{missing[0]!r} is missing"
        for name, property_schema in schema.get("properties", {}).items():
            if name in value and (reason := mismatch(value[name], property_schema)) is not None:
                return f"{name}: {reason}"
    return None


_TYPES: dict[str, Any] = {
    "string": str,
    "integer": int,
    "number": (int, float),
    "boolean": bool,
    "object": dict,
    "array": list,
}


def answer_all(store: Store, answers: Iterable[tuple[ReviewQuestion, Any]], by: str = "") -> dict[str, int]:
    """Write answers, each for all rows of its question, as one object a partition. `by` is the name of the person, if
    it is known. Return their number by partition."""
    records: dict[str, list[AnswerRecord]] = {}
    counts: dict[str, int] = {}
    for question, value in answers:
        stage, row, question_digest, ordinal = question.question_key
        text, nonce, now = orjson.dumps(value).decode(), uuid.uuid4().hex, time.time()
        counts[question.partition] = counts.get(question.partition, 0) + 1
        records.setdefault(question.partition, []).append(
            AnswerRecord(stage, row, question.row_id, question_digest, ordinal, text, RUN, now, nonce, by or None)
        )
    for partition, batch in sorted(records.items()):
        questions.write_answers(store, partition, batch)
    return counts
