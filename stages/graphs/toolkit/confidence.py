"""How sure a model is of an answer: what it says itself, in a column, or how probable the values were that it chose."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from langchain_core.messages import AIMessage
from pydantic import Field, SerializerFunctionWrapHandler, model_serializer, model_validator

from schemas.errors import SpecError
from schemas.spec.fields import OutputField
from schemas.spec.section import Section
from stages.contract import StageSetup
from stages.graphs.toolkit.question import Doubt
from stages.models.logprobs import least_probability
from stages.models.settings.parameters import GIVE_LOGPROBS


class Confidence(Section):
    """The column that says how sure the model is, and where that comes from. A name alone is `from: answer`."""

    column: str = Field(min_length=1, description="its name")
    source: Literal["answer", "logprobs"] = Field(
        default="answer",
        alias="from",
        description="a float output of the model, or the probability of the enum and bool outputs that it chose",
    )

    @model_validator(mode="before")
    @classmethod
    def _column_alone(cls, value: Any) -> Any:
        return {"column": value} if isinstance(value, str) else value

    @model_serializer(mode="wrap")
    def _short(self, dump: SerializerFunctionWrapHandler) -> Any:
        """Leave out the default: fingerprints of earlier versions stay as they were."""
        return self.column if self.source == "answer" else {"column": self.column, "from": self.source}


@dataclass(frozen=True)
class Sureness:
    """A column for the probability of the values of the outputs `chosen`, the least of them."""

    column: str
    chosen: tuple[str, ...]

    def of(self, message: AIMessage) -> dict[str, float | None]:
        return {self.column: least_probability(message, self.chosen)}


def sureness_of(
    setup: StageSetup,
    fields: Mapping[str, OutputField],
    confidence: Confidence | None,
    *,
    role: str = "main",
    label: str | None = None,
) -> Sureness | None:
    """Return the column that Tandem computes for `with.confidence`; None where the model writes it, or it is not asked
    for. `role`: whose models have to give log-probabilities; `label`: the only output that counts. Raises SpecError."""
    if confidence is None:
        return None
    name, where = confidence.column, f"{setup.where}: with.confidence"
    if confidence.source == "answer":
        if name not in fields or fields[name].type != "float":
            raise SpecError(
                f"{where} = {name!r} is no float output.",
                hint=f"Declare it: output: {{{name}: {{type: float, ge: 0, le: 1}}}}",
            )
        return None
    if name in fields:
        raise SpecError(
            f"{where}.column = {name!r} is declared under output, too.",
            hint="From log-probabilities Tandem writes it: take it out of output.",
        )
    chosen = tuple(one for one, declared in fields.items() if label in (None, one) and _is_closed(declared))
    if not chosen:
        raise SpecError(f"{where}: from: logprobs needs an output of type enum or bool, a list of such included.")
    asked = setup.stage.model[role]
    for model in (asked, *asked.others):
        if model.name.partition(":")[0] not in GIVE_LOGPROBS:
            raise SpecError(
                f"{where}: {model.name!r} gives no log-probabilities.",
                hint="Take from: answer with a float output, or a model of openai:, google_genai: or google_vertexai:.",
            )
    return Sureness(name, chosen)


def _is_closed(declared: OutputField) -> bool:
    """True for a value, or a list of values, out of a closed list."""
    inner = declared.items if declared.type == "list" and declared.items is not None else declared
    return inner.type in ("enum", "bool")


def column_of(sureness: Sureness | None) -> dict[str, OutputField]:
    """Return the column that Tandem writes."""
    return {sureness.column: OutputField(type="float", optional=True)} if sureness is not None else {}


def doubt_of(setup: StageSetup, confidence: Confidence | None, below: float | None, column: str | None) -> Doubt | None:
    """Return the condition under which a person is asked; None without `ask_below`. Raises SpecError."""
    if below is None:
        return None
    if confidence is None:
        raise SpecError(f"{setup.where}: with.ask_below needs with.confidence: the float output to compare.")
    return Doubt(confidence.column, below, column)
