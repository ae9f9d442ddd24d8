"""Tools that a model's provider runs, and the column for the sources that it names."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from langchain_core.messages import AIMessage

from schemas.errors import SpecError
from schemas.spec.fields import OutputField
from schemas.spec.tools import names_in
from stages.contract import StageSetup
from stages.models.wires.protocols.search import CITATIONS

_SOURCES = OutputField.model_validate(
    {"type": "list", "items": {"fields": {"url": "str", "title": "str?", "text": "str?"}}, "optional": True}
)


def provider_tools(setup: StageSetup) -> list[dict[str, Any]]:
    """Return the tools of a stage that a provider runs, in their canonical form."""
    return [{"type": name} for name in names_in(setup.stage.tools, "provider")]


@dataclass(frozen=True)
class Citations:
    """A column for the sources of an answer: a list of `{url, title, text}`, empty where it names none."""

    column: str

    def of(self, message: AIMessage) -> Mapping[str, Any]:
        return {self.column: message.response_metadata.get(CITATIONS) or []}


def citations_of(setup: StageSetup, fields: Mapping[str, OutputField]) -> Citations | None:
    """Return the column for sources, if the stage has one. Raises SpecError."""
    name = setup.stage.citations
    if name in fields:
        raise SpecError(
            f"{setup.where}: citations = {name!r} is declared under output, too.",
            hint="Tandem writes it: take it out of output.",
        )
    return None if name is None else Citations(name)


def column_of_citations(citations: Citations | None) -> dict[str, OutputField]:
    """Return the column that Tandem writes."""
    return {} if citations is None else {citations.column: _SOURCES}
