"""embed: a vector from a text.

START → embed ─ of the declared length, finite ─→ END
          └─ anything else: the row is rejected
"""

import math
from collections.abc import Mapping
from typing import Any, TypedDict, cast

from langchain_core.messages import BaseMessage, HumanMessage
from pydantic import Field

from schemas.errors import RowError, SpecError
from schemas.spec.fields import OutputField
from stages.contract import AnyGraph, GraphStage, Options, StageSetup
from stages.graphs.toolkit.assemble import GraphParts, answer_format, assemble
from stages.graphs.toolkit.prompts import Prompts
from stages.graphs.toolkit.question import Answer
from stages.models.embeddings.vectors import unpacked
from stages.models.factory import build_embedder

VERSION = "embed-1"


class EmbedOptions(Options):
    length: int | None = Field(default=None, ge=1, description="how many numbers a vector has; another is refused")
    normalise: bool = Field(default=False, description="scale vectors to length 1")


class State(TypedDict, total=False):
    messages: list[BaseMessage]
    answer: Answer


def build(setup: StageSetup) -> GraphStage:
    """The stage of a spec that `uses: embed`. Raises SpecError."""
    options, stage = setup.options(EmbedOptions), setup.stage
    form = answer_format(setup)
    column = _column(setup, form.fields)
    prompts = Prompts(setup)
    model = build_embedder(stage.model["main"], stage, setup.spec, setup.services)

    async def embed(state: State) -> State:
        message = (await model._agenerate(state["messages"])).generations[0].message
        return {"answer": {column: _vector(str(message.content), options)}}

    def first_state(row: Mapping[str, Any]) -> dict[str, Any]:
        return {"messages": [HumanMessage(prompts.text(row))]}

    async def direct(state: dict[str, Any]) -> dict[str, Any]:
        return {**state, **await embed(cast(State, state))}

    def graph() -> AnyGraph:
        from langgraph.graph import END, START, StateGraph

        builder = StateGraph(State)
        builder.add_node("embed", embed)
        builder.add_edge(START, "embed")
        builder.add_edge("embed", END)
        return builder.compile()

    parts = GraphParts(VERSION, options, form, prompts, graph, first_state, structured=False, direct=direct)
    return assemble(setup, parts)


def _column(setup: StageSetup, fields: Mapping[str, OutputField]) -> str:
    kinds = [(declared.type, declared.items.type if declared.items else None) for declared in fields.values()]
    if kinds != [("list", "float")]:
        raise SpecError(
            f"{setup.where}: uses: embed needs one output, of type list[float].",
            hint='Write output: {vector: "list[float]"}.',
        )
    return next(iter(fields))


def _vector(text: str, options: EmbedOptions) -> list[float]:
    try:
        vector = unpacked(text)
    except ValueError as exc:
        raise RowError(f"the provider's answer is no vector: {exc}", kind="malformed_response") from None
    if not vector or not all(map(math.isfinite, vector)):
        raise RowError("the vector is empty or not finite", kind="invalid_answer")
    if options.length is not None and len(vector) != options.length:
        raise RowError(f"the vector has {len(vector)} numbers, not {options.length}", kind="invalid_answer")
    size = math.sqrt(sum(number * number for number in vector))
    return [number / size for number in vector] if options.normalise and size else vector
