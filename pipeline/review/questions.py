"""Parked rows, their questions and people's answers, on a store.

    _tandem/pending/<partition>/part-….parquet            the questions of a generation, named by its manifest
    _tandem/waiting/<partition>.parquet                   those of a partition that waits before it is published
    _tandem/journal/<partition>/segments/_review/…        answers: facts like any others, but never merged nor removed

An answer belongs to a question, not to a generation: it holds for the next run, also for one that calls its models
afresh.
"""

import uuid
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import orjson
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.journal.segments import Reading, read_segments
from pipeline.stores import Store
from pipeline.stores.parquet import table_of
from schemas import ids
from schemas.arrow_tables import empty_frame
from schemas.errors import ObjectMissing
from schemas.manifest import Manifest
from stages.execution.questions import questions_of
from stages.journal.records import AnswerRecord, RowRecord
from stages.journal.segments import encode_segment

PENDING = pa.schema(
    [
        pa.field("row_id", pa.string()),
        pa.field("key", pa.string()),  # JSON
        pa.field("stage", pa.string()),
        pa.field("question", pa.string()),  # JSON
        pa.field("question_digest", pa.string()),
        pa.field("ordinal", pa.int64()),
        pa.field("schema", pa.string()),  # JSON schema of an answer, null for any
        pa.field("refused", pa.string()),  # the nonce of an answer that did not fit
        pa.field("why", pa.string()),
        pa.field("row", pa.string()),  # JSON: the columns of the row that the stage reads
        pa.field("row_fingerprint", pa.string()),
        pa.field("stage_fingerprint", pa.string()),
        pa.field("waits", pa.bool_()),  # pending: wait
        pa.field("asked_at", pa.timestamp("us", tz="UTC")),
    ]
)
QUESTION = ("stage_fingerprint", "row_fingerprint", "question_digest", "ordinal")
QuestionKey = tuple[str, str, str, int]


def question_rows(record: RowRecord, *, key: dict[str, Any], stage: str, row: dict[str, Any], waits: bool) -> list[Any]:
    """Return the questions of a pending row, in the columns of `PENDING`."""
    return [
        {
            "key": orjson.dumps(key, default=str).decode(),
            "stage": stage,
            "question": orjson.dumps(question.asks).decode(),
            "question_digest": question.digest,
            "ordinal": question.ordinal,
            "schema": orjson.dumps(question.schema).decode() if question.schema else None,
            "refused": question.refused,
            "why": question.why,
            "row": orjson.dumps(row, default=str).decode(),
            "row_fingerprint": record.row,
            "stage_fingerprint": record.stage,
            "waits": waits,
            "asked_at": round(record.at * 1e6),
        }
        for question in questions_of(record)
    ]


# Answers -----------------------------------------------------------------------------------------------------------


def read_answers(store: Store, partition: str) -> list[AnswerRecord]:
    """Return every answer ever given to questions of a partition."""
    keys = [info.key for info in store.list(ids.journal_answers(partition))]
    segments = read_segments(store, keys, Reading())
    return [record for records in segments for record in records if isinstance(record, AnswerRecord)]


def write_answers(store: Store, partition: str, answers: Iterable[AnswerRecord]) -> None:
    """Write answers, as one object."""
    store.put_absent(ids.journal_answer(partition, uuid.uuid4().hex), encode_segment(answers))


def latest_answers(answers: Iterable[AnswerRecord]) -> dict[QuestionKey, AnswerRecord]:
    """Return the latest answer to each question."""
    found: dict[QuestionKey, AnswerRecord] = {}
    for answer in sorted(answers, key=lambda answer: (answer.at, answer.nonce)):
        found[answer.stage, answer.row, answer.question, answer.ordinal] = answer
    return found


def with_answers(rows: pl.DataFrame, answers: Iterable[AnswerRecord]) -> pl.DataFrame:
    """Return the questions with the column `answer`: JSON, null where there is no (new) answer."""
    latest = latest_answers(answers)
    column = []
    for *key, refused in rows.select(*QUESTION, "refused").iter_rows():
        answer = latest.get(tuple(key))
        column.append(answer.answer if answer is not None and answer.nonce != refused else None)
    return rows.with_columns(pl.Series("answer", column, dtype=pl.String))


def answered_rows(store: Store, manifest: Manifest | None) -> int:
    """Count the pending rows of a generation that have been answered since."""
    if manifest is None or not manifest.counts.pending:
        return 0
    answers = read_answers(store, manifest.partition)
    if not answers:
        return 0
    rows = with_answers(of_generation(store, manifest), answers)
    return rows.filter(pl.col("answer").is_not_null())["row_id"].n_unique()


# Questions ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class PendingRows:
    """The questions of a partition. `generation` None: it waits for their answers before it is published."""

    partition: str
    generation: int | None
    rows: pl.DataFrame


def of_generation(store: Store, manifest: Manifest) -> pl.DataFrame:
    return pl.concat([_empty(), *(_read(store, file.key) for file in manifest.pending)])


def put_waiting(store: Store, partition: str, rows: pl.DataFrame, *, base: int) -> None:
    """Write the questions that a partition waits for, so that `tandem review` finds them. `base`: its generation."""
    table = rows.select(PENDING.names).to_arrow().cast(PENDING)
    sink = pa.BufferOutputStream()
    pq.write_table(table.replace_schema_metadata({b"base": str(base).encode()}), sink, compression="zstd")
    store.put(ids.waiting(partition), sink.getvalue().to_pybytes())


def remove_waiting(store: Store, partition: str) -> None:
    store.delete([ids.waiting(partition)])


def waiting(store: Store, current: dict[str, int]) -> list[PendingRows]:
    """Return the partitions that wait and were not published since. `current`: their generations."""
    found = []
    for info in store.list(ids.WAITING):
        partition = ids.parse_waiting(info.key)
        try:
            table = table_of(store.get(info.key))
        except ObjectMissing:
            continue
        base = int((table.schema.metadata or {}).get(b"base", b"0"))
        if base >= current.get(partition, 0):
            found.append(PendingRows(partition, None, pl.DataFrame(table)))
    return found


def _read(store: Store, key: str) -> pl.DataFrame:
    try:
        return pl.DataFrame(table_of(store.get(key)))
    except ObjectMissing:  # superseded meanwhile
        return _empty()


def _empty() -> pl.DataFrame:
    return empty_frame(PENDING)
