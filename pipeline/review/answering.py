"""Rows parked for a person, and answering them. Equal rows ask once; a partition's answers are written at once.

What is answered here costs nothing until the next `tandem run` of the partition, which asks exactly what was missing.
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
from pipeline.review.questions import PendingRows
from pipeline.sinks import catalogue
from pipeline.stores import Store
from schemas import digests
from schemas.errors import UsageError
from stages.journal.records import AnswerRecord

RUN = "review"
_SHOWN = 3


@dataclass(frozen=True)
class ReviewQuestion:
    """What one or several equal rows of a partition ask. `generation` None: the partition waits for the answer.
    `answer` is what was said since, as JSON. `rows` are (row id, key) of the rows."""

    partition: str
    generation: int | None
    id: str
    asked: questions.Asked
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
        """Does `--row` mean this: the question's id, a row's id, its key as JSON, or a value of its key?"""
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
    """All that is asked and not yet gone on with, by partition, oldest first."""
    found: list[ReviewQuestion] = []
    for parked in _parked(store, partition):
        rows = questions.with_answers(parked.rows, questions.given(store, parked.partition))
        found += sorted(_grouped(parked, rows), key=lambda asked: (asked.asked_at, asked.id))
    return sorted(found, key=lambda asked: asked.partition)


def _parked(store: Store, partition: str | None) -> Iterator[PendingRows]:
    found = catalogue.published(store, None if partition is None else [partition])
    manifests = list(catalogue.manifests(found))
    holding = questions.waiting(store, {manifest.partition: manifest.generation for manifest in manifests})
    yield from (parked for parked in holding if partition in (None, parked.partition))
    waits = {parked.partition for parked in holding}
    for manifest in manifests:
        if manifest.partition not in waits and manifest.ever_published and manifest.pending:
            yield PendingRows(manifest.partition, manifest.generation, questions.of_generation(store, manifest))


def _grouped(parked: PendingRows, rows: pl.DataFrame) -> Iterator[ReviewQuestion]:
    for (*asked,), part in rows.group_by(*questions.QUESTION, maintain_order=True):
        first = part.row(0, named=True)
        stage, row, question, ordinal = str(asked[0]), str(asked[1]), str(asked[2]), int(str(asked[3]))
        yield ReviewQuestion(
            partition=parked.partition,
            generation=parked.generation,
            id=digests.digest(parked.partition, stage, row, question, str(ordinal))[:12],
            asked=(stage, row, question, ordinal),
            rows=tuple((row_id, orjson.loads(key)) for row_id, key in part.select("row_id", "key").iter_rows()),
            stage=first["stage"],
            question=orjson.loads(first["question"]),
            reads=orjson.loads(first["row"]),
            schema=orjson.loads(first["schema"]) if first["schema"] else None,
            why=first["why"] if first["answer"] is None else None,
            asked_at=first["asked_at"],
            answer=first["answer"],
        )


def those_of(found: Sequence[ReviewQuestion], row: str) -> list[ReviewQuestion]:
    """The questions of `--row`. Raises UsageError where there are none, or it means rows of several keys."""
    chosen = [asked for asked in found if asked.is_of(row)]
    if not chosen:
        some = ", ".join(_named(asked) for asked in found[:_SHOWN])
        raise UsageError(
            f"--row {row}: no row with that key waits for an answer.",
            hint=f"These do: {some}" if some else "No row waits for one.",
        )
    return chosen


def the_one(found: Sequence[ReviewQuestion], row: str) -> ReviewQuestion:
    """The one question that `--row` means. Raises UsageError where it is not one."""
    chosen = those_of(found, row)
    if len(chosen) > 1:
        some = "; ".join(f"{asked.id} ({asked.partition}: {shown(asked.question, 60)})" for asked in chosen[:_SHOWN])
        raise UsageError(f"--row {row}: {len(chosen)} questions are meant.", hint=f"Give the id of one: {some}")
    return chosen[0]


def _named(asked: ReviewQuestion) -> str:
    return ", ".join(str(value) for value in asked.key.values())[:60]


def shown(value: Any, most: int = 160) -> str:
    """A question or an answer in a line."""
    text = " ".join((value if isinstance(value, str) else orjson.dumps(value, default=str).decode()).split())
    return text if len(text) <= most else text[: most - 1] + "…"


# Answering ---------------------------------------------------------------------------------------------------------


def parsed(text: str, *, as_text: bool = False) -> Any:
    """What somebody typed: JSON where it is JSON, else the text itself."""
    if as_text:
        return text
    try:
        return orjson.loads(text)
    except orjson.JSONDecodeError:
        return text


def refusal(asked: ReviewQuestion, answer: Any) -> str | None:
    """Why an answer cannot be taken, in a sentence."""
    if answer is None:
        return "null is no answer"
    if asked.schema is None:
        return None
    return misfit(answer, asked.schema)


def misfit(value: Any, schema: Mapping[str, Any]) -> str | None:
    """Where a value plainly differs from a JSON schema. LangGraph checks the rest when the graph goes on."""
    if "enum" in schema and value not in schema["enum"]:
        return f"{shown(value, 60)} is not one of {', '.join(map(str, schema['enum']))}"
    wanted = schema.get("type")
    if isinstance(wanted, str) and not isinstance(value, _TYPES.get(wanted, object)):
        return f"{shown(value, 60)} is no {wanted}"
    if isinstance(value, bool) and wanted in ("integer", "number"):
        return f"{shown(value, 60)} is no {wanted}"
    if isinstance(value, dict):
        absent = [name for name in schema.get("required", ()) if name not in value]
        if absent:
            return f"{absent[0]!r} is missing"
        for name, inner in schema.get("properties", {}).items():
            if name in value and (why := misfit(value[name], inner)) is not None:
                return f"{name}: {why}"
    return None


_TYPES: dict[str, Any] = {
    "string": str,
    "integer": int,
    "number": (int, float),
    "boolean": bool,
    "object": dict,
    "array": list,
}


def answer_all(store: Store, answers: Iterable[tuple[ReviewQuestion, Any]]) -> dict[str, int]:
    """Write answers down, each for all rows that ask; one object a partition. Returns how many a partition got."""
    records: dict[str, list[AnswerRecord]] = {}
    counted: dict[str, int] = {}
    for asked, value in answers:
        stage, row, question, ordinal = asked.asked
        text, nonce, now = orjson.dumps(value).decode(), uuid.uuid4().hex, time.time()
        counted[asked.partition] = counted.get(asked.partition, 0) + 1
        records.setdefault(asked.partition, []).append(
            AnswerRecord(stage, row, asked.row_id, question, ordinal, text, RUN, now, nonce)
        )
    for partition, said in sorted(records.items()):
        questions.give(store, partition, said)
    return counted
