"""The origin of a row's cells: for each stage its outcome, its model calls with what they asked, and people's answers.

All of it is read from the partition's journal, by the identity of the row.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import orjson
import polars as pl

from pipeline.journal import compacted
from pipeline.journal.requests import requests_of
from pipeline.journal.segments import Reading
from pipeline.outputs.reader import ReaderSchema, parts_of, window
from pipeline.outputs.row_pages import SLICE, Place
from pipeline.review.questions import read_answers
from pipeline.stores import Store
from schemas.manifest import Manifest
from schemas.spec.sections import Spec, Stage
from stages.journal.fingerprints import row_ids
from stages.journal.records import AnswerRecord, CallRecord, NodeRecord, Record, RowRecord, VoidRecord, record_of
from stages.stage_digests import shape_under

_COLUMNS = ("kind", "id", "key", "stage", "body")


@dataclass(frozen=True)
class TracedCall:
    """A model call behind a row. `request`: as it was sent, None if it is not kept."""

    record: CallRecord
    request: Mapping[str, Any] | None


@dataclass(frozen=True)
class StageTrace:
    """What a stage did for a row: `outcome` is its last outcome for the generation, None if the journal has none."""

    stage: str
    outcome: RowRecord | None
    calls: tuple[TracedCall, ...]
    steps: tuple[NodeRecord, ...]
    answers: tuple[AnswerRecord, ...]
    voided: int


# Finding the row -----------------------------------------------------------------------------------------------------


def identity_columns(shape: ReaderSchema, manifest: Manifest, key: Sequence[str]) -> list[str] | None:
    """Return the columns that the identity of a row is made of; None if some of them are not published."""
    names = list(key) or list(manifest.input_columns)
    return names if names and set(names) <= set(shape.schema.names) else None


def identities(rows: pl.DataFrame, columns: Sequence[str]) -> list[str]:
    """Return the identity of each of these published rows."""
    return row_ids(rows.select(columns), list(columns))


def find_row(
    store: Store, manifest: Manifest, shape: ReaderSchema, columns: Sequence[str], row: str, hint: int = 0
) -> Place | None:
    """Return the place of a row in a generation; `hint` is the number where it is looked for first. Raises
    GenerationSuperseded, StoreError."""
    first = 0
    for part in parts_of(store, manifest):
        here = first <= hint < first + part.rows
        if here and identities(window(part, shape, hint - first, 1, columns), columns) == [row]:
            return Place(part, hint - first)
        first += part.rows
    for part in parts_of(store, manifest):
        for start in range(0, part.rows, SLICE):
            found = identities(window(part, shape, start, SLICE, columns), columns)
            if row in found:
                return Place(part, start + found.index(row))
    return None


# Its journal ---------------------------------------------------------------------------------------------------------


def trace(store: Store, manifest: Manifest, spec: Spec, row: str, values: Mapping[str, Any]) -> list[StageTrace]:
    """Return what each stage of a generation did for a row, in order. `values`: the published row, by which the outcome
    that was published is told from others. Raises StoreError."""
    records = list(_of_row(store, manifest.partition, row))
    chosen = {stage.name: _outcome(stage, manifest, values, records) for stage in spec.stages}
    asked = {call for outcome in chosen.values() if outcome is not None for call in outcome.calls}
    calls = _calls(store, manifest.partition, row, asked, records)
    requests = requests_of(store, manifest.partition, [request for request, _ in calls])
    people = read_answers(store, manifest.partition)
    found = []
    for stage in spec.stages:
        outcome = chosen[stage.name]
        mine = [calls[call] for call in (outcome.calls if outcome is not None else ()) if call in calls]
        found.append(
            StageTrace(
                stage=stage.name,
                outcome=outcome,
                calls=tuple(TracedCall(call, requests.get(call.request)) for call in mine),
                steps=tuple(one for one in records if isinstance(one, NodeRecord) and _same(one, outcome)),
                answers=tuple(one for one in people if _same(one, outcome)),
                voided=sum(1 for one in records if isinstance(one, VoidRecord) and _same(one, outcome)),
            )
        )
    return found


def _same(record: RowRecord | NodeRecord | AnswerRecord | VoidRecord, outcome: RowRecord | None) -> bool:
    return outcome is not None and record.key == outcome.key


def _of_row(store: Store, partition: str, row: str) -> Iterator[Record]:
    def wanted(chunk: pl.DataFrame) -> pl.Series:
        return chunk["id"] == row

    for chunk in compacted.everything(store, partition, _COLUMNS, Reading(), wanted):
        for body in chunk.filter(pl.col("id") == row)["body"].to_list():
            if (record := record_of(body)) is not None:
                yield record


def _outcome(
    stage: Stage, manifest: Manifest, values: Mapping[str, Any], records: Sequence[Record]
) -> RowRecord | None:
    """Return the record whose answer the generation has: of the stage's fingerprint where that can be told, else with
    the published values; of these the latest."""
    shape = manifest.stage_fingerprints.get(stage.name, "")
    candidates = [one for one in records if isinstance(one, RowRecord) and _may_be_of(one, stage)]
    exact = [one for one in candidates if shape_under(one.stage, stage, stage.output) == shape]
    before = [one for one in exact or candidates if one.at <= manifest.committed_at.timestamp()]
    ranked = sorted(before, key=lambda one: (_agrees(one, values), one.at))
    return ranked[-1] if ranked else None


def _may_be_of(record: RowRecord, stage: Stage) -> bool:
    names = _answer(record).keys()
    return bool(stage.model or ":" in stage.uses) and (not names or not stage.output or names <= stage.output.keys())


def _agrees(record: RowRecord, values: Mapping[str, Any]) -> bool:
    answer = _answer(record)
    return bool(answer) and all(str(values.get(name)) == str(value) for name, value in answer.items())


def _answer(record: RowRecord) -> dict[str, Any]:
    found = orjson.loads(record.answer) if record.answer else {}
    return found if isinstance(found, dict) else {}


def _calls(
    store: Store, partition: str, row: str, asked: set[tuple[str, int]], records: Sequence[Record]
) -> dict[tuple[str, int], CallRecord]:
    """Return these calls: of the row, or of an equal one whose answer it shares. An answered one comes before one whose
    outcome is unknown, the later before the earlier."""
    found: dict[tuple[str, int], CallRecord] = {}
    own = [one for one in records if isinstance(one, CallRecord) and one.key in asked]
    left = {request for request, ordinal in asked - {call.key for call in own}}
    others = _calls_of_requests(store, partition, left) if left else []
    for call in sorted([*own, *others], key=lambda one: (one.id == row, one.raw is not None, one.at)):
        if call.key in asked:
            found[call.key] = call
    return found


def _calls_of_requests(store: Store, partition: str, requests: set[str]) -> list[CallRecord]:
    wanted_keys = pl.Series(sorted(requests), dtype=pl.String).implode()

    def wanted(chunk: pl.DataFrame) -> pl.Series:
        return (chunk["kind"] == "call") & chunk["key"].is_in(wanted_keys)

    found = []
    for chunk in compacted.everything(store, partition, _COLUMNS, Reading(), wanted):
        mine = chunk.filter((pl.col("kind") == "call") & pl.col("key").is_in(wanted_keys))
        found += [record for record in map(record_of, mine["body"].to_list()) if isinstance(record, CallRecord)]
    return found
