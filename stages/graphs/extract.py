"""extract: columns from text.

START → ask → check ─ fits ────────────→ END
          ↑      └─ does not: repair ─┐
          └───────────────────────────┘   at most twice, with the validation error; then the row is rejected
"""

from collections.abc import Mapping
from typing import Any, Literal, TypedDict

from langchain_core.messages import AIMessage, BaseMessage, HumanMessage, SystemMessage, ToolMessage
from langgraph.graph import START, StateGraph
from langgraph.types import Command

from schemas.errors import RowError
from schemas.ids import digest
from schemas.manifest import Provenance
from stages.contract import Answered, Build, GraphStage, check_outputs
from stages.models import build_model, model_identity, structured_method
from stages.prompts import Template, is_blank
from stages.structured import said_text

VERSION = "extract-1"
MAX_REPAIRS = 2


class State(TypedDict, total=False):
    """The conversation so far, how often it was repaired, and the answer once one fits."""

    messages: list[BaseMessage]
    repairs: int
    answer: dict[str, Any]


def build(wanted: Build) -> GraphStage:
    """The stage of a spec that `uses: extract`. Raises SpecError."""
    from stages.registry import answer_format, limiter_of, stage_fingerprint

    stage = wanted.stage
    choice = stage.model["main"]
    form = answer_format(wanted)
    check_outputs(wanted, form.fields)
    prompt = Template(stage.prompt or "", where=f"{wanted.where}: prompt")
    system = Template(stage.system, where=f"{wanted.where}: system") if stage.system else None
    available = frozenset(wanted.columns.names)
    prompt_columns = prompt.reads(available)
    reads = prompt_columns | (system.reads(available) if system else frozenset())
    ask_model = form.asker(build_model(choice, stage, wanted.spec, wanted.services), choice.name)

    async def ask(state: State) -> State | Command[Literal["ask"]]:
        message = await ask_model(state["messages"])
        try:
            return {"answer": form.read(message)}
        except ValueError as exc:
            repairs = state.get("repairs", 0)
            if repairs == MAX_REPAIRS:
                raise RowError(
                    f"still invalid after {MAX_REPAIRS} repairs: {exc}", kind="invalid_answer", raw=said_text(message)
                ) from None
            messages = [*state["messages"], message, *_complaints(message, str(exc))]
            return Command(goto="ask", update={"messages": messages, "repairs": repairs + 1})

    builder = StateGraph(State)
    builder.add_node("ask", ask)
    builder.add_edge(START, "ask")

    nothing = Answered(dict.fromkeys(form.fields))

    def prepare(row: Mapping[str, Any]) -> dict[str, Any] | Answered:
        if prompt_columns and stage.when_empty != "call" and all(is_blank(row[name]) for name in prompt_columns):
            if stage.when_empty == "reject":
                raise RowError("every column of the prompt is blank", kind="empty")
            return nothing
        messages: list[BaseMessage] = [SystemMessage(system.render(row))] if system else []
        return {"messages": [*messages, HumanMessage(prompt.render(row))]}

    return GraphStage(
        spec=stage,
        reads=tuple(sorted(reads)),
        fields=form.fields,
        fingerprint=stage_fingerprint(wanted, VERSION, form),
        graph=builder.compile(),
        prepare=prepare,
        harvest=lambda state: dict(state["answer"]),
        provenance=Provenance(
            stage=stage.name,
            uses="extract",
            models={"main": choice.name},
            prompt_digest=digest(stage.system or "", stage.prompt or "", model_identity(choice, stage.params)),
            structured_output=structured_method(choice.name),
        ),
        limiter=limiter_of(wanted),
        calls=(1, 1),  # repairs are not foreseen
    )


def _complaints(message: AIMessage, problem: str) -> list[BaseMessage]:
    """What is wrong, said to the model: as the reply to its tool calls, which providers insist on, or as a message."""
    complaint = f"That answer is not valid: {problem}. Answer again with the corrected JSON only."
    calls = [*message.tool_calls, *message.invalid_tool_calls]
    return [ToolMessage(complaint, tool_call_id=call["id"] or "") for call in calls] or [HumanMessage(complaint)]
