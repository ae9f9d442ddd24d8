"""Assemble a stage from the parts of a graph: declared output, limiter, columns that options name."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from pydantic import BaseModel

from schemas.digests import digest
from schemas.errors import SpecError
from schemas.manifest import Provenance
from schemas.spec.fields import OutputField
from schemas.tables import fields_of_class
from stages.contract import Answered, AnyGraph, Direct, GraphStage, Options, StageSetup, check_outputs
from stages.graphs.toolkit.prompts import Prompts
from stages.graphs.toolkit.question import Answer
from stages.limits.limiter import Limiter
from stages.models.answers.answer_format import AnswerFormat
from stages.models.answers.method import structured_method
from stages.models.settings import choice
from stages.models.settings.choice import model_identity
from stages.stage_digests import stage_fingerprint
from stages.user_code import load_attribute


def answer_format(setup: StageSetup) -> AnswerFormat:
    """Return the declared output of a stage, inline or as a pydantic class."""
    stage = setup.stage
    cls: type[BaseModel] | None = None
    fields: dict[str, OutputField] = dict(stage.output)
    if stage.output_class:
        loaded = load_attribute(stage.output_class, where=f"{setup.where}: output")
        if not (isinstance(loaded, type) and issubclass(loaded, BaseModel)):
            raise SpecError(f"{setup.where}: output: {stage.output_class} is not a pydantic class.")
        cls, fields = loaded, fields_of_class(loaded)
    return AnswerFormat(fields, cls, f"{setup.spec.name}_{stage.name}", exact=stage.coerce == "strict")


def limiter_of(setup: StageSetup) -> Limiter:
    """Return the limiter of running rows: that of the first model, or of the process if the stage has no model."""
    for chosen in setup.stage.model.values():
        return choice.limiter_of(chosen, setup.stage, setup.spec, setup.services)
    return setup.services.limiters.of("no model", setup.spec.limits.rows_in_flight)


def own_column(
    setup: StageSetup,
    fields: Mapping[str, OutputField],
    option: str,
    name: str | None,
    kind: Literal["str", "int", "float"],
) -> dict[str, OutputField]:
    """Return a column that Tandem writes, not a model; none if the option is not set. Raises SpecError."""
    if name is None:
        return {}
    if name in fields:
        raise SpecError(
            f"{setup.where}: with.{option} = {name!r} is declared under output, too.",
            hint="Tandem writes it: take it out of output.",
        )
    return {name: OutputField(type=kind, optional=True)}


@dataclass(frozen=True)
class GraphParts:
    """Arguments of `assemble`. `graph` returns it; `added_columns` are written by Tandem, beside those of the model;
    `first_state` makes the graph's first state from a row that is not empty; `structured`: the model is called with a
    schema; `code` is a digest of anything else that answers depend on; `direct` does what the graph does
    (`stages.contract`)."""

    version: str
    options: Options
    form: AnswerFormat
    prompts: Prompts
    graph: Callable[[], AnyGraph]
    first_state: Callable[[Mapping[str, Any]], dict[str, Any]]
    output_of: Callable[[Mapping[str, Any]], Answer] = lambda state: dict(state["answer"])
    added_columns: Mapping[str, OutputField] = field(default_factory=dict)
    calls: tuple[int, int | None] = (1, 1)
    structured: bool = True
    code: str = ""
    direct: Direct | None = None


def assemble(setup: StageSetup, parts: GraphParts) -> GraphStage:
    """Return the stage of a built-in graph. Raises SpecError for invalid outputs."""
    stage = setup.stage
    fields = {**parts.form.fields, **parts.added_columns}
    check_outputs(setup, fields)
    prompts, empty_answer = parts.prompts, Answered(dict.fromkeys(fields))

    def prepare(row: Mapping[str, Any]) -> dict[str, Any] | Answered:
        return empty_answer if prompts.is_empty(row) else parts.first_state(row)

    identities = [model_identity(choice, stage.params) for _, choice in sorted(stage.model.items())]
    return GraphStage(
        spec=stage,
        reads=prompts.reads,
        fields=fields,
        fingerprint=stage_fingerprint(setup, parts.version + parts.code, parts.form, parts.options),
        build_graph=parts.graph,
        prepare=prepare,
        output_of=parts.output_of,
        provenance=Provenance(
            stage=stage.name,
            uses=stage.uses,
            models={role: choice.name for role, choice in stage.model.items()},
            prompt_digest=digest(stage.system or "", stage.prompt or "", *identities),
            structured_output=structured_method(stage.model["main"].name) if parts.structured else None,
        ),
        limiter=limiter_of(setup),
        calls=parts.calls,
        direct=parts.direct,
    )
