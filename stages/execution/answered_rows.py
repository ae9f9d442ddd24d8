"""Outcomes of a stage that the journal has for all rows of a table, as columns: no object is made for a row.

    records of the journal → the one that counts for each fingerprint → joined to the rows → outputs as Arrow columns

This is what `stages.execution.batch` and `stages.execution.row_flow` do with records one by one, and must come to the
same. What is not understood here (a void, a question to a person, an answer of this very run, models that take turns)
is left to them: the answer is then None.
"""

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, replace

import orjson
import polars as pl
import pyarrow as pa

from schemas.tables import answer_columns
from stages.contract import BY, GraphStage
from stages.journal.records import RowRecord, record_of

_OUTCOMES = ("row", "reject")
_QUESTION = "pending"
_SINGLE = ("call", "node")  # of no use once the row has its outcome
# Between quotes of JSON a quote has a backslash before it, so that none of these is found within a text.
_BODY = pl.col("body").cast(pl.String)
_CALLED = ~_BODY.str.contains('"calls":[],', literal=True)
_NAMES_OTHERS = _BODY.str.contains('"by":{', literal=True)
_OTHERS = _BODY.str.extract(r'"by":(\{[^{}\\]*\})\}$')  # the last field of a record
_BEFORE, _BEHIND = ',"status":"ok","answer":', ',"error":null,"calls":'
# The answer as it is in the record, a text or null in JSON; null where the fields are not in the order in which they
# are written.
_ANSWER = _BODY.str.splitn(_BEFORE, 2).struct[1].str.splitn(_BEHIND, 2)
_TIME = _BODY.str.json_decode(pl.Struct({"at": pl.Float64})).struct["at"]


@dataclass(frozen=True)
class AnsweredRows:
    """The outcomes of a stage for the rows of a table, in their order. `records` has for each row the columns `print`,
    `own` (the row's identity), `id` (that of the record), `kind`, `body`, `answer`, `called` and `by`."""

    stage: GraphStage
    records: pl.DataFrame

    def __len__(self) -> int:
        return self.records.height

    def record(self, place: int) -> RowRecord:
        """Return the record of the row at a place."""
        found = record_of(self.records["body"][place])
        assert isinstance(found, RowRecord)
        return found

    @property
    def rejected(self) -> list[int]:
        """The places of the rows that were rejected."""
        return (self.records["kind"] == "reject").arg_true().to_list()

    @property
    def any_by_model(self) -> bool:
        """True if a model has answered one of the rows."""
        return bool(self.records.select(((pl.col("kind") == "row") & pl.col("called")).any()).item())

    def outputs(self) -> dict[str, pa.Array]:
        """Return the stage's outputs, null in rejected rows."""
        answer = pl.when(pl.col("kind") == "row").then(pl.col("answer")).otherwise(pl.lit("false"))
        texts = orjson.loads(_listed(self.records.select(answer).to_series().to_list()))
        answers = orjson.loads(_listed(["null" if text is False else text or "{}" for text in texts]))
        return answer_columns(answers, self.stage.fields)

    def answered_by(self) -> Counter[tuple[str, str]]:
        """Count the rows by the model that was asked, and the name by which its answer calls it."""
        found: Counter[tuple[str, str]] = Counter()
        answered = self.records.filter((pl.col("kind") == "row") & pl.col("by").is_not_null())
        for text, rows in answered["by"].value_counts().iter_rows():
            found.update(dict.fromkeys(orjson.loads(text).items(), rows))
        return found

    def to_carry(self) -> Iterator[RowRecord]:
        """Yield the records that are of none of these rows, each as that of the first row that uses it."""
        firsts = self.records.unique("print", keep="first", maintain_order=True)
        foreign = firsts.filter(~pl.col("id").is_in(firsts["own"].implode()))
        for body, own in foreign.select("body", "own").iter_rows():
            record = record_of(body)
            assert isinstance(record, RowRecord)
            yield replace(record, id=own)


@dataclass(frozen=True)
class KnownOutcomes:
    """The outcome that counts for each row fingerprint of each stage, of those that a journal has."""

    records: pl.DataFrame

    @classmethod
    def of(cls, known: pl.DataFrame, run: str) -> "KnownOutcomes | None":
        """Return the outcomes in known records (`pipeline.journal.known_file`), unless some are of `run` itself, or
        some void others."""
        found = known.filter(~pl.col("kind").is_in(_SINGLE))
        kinds = set(found["kind"].unique())
        if not kinds <= {*_OUTCOMES, _QUESTION} or (found["run"] == run).any():
            return None
        found = found.select("kind", "stage", "id", "body", print="key")
        if found.select("stage", "print").is_duplicated().any():
            found = _first(found)
        answer = pl.when(_ANSWER.struct[1].is_not_null()).then(_ANSWER.struct[0])
        found = found.with_columns(answer=answer, called=_CALLED, by=_OTHERS)
        answered = pl.col("kind") == "row"
        unclear = (_NAMES_OTHERS & pl.col("by").is_null()) | (answered & pl.col("answer").is_null())
        return None if found.select(unclear.any()).item() else cls(found)

    def of_rows(self, stage: GraphStage, prints: pl.Series, ids: pl.Series) -> AnsweredRows | None:
        """Return the outcomes of rows with these fingerprints and identities, unless one has none, or waits for a
        person, or was answered by one of several models that take turns."""
        mine = self.records.filter(pl.col("stage") == stage.fingerprint)
        rows = pl.DataFrame([prints.alias("print"), ids.alias("own")])
        records = rows.join(mine, on="print", how="left", maintain_order="left")
        if not records["kind"].is_in(_OUTCOMES).fill_null(value=False).all():
            return None
        if records["answer"].str.contains(BY, literal=True).any():
            return None
        return AnsweredRows(stage, records)


def _first(records: pl.DataFrame) -> pl.DataFrame:
    """Return of equal stage and fingerprint the record that counts, as `stages.journal.known` has it: an answer before
    others, the first answer, the last of others."""
    answered = pl.col("kind") == "row"
    time = pl.when(answered).then(_TIME).otherwise(-_TIME)
    sorted_ = records.sort(~answered, time, maintain_order=True)
    return sorted_.unique(["stage", "print"], keep="first", maintain_order=True)


def _listed(texts: list[str]) -> str:
    """Return values in JSON as an array, which is parsed in one go."""
    return f"[{','.join(texts)}]"
