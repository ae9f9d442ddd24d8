"""Build the spec's stages in order, each over the columns that the stages before it leave."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from importlib import import_module
from pathlib import Path
from typing import Any

import pyarrow as pa

from schemas.errors import RowError, SpecError
from schemas.spec.sections import Spec, Stage
from stages.contract import Answered, AnyStage, GraphStage, StageSetup
from stages.models.settings.choice import ModelServices

# The module of each, whose `build` makes the stage: of most, the imports (LangGraph's engine, a parser of SQL, a
# stemmer) are a sixth of a second, which other specs do without.
BUILT_IN = {
    "extract": "stages.graphs.extract",
    "classify": "stages.graphs.classify",
    "summarize": "stages.graphs.summarize",
    "cascade": "stages.graphs.cascade",
    "agent": "stages.graphs.agent",
    "judge": "stages.graphs.judge",
    "translate": "stages.graphs.translate",
    "research": "stages.graphs.research",
    "embed": "stages.graphs.embed",
    "sql": "stages.tables.sql",
    "checks": "stages.tables.checks",
    "sample": "stages.tables.sample",
    "explode": "stages.tables.explode",
    "aggregate": "stages.tables.aggregate",
    "dedupe": "stages.tables.dedupe",
}
_OF_THE_USER = "stages.graphs.custom"


def import_stages(uses: Iterable[str]) -> None:
    """Import what builds stages of these kinds, before processes are forked that would each do it. Of the user's
    nothing is imported, and unknown names are left to `build_stages`."""
    for use in uses:
        if (module := BUILT_IN.get(use, _OF_THE_USER if ":" in use else None)) is not None:
            import_module(module)


def build_stages(spec: Spec, columns: pa.Schema, *, base: Path, services: ModelServices) -> list[AnyStage]:
    """Build every stage of a spec over a source with these columns. Raises SpecError."""
    stages: list[AnyStage] = []
    for stage in spec.stages:
        setup = StageSetup(spec=spec, stage=stage, columns=columns, base=base, services=services)
        module = BUILT_IN.get(stage.uses)
        if module is None:
            if ":" not in stage.uses:
                raise SpecError(
                    f"{setup.where}: there is no stage {stage.uses!r}.",
                    hint=f"Built in: {', '.join(BUILT_IN)}; or a graph of yours as module:attribute.",
                )
            module = _OF_THE_USER
        built: AnyStage = import_module(module).build(setup)
        _refuse_behind_barrier(setup, built, stages)
        if isinstance(built, GraphStage):
            built = replace(built, prepare=capped(stage, built.prepare))
        columns = built.columns_after(columns)
        stages.append(built)
    return stages


def _refuse_behind_barrier(setup: StageSetup, built: AnyStage, before: list[AnyStage]) -> None:
    """Refuse a graph stage after a barrier, which runs once all rows are answered."""
    barrier = next((stage.name for stage in before if stage.is_barrier), None)
    if barrier is None:
        return
    if isinstance(built, GraphStage):
        raise SpecError(
            f"{setup.where}: it comes after stage {barrier}, which waits for the whole partition.",
            hint="Such a stage runs once all rows are answered: put it after the stages that call a model.",
        )
    if built.reject_reason is not None:
        raise SpecError(
            f"{setup.where}: it comes after stage {barrier}, behind which no row can be rejected any more.",
            hint="Put it before, use filter or fail in all its rules, or the checks of the spec.",
        )


Prepare = Callable[[Mapping[str, Any]], dict[str, Any] | Answered]


def capped(stage: Stage, prepare: Prepare) -> Prepare:
    """Wrap a stage's `prepare` with its `max_cell`: a longer text is cut, or its row rejected."""

    def within(row: Mapping[str, Any]) -> dict[str, Any] | Answered:
        long = [name for name, value in row.items() if isinstance(value, str) and len(value) > stage.max_cell]
        if not long:
            return prepare(row)
        if stage.over_max_cell == "reject":
            raise RowError(
                f"{long[0]} has {len(row[long[0]]):,} characters, max_cell is {stage.max_cell:,}",
                kind="too_long",
                hint="Raise max_cell, or set over_max_cell: truncate.",
            )
        return prepare({**row, **{name: row[name][: stage.max_cell] for name in long}})

    return within
