"""Build the spec's stages in order, each over the columns that the stages before it leave."""

from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow as pa

from schemas.errors import RowError, SpecError
from schemas.spec.sections import Spec, Stage
from stages.contract import Answered, AnyStage, GraphStage, StageSetup
from stages.graphs import agent, cascade, classify, custom, embed, extract, judge, summarize, translate
from stages.models.settings.choice import ModelServices
from stages.tables import dedupe, explode, sample

# Stages that parse SQL, or stem words: a fifth of a second of imports each, which most specs don't need.


def _research(setup: StageSetup) -> AnyStage:
    from stages.graphs import research  # snowballstemmer

    return research.build(setup)


def _sql(setup: StageSetup) -> AnyStage:
    from stages.tables import sql  # sqlglot

    return sql.build(setup)


def _checks(setup: StageSetup) -> AnyStage:
    from stages.tables import checks  # sqlglot

    return checks.build(setup)


def _aggregate(setup: StageSetup) -> AnyStage:
    from stages.tables import aggregate  # sqlglot

    return aggregate.build(setup)


BUILT_IN: dict[str, Callable[[StageSetup], AnyStage]] = {
    "extract": extract.build,
    "classify": classify.build,
    "summarize": summarize.build,
    "cascade": cascade.build,
    "agent": agent.build,
    "judge": judge.build,
    "translate": translate.build,
    "research": _research,
    "embed": embed.build,
    "sql": _sql,
    "checks": _checks,
    "sample": sample.build,
    "explode": explode.build,
    "aggregate": _aggregate,
    "dedupe": dedupe.build,
}


def build_stages(spec: Spec, columns: pa.Schema, *, base: Path, services: ModelServices) -> list[AnyStage]:
    """Build every stage of a spec over a source with these columns. Raises SpecError."""
    stages: list[AnyStage] = []
    for stage in spec.stages:
        setup = StageSetup(spec=spec, stage=stage, columns=columns, base=base, services=services)
        builder = BUILT_IN.get(stage.uses)
        if builder is None:
            if ":" not in stage.uses:
                raise SpecError(
                    f"{setup.where}: there is no stage {stage.uses!r}.",
                    hint=f"Built in: {', '.join(BUILT_IN)}; or a graph of yours as module:attribute.",
                )
            builder = custom.build
        built = builder(setup)
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
