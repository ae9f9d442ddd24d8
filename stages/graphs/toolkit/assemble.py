"""From a graph's own parts to a finished stage: declared output, limiter, columns that options name."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from langgraph.pregel import Pregel
from pydantic import BaseModel

from schemas.digests import digest
from schemas.errors import SpecError
from schemas.manifest import Provenance
from schemas.spec.fields import OutputField
from schemas.tables import fields_of_class
from stages.contract import Answered, Build, GraphStage, Options, check_outputs
from stages.graphs.toolkit.prompts import Prompts
from stages.graphs.toolkit.question import Answer, Doubt
from stages.limits.limiter import Limiter
from stages.models import factory
from stages.models.answers.answer_format import AnswerFormat
from stages.models.answers.method import structured_method
from stages.models.factory import model_identity
from stages.stage_digests import stage_fingerprint
from stages.user_code import load_attribute


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
    return AnswerFormat(fields, cls, f"{wanted.spec.name}_{stage.name}", exact=stage.coerce == "strict")


def limiter_of(wanted: Build) -> Limiter:
    """Bounds the rows whose graphs run: the limiter of the first model, or of the process where a stage names none."""
    for choice in wanted.stage.model.values():
        return factory.limiter_of(choice, wanted.stage, wanted.spec, wanted.services)
    return wanted.services.limiters.of("no model", wanted.spec.limits.rows_in_flight)


def own_column(
    wanted: Build,
    fields: Mapping[str, OutputField],
    option: str,
    name: str | None,
    kind: Literal["str", "int", "float"],
) -> dict[str, OutputField]:
    """A column that Tandem writes and no model is asked for; none where the option is not given. Raises SpecError."""
    if name is None:
        return {}
    if name in fields:
        raise SpecError(
            f"{wanted.where}: with.{option} = {name!r} is declared under output, too.",
            hint="Tandem writes it: take it out of output.",
        )
    return {name: OutputField(type=kind, optional=True)}


def doubt_of(
    wanted: Build, fields: Mapping[str, OutputField], confidence: str | None, below: float | None, column: str | None
) -> Doubt | None:
    """What `confidence` and `ask_below` of a stage's options say. Raises SpecError."""
    check_confidence(wanted, fields, confidence)
    if below is None:
        return None
    if confidence is None:
        raise SpecError(f"{wanted.where}: with.ask_below needs with.confidence: the float output to compare.")
    return Doubt(confidence, below, column)


def check_confidence(wanted: Build, fields: Mapping[str, OutputField], name: str | None) -> None:
    """Raises SpecError where the output that shall say how sure the model is says something else."""
    declared = fields.get(name or "")
    if name is not None and (declared is None or declared.type != "float"):
        raise SpecError(
            f"{wanted.where}: with.confidence = {name!r} is no float output.",
            hint=f"Declare it: output: {{{name}: {{type: float, ge: 0, le: 1}}}}",
        )


@dataclass(frozen=True)
class Made:
    """What a graph's file gives to `finished`. `added` are columns that Tandem writes, beside those of the model;
    `first` makes the graph's first state from a row that is not empty; `structured`: a model is asked for a schema;
    `code` is what else answers depend on."""

    version: str
    options: Options
    form: AnswerFormat
    prompts: Prompts
    graph: Pregel[Any, Any, Any, Any]
    first: Callable[[Mapping[str, Any]], dict[str, Any]]
    harvest: Callable[[Mapping[str, Any]], Answer] = lambda state: dict(state["answer"])
    added: Mapping[str, OutputField] = field(default_factory=dict)
    calls: tuple[int, int | None] = (1, 1)
    structured: bool = True
    code: str = ""


def finished(wanted: Build, made: Made) -> GraphStage:
    """The stage of a built-in graph. Raises SpecError for outputs that cannot be."""
    stage = wanted.stage
    fields = {**made.form.fields, **made.added}
    check_outputs(wanted, fields)
    prompts, nothing = made.prompts, Answered(dict.fromkeys(fields))

    def prepare(row: Mapping[str, Any]) -> dict[str, Any] | Answered:
        return nothing if prompts.is_empty(row) else made.first(row)

    said = [model_identity(choice, stage.params) for _, choice in sorted(stage.model.items())]
    return GraphStage(
        spec=stage,
        reads=prompts.reads,
        fields=fields,
        fingerprint=stage_fingerprint(wanted, made.version + made.code, made.form, made.options),
        graph=made.graph,
        prepare=prepare,
        output_of=made.harvest,
        provenance=Provenance(
            stage=stage.name,
            uses=stage.uses,
            models={role: choice.name for role, choice in stage.model.items()},
            prompt_digest=digest(stage.system or "", stage.prompt or "", *said),
            structured_output=structured_method(stage.model["main"].name) if made.structured else None,
        ),
        limiter=limiter_of(wanted),
        calls=made.calls,
    )
