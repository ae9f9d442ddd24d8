"""From the spec's stages to runnable ones, in order, each seeing the columns that the ones before leave."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import orjson
import pyarrow as pa
from pydantic import BaseModel

from schemas.digests import digest
from schemas.errors import SpecError
from schemas.spec.fields import OutputField
from schemas.spec.sections import Spec
from schemas.tables import fields_of_class
from stages import custom, models
from stages.code import code_digest, load_attribute
from stages.contract import AnyStage, Build, GraphStage, Options, TableStage
from stages.graphs import agent, cascade, classify, embed, extract, judge, research, summarize, translate
from stages.limiter import Limiter
from stages.models import ModelServices, model_identity
from stages.quoting import capped
from stages.structured import AnswerFormat
from stages.tables import aggregate, checks, dedupe, explode, sample, sql

BUILT_IN: dict[str, Callable[[Build], AnyStage]] = {
    "extract": extract.build,
    "classify": classify.build,
    "summarize": summarize.build,
    "cascade": cascade.build,
    "agent": agent.build,
    "judge": judge.build,
    "translate": translate.build,
    "research": research.build,
    "embed": embed.build,
    "sql": sql.build,
    "checks": checks.build,
    "sample": sample.build,
    "explode": explode.build,
    "aggregate": aggregate.build,
    "dedupe": dedupe.build,
}


def build_stages(spec: Spec, columns: pa.Schema, *, base: Path, services: ModelServices) -> list[AnyStage]:
    """Every stage of a spec over a source with these columns. Raises SpecError."""
    stages: list[AnyStage] = []
    for stage in spec.stages:
        wanted = Build(spec=spec, stage=stage, columns=columns, base=base, services=services)
        builder = BUILT_IN.get(stage.uses)
        if builder is None:
            if ":" not in stage.uses:
                raise SpecError(
                    f"{wanted.where}: there is no stage {stage.uses!r}.",
                    hint=f"Built in: {', '.join(BUILT_IN)}; or a graph of yours as module:attribute.",
                )
            builder = custom.build
        built = builder(wanted)
        _refuse_behind_barrier(wanted, built, stages)
        if isinstance(built, GraphStage):
            built = replace(built, prepare=capped(stage, built.prepare))
        columns = built.columns_after(columns)
        stages.append(built)
    return stages


def _refuse_behind_barrier(wanted: Build, built: AnyStage, before: list[AnyStage]) -> None:
    """Only tables may follow what waits for the whole partition, as that runs once all rows are answered."""
    waiting = [stage.name for stage in before if isinstance(stage, TableStage) and stage.over is not None]
    barrier = waiting[0] if waiting else None
    if barrier is None:
        return
    if isinstance(built, GraphStage):
        raise SpecError(
            f"{wanted.where}: it comes after stage {barrier}, which waits for the whole partition.",
            hint="Such a stage runs once all rows are answered: put it behind those that ask a model.",
        )
    if built.refuse is not None:
        raise SpecError(
            f"{wanted.where}: it comes after stage {barrier}, behind which no row can be rejected any more.",
            hint="Put it before, use filter or fail in all its rules, or the checks of the spec.",
        )


def answer_format(wanted: Build) -> AnswerFormat:
    """The declared output of a stage, inline or as a pydantic class."""
    stage = wanted.stage
    cls: type[BaseModel] | None = None
    fields: dict[str, OutputField] = dict(stage.output)
    if stage.output_class:
        found = load_attribute(stage.output_class, where=f"{wanted.where}: output")
        if not (isinstance(found, type) and issubclass(found, BaseModel)):
            raise SpecError(f"{wanted.where}: output: {stage.output_class} is not a pydantic class.")
        cls, fields = found, fields_of_class(found)
    return AnswerFormat(fields, cls, f"{wanted.spec.name}_{stage.name}")


def stage_fingerprint(wanted: Build, version: str, form: AnswerFormat, options: Options | None = None) -> str:
    """Digest of everything that could change the stage's answers; not of what happens to them afterwards."""
    stage = wanted.stage
    code = [code_digest(ref) for ref in (*([stage.uses] if ":" in stage.uses else []), *stage.tools)]
    if stage.output_class:
        code.append(code_digest(stage.output_class))
    said = {
        "kind": version,
        "version": stage.version,
        "models": {role: model_identity(choice, stage.params).decode() for role, choice in stage.model.items()},
        "prompt": stage.prompt,
        "system": stage.system,
        "when_empty": stage.when_empty,
        "schema": form.schema,
        "inputs": stage.inputs,
        "outputs": stage.outputs,
        "context": stage.context,
        # Without nulls: an option that is added, null by default, changes no fingerprint.
        "with": options.model_dump(mode="json", exclude=set(options.pacing), exclude_none=True) if options else {},
        "max_cell": [stage.max_cell, stage.over_max_cell],
        "code": code,
    }
    return digest(orjson.dumps(said, option=orjson.OPT_SORT_KEYS, default=str))


def limiter_of(wanted: Build) -> Limiter:
    """Bounds the rows whose graphs run: the limiter of the first model, or of the process where a stage names none."""
    for choice in wanted.stage.model.values():
        return models.limiter_of(choice, wanted.stage, wanted.spec, wanted.services)
    return wanted.services.limiters.of("no model", wanted.spec.limits.rows_in_flight)


def code_digests(spec: Spec) -> dict[str, str]:
    """Digest of each stage's user code, frozen into a plan, so that no worker runs a batch with other code."""
    out = {}
    for stage in spec.stages:
        references = [ref for ref in (stage.uses, stage.output_class or "", *stage.tools) if ":" in ref]
        if references:
            out[stage.name] = digest(*(code_digest(ref) for ref in references))
    return out
