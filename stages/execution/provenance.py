"""`sink.provenance: columns`: model, prompt, time and cost of each published row, beside its values.

The values come from the journal, so that the same answers make the same bytes, however often they are published. Of
several stages the models and prompts are named one after the other, costs are added up, and the last answer's time is
taken.
"""

import datetime as dt
from dataclasses import dataclass
from typing import Any

import orjson
import polars as pl
import pyarrow as pa

from schemas.arrow_tables import array_of
from schemas.errors import SpecError
from stages.contract import BY, GraphStage
from stages.journal.records import RowKey, RowRecord

GENERATION = "tandem_generation"
STAGED = pa.schema(
    [
        pa.field("tandem_model", pa.string()),
        pa.field("tandem_prompt_digest", pa.string()),
        pa.field("tandem_enriched_at", pa.timestamp("us", tz="UTC")),
        pa.field("tandem_cost_usd", pa.float64()),
    ]
)
COLUMNS = pa.schema([*STAGED, pa.field(GENERATION, pa.int64())])


def check_clash(columns: pa.Schema, barrier: bool) -> None:
    """Raises SpecError where the columns cannot be added."""
    clashes = [name for name in COLUMNS.names if name in columns.names]
    if clashes:
        raise SpecError(
            f"sink.provenance = 'columns' adds {clashes[0]!r}, which is a column already.", hint="Rename or drop yours."
        )
    if barrier:
        raise SpecError(
            "sink.provenance = 'columns' goes with stages over batches only: behind scope: partition a row may be made "
            "of many.",
            hint="Use none; footers and manifests have it.",
        )


@dataclass(frozen=True)
class _RowFacts:
    models: tuple[str, ...] = ()
    prompts: tuple[str, ...] = ()
    enriched_at: float = 0.0
    cost_usd: float | None = 0.0


def _answered_by(stage: GraphStage, record: RowRecord) -> list[str]:
    """Return the model that answered, if models take turns; else all that took part."""
    models = stage.provenance.models
    asked = list(record.by or ())
    role = orjson.loads(record.answer).get(BY) if record.answer is not None and BY in record.answer else None
    if role in models:
        return [models[role]]
    # Another model than the role's first has answered: the others are named only where nothing is known.
    return list(models.values()) if set(asked) <= set(models.values()) else asked


class RowProvenance:
    """The provenance of each source row of a batch, by its position."""

    def __init__(self) -> None:
        self._rows: dict[int, _RowFacts] = {}
        self._paid: set[RowKey] = set()

    def add(self, position: int, identity: str, stage: GraphStage, record: RowRecord) -> None:
        """Add one stage's answer. A row that shares an equal row's answer cost nothing."""
        known = self._rows.get(position, _RowFacts())
        has_calls = bool(record.calls)
        shared = record.shared or record.id != identity or record.key in self._paid
        self._paid.add(record.key)
        cost = 0.0 if shared or not has_calls else record.cost_usd
        models = [model for model in _answered_by(stage, record) if has_calls and model not in known.models]
        prompt = stage.provenance.prompt_digest
        self._rows[position] = _RowFacts(
            models=(*known.models, *models),
            prompts=(*known.prompts, prompt) if has_calls and prompt and prompt not in known.prompts else known.prompts,
            enriched_at=max(known.enriched_at, record.at),
            cost_usd=None if cost is None or known.cost_usd is None else known.cost_usd + cost,
        )

    def append_to(self, table: pa.Table, positions: list[int]) -> pa.Table:
        """Return the table with the columns; `positions` are the source rows of its rows."""
        facts = [self._rows.get(position, _RowFacts()) for position in positions]
        times = [dt.datetime.fromtimestamp(row.enriched_at, dt.UTC) if row.enriched_at else None for row in facts]
        values: tuple[list[Any], ...] = (
            [", ".join(row.models) or None for row in facts],
            [", ".join(row.prompts) or None for row in facts],
            times,
            [row.cost_usd for row in facts],
        )
        for field, column in zip(STAGED, values, strict=True):
            table = table.append_column(field, array_of(column, field.type))
        return table


def generation(table: pa.Table, number: int) -> pa.Table:
    """Return a staged table with the generation that it is published as."""
    numbers = pl.repeat(number, table.num_rows, dtype=pl.Int64, eager=True)
    return table.append_column(COLUMNS.field(GENERATION), numbers.to_arrow())


def columns_of(columns: pa.Schema, option: str, *, barrier: bool) -> pa.Schema:
    """Return the published columns, with those of provenance if `option` is "columns". Raises SpecError."""
    if option != "columns":
        return columns
    check_clash(columns, barrier)
    return pa.schema([*columns, *COLUMNS])
