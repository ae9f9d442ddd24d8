"""`sink.provenance: columns`: what made each published row, beside its values.

What is said of a row comes from the journal, so that the same answers make the same bytes, whoever publishes them and
however often. Of several stages the models and prompts are named one after the other, costs are added up, and the last
answer's time is taken.
"""

import datetime as dt
from dataclasses import dataclass

import orjson
import pyarrow as pa

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


def refuse_clash(columns: pa.Schema, barrier: bool) -> None:
    """Raises SpecError where the columns cannot be added."""
    taken = [name for name in COLUMNS.names if name in columns.names]
    if taken:
        raise SpecError(
            f"sink.provenance = 'columns' adds {taken[0]!r}, which is a column already.", hint="Rename or drop yours."
        )
    if barrier:
        raise SpecError(
            "sink.provenance = 'columns' goes with stages over batches only: behind scope: partition a row may be made "
            "of many.",
            hint="Use none; footers and manifests have it.",
        )


@dataclass(frozen=True)
class _Said:
    models: tuple[str, ...] = ()
    prompts: tuple[str, ...] = ()
    at: float = 0.0
    cost_usd: float | None = 0.0


def _answered_by(stage: GraphStage, record: RowRecord) -> list[str]:
    """The model whose answer it is, where models take turns; else all that had a part in it."""
    models = stage.provenance.models
    role = orjson.loads(record.answer).get(BY) if record.answer is not None and BY in record.answer else None
    return [models[role]] if role in models else list(models.values())


class RowProvenance:
    """What is known of each source row of a batch, by its position."""

    def __init__(self) -> None:
        self._rows: dict[int, _Said] = {}
        self._paid: set[RowKey] = set()

    def add(self, at: int, identity: str, stage: GraphStage, record: RowRecord) -> None:
        """One stage's answer. A row that took an equal row's answer cost nothing."""
        known = self._rows.get(at, _Said())
        asked = bool(record.calls)
        shared = record.shared or record.id != identity or record.key in self._paid
        self._paid.add(record.key)
        cost = 0.0 if shared or not asked else record.cost_usd
        models = [model for model in _answered_by(stage, record) if asked and model not in known.models]
        prompt = stage.provenance.prompt_digest
        self._rows[at] = _Said(
            models=(*known.models, *models),
            prompts=(*known.prompts, prompt) if asked and prompt and prompt not in known.prompts else known.prompts,
            at=max(known.at, record.at),
            cost_usd=None if cost is None or known.cost_usd is None else known.cost_usd + cost,
        )

    def appended(self, table: pa.Table, positions: list[int]) -> pa.Table:
        """The table with the columns, for the source row of each of its rows."""
        said = [self._rows.get(at, _Said()) for at in positions]
        times = [dt.datetime.fromtimestamp(one.at, dt.UTC) if one.at else None for one in said]
        values = (
            [", ".join(one.models) or None for one in said],
            [", ".join(one.prompts) or None for one in said],
            times,
            [one.cost_usd for one in said],
        )
        for field, column in zip(STAGED, values, strict=True):
            table = table.append_column(field, pa.array(column, field.type))
        return table


def generation(table: pa.Table, number: int) -> pa.Table:
    """A staged table with the generation that it is published as."""
    return table.append_column(COLUMNS.field(GENERATION), pa.repeat(pa.scalar(number, pa.int64()), table.num_rows))


def columns_of(columns: pa.Schema, wanted: str, *, barrier: bool) -> pa.Schema:
    """The published columns, with those of provenance where they are wanted. Raises SpecError."""
    if wanted != "columns":
        return columns
    refuse_clash(columns, barrier)
    return pa.schema([*columns, *COLUMNS])
