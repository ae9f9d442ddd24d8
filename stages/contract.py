"""The contract of a stage. A graph stage enriches each row by a LangGraph graph; a table stage maps a batch to a batch.

A graph stage reads `reads`, writes `fields`, and never sees another row. Its fingerprint covers everything that could
change an answer; two stages of one fingerprint give the same answers to the same rows.
"""

import re
from collections.abc import Callable, Coroutine, Iterable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, TypeVar

import polars as pl
import pyarrow as pa
from pydantic import ValidationError

from schemas.errors import PartitionError, SpecError
from schemas.manifest import Provenance
from schemas.spec.fields import OutputField
from schemas.spec.loading import option_sentences
from schemas.spec.section import Section
from schemas.spec.sections import Spec
from schemas.spec.sections import Stage as StageSpec
from schemas.tables import arrow_fields
from stages.limits.limiter import Limiter
from stages.models.failures.refused_rows import RefusedRows
from stages.models.settings.choice import ModelServices

if TYPE_CHECKING:
    from langgraph.pregel import Pregel

    AnyGraph = Pregel[Any, Any, Any, Any]
else:
    AnyGraph = Any  # LangGraph's engine is imported by those who need it (`GraphStage`)

# Position of a row within its partition while a batch is enriched. Never published.
ROW = "__tandem_row"
# True for a rejected row that stays (`on_reject: null`); for barriers, which count it.
REJECTED = "__tandem_rejected"
# In an answer, beside its columns: the role of the model that answered, if a stage's models take turns.
BY = "__tandem_by"
RESERVED = "__tandem_"


class Options(Section):
    """Base of a stage's options (`with`); used as it is by stages without options. `pacing` names options that change
    the speed of answers, not their content."""

    pacing: ClassVar[frozenset[str]] = frozenset()


AnyOptions = TypeVar("AnyOptions", bound=Options)


@dataclass(frozen=True)
class StageSetup:
    """The arguments that build a stage: its part of the spec, the columns that reach it, the spec's folder."""

    spec: Spec
    stage: StageSpec
    columns: pa.Schema
    base: Path
    services: ModelServices

    def options(self, model: type[AnyOptions]) -> AnyOptions:
        """Return the stage's `with`, validated. Raises SpecError."""
        try:
            return model.model_validate(self.stage.options)
        except ValidationError as exc:
            places = option_sentences(exc, model, self.place("with"))
            raise SpecError("\n".join(sentence for _, sentence in places), places=places) from None

    def place(self, *inner: str | int) -> tuple[str | int, ...]:
        """Return the place of a part of the stage in the spec."""
        return ("stages", self.spec.stages.index(self.stage), *inner)

    @property
    def where(self) -> str:
        return f"stage {self.stage.name}"


Direct = Callable[[dict[str, Any]], Coroutine[Any, Any, dict[str, Any]]]


@dataclass(frozen=True)
class Answered:
    """A row that needs no run of the graph: its answer is known from its values alone."""

    answer: dict[str, Any]


@dataclass(frozen=True)
class GraphStage:
    """`prepare` makes the graph's first state from a row's `reads`, or answers at once, or raises RowError; `output_of`
    takes the JSON-like answer from the last state, or raises RowError. `direct` takes the first state to the last as
    `graph` does, for a graph of one node whose steps nobody watches: LangGraph's engine is half of the CPU of a row.
    Then nobody asks for `graph` either, whose import is a sixth of a second and 12 MB."""

    spec: StageSpec
    reads: tuple[str, ...]
    fields: Mapping[str, OutputField]
    fingerprint: str
    build_graph: Callable[[], AnyGraph]
    prepare: Callable[[Mapping[str, Any]], dict[str, Any] | Answered]
    output_of: Callable[[Mapping[str, Any]], dict[str, Any]]
    provenance: Provenance
    limiter: Limiter
    context: Any = None
    calls: tuple[int, int | None] = (0, None)  # of models, that a row takes at least and at most; None: unknown
    refused_rows: RefusedRows = field(default_factory=RefusedRows)
    direct: Direct | None = None
    is_barrier: ClassVar[bool] = False

    @cached_property
    def graph(self) -> AnyGraph:
        return self.build_graph()

    @property
    def name(self) -> str:
        return self.spec.name

    @property
    def may_drop_rows(self) -> bool:
        """True if a rejected row leaves the table."""
        return self.spec.on_reject == "drop"

    def columns_after(self, before: pa.Schema) -> pa.Schema:
        """Return the columns after this stage: inputs, then outputs; a replaced column keeps its place."""
        out = {f.name: f for f in before if f.name not in self.spec.drop}
        out.update({f.name: f for f in arrow_fields(self.fields)})
        return pa.schema(list(out.values()))

    def known_after(self, rows: pl.DataFrame) -> pl.DataFrame:
        """Return the known columns after this stage of rows that it, or an earlier stage, has not answered yet: all but
        its outputs."""
        return rows.drop(*self.fields, *self.spec.drop, strict=False)


@dataclass(frozen=True)
class TableStage:
    """`apply` maps the rows of a batch to rows and keeps the column ROW of those it keeps; one row may become several.
    `reject_reason` returns the reason of rejected rows, null for the others; `columns_checked` names the columns that
    each reason reads.

    With `run_on_partition` the stage is a barrier: it waits for the whole partition, which lies in a local Parquet
    file, and its result is written as a stream. If it keeps no ROW (`keeps_rows` false), every row that reached it
    counts as ok.

    `apply_reads` names the columns, beside ROW, that `apply` needs; None: all.

    `lazily` does what `apply` does, as a part of a lazy plan: of a stage that makes at most one row of each, from that
    row alone, and rejects none.
    """

    spec: StageSpec
    columns: pa.Schema
    fingerprint: str
    apply: Callable[[pl.DataFrame], pl.DataFrame] = lambda rows: rows
    provenance: Provenance = field(default_factory=lambda: Provenance(stage="", uses=""))
    reject_reason: Callable[[pl.DataFrame], pl.Series] | None = None
    columns_checked: Mapping[str, frozenset[str]] = field(default_factory=dict)
    run_on_partition: Callable[[Path], pl.LazyFrame] | None = None
    keeps_rows: bool = True
    apply_reads: frozenset[str] | None = None
    lazily: Callable[[pl.LazyFrame], pl.LazyFrame] | None = None
    reads: ClassVar[tuple[str, ...]] = ()  # for questions to a model: none
    fields: ClassVar[Mapping[str, OutputField]] = {}
    may_drop_rows: ClassVar[bool] = True

    @property
    def name(self) -> str:
        return self.spec.name

    @property
    def is_barrier(self) -> bool:
        """True if the stage waits for the whole partition."""
        return self.run_on_partition is not None

    def columns_after(self, before: pa.Schema) -> pa.Schema:
        return self.columns

    def known_after(self, rows: pl.DataFrame) -> pl.DataFrame:
        """Return the known columns after this stage of rows that an earlier stage has not answered yet. If `apply`
        needs other columns, only ROW is known."""
        if self.apply_reads is not None and self.apply_reads <= set(rows.columns):
            return self.apply(rows)
        return rows.select(ROW)


AnyStage = GraphStage | TableStage


def graph_stages(stages: Iterable[AnyStage]) -> list[GraphStage]:
    """Return the stages that enrich rows by a graph, in order."""
    return [stage for stage in stages if isinstance(stage, GraphStage)]


def query_failed(where: str, exc: Exception) -> PartitionError:
    """Return the error of a table stage whose query Polars refuses: its message without values of rows."""
    fact = re.split(r" for | in column|: \[", str(exc).splitlines()[0])[0]
    return PartitionError(
        f"{where}: the query failed on these rows: {fact}.", hint="Where a cast may fail, use TRY_CAST."
    )


def check_outputs(setup: StageSetup, fields: Mapping[str, OutputField]) -> None:
    """Refuse an output that would replace an input column without `replace: true`, or has a reserved name."""
    for name in fields:
        if name.startswith(RESERVED) or not name:
            raise SpecError(f"{setup.where}: the output name {name!r} is reserved.", hint="Choose another.")
        if name in setup.columns.names and not setup.stage.replace:
            raise SpecError(
                f"{setup.where}: the output {name!r} is already a column.",
                hint="Rename the output, or set replace: true in the stage.",
            )
    check_drop(setup)


def check_drop(setup: StageSetup) -> None:
    """Refuse to drop a column that does not exist."""
    for name in setup.stage.drop:
        if name not in setup.columns.names:
            raise SpecError(f"{setup.where}: drop names {name!r}, which is no column here.")
