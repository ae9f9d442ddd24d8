"""What built-in graphs are made of: a stage's prompts, a model that is asked until its answer fits, the finished stage.

A graph of its own file says only what is its own: which questions, in which order, and what becomes of the answers.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypedDict

from langchain_core.messages import AIMessage, BaseMessage, HumanMessage, ToolMessage
from langchain_core.tools import BaseTool
from langgraph.graph import END, START, StateGraph
from langgraph.pregel import Pregel
from langgraph.types import Command, interrupt

from schemas.errors import RowError
from stages.contract import Build
from stages.models.answers.answer_format import AnswerFormat, correction, said_text
from stages.models.factory import build_model

MAX_REPAIRS = 2
_COMPLAINT = 1000  # characters of what is wrong with an answer: it may hold what the answer said
Answer = dict[str, Any]


class ModelQuestion:
    """A model of the stage, asked for one format."""

    def __init__(
        self, wanted: Build, form: AnswerFormat, role: str = "main", *, tools: Sequence[BaseTool] = ()
    ) -> None:
        choice = wanted.stage.model[role]
        self.form = form
        self.name = choice.name
        self.ask = form.asker(build_model(choice, wanted.stage, wanted.spec, wanted.services), choice.name, tools)

    async def answer(
        self,
        messages: list[BaseMessage],
        check: Callable[[Answer], Answer] = lambda answer: answer,
        *,
        repairs: int = MAX_REPAIRS,
    ) -> Answer:
        """The answer, repaired where it does not fit. `check` may change it, or raise ValueError in words that a model
        can act on. Raises RowError."""
        for repair in range(repairs + 1):
            message = await self.ask(messages)
            try:
                return check(self.form.read(message))
            except ValueError as exc:
                if repair == repairs:
                    raise invalid(message, exc, repairs) from None
                messages = [*messages, message, *complaints(message, str(exc))]
        raise AssertionError("unreachable")


def invalid(message: AIMessage, exc: ValueError, repairs: int) -> RowError:
    """The reject of a row whose answers never fitted."""
    return RowError(f"still invalid after {repairs} repairs: {exc}", kind="invalid_answer", raw=said_text(message))


def complaints(message: AIMessage, problem: str) -> list[BaseMessage]:
    """What is wrong, said to the model: as the reply to its tool calls, which providers insist on, or as a message."""
    complaint = f"That answer is not valid: {problem[:_COMPLAINT]}. Answer again with the corrected JSON only."
    calls = [*message.tool_calls, *message.invalid_tool_calls]
    return [ToolMessage(complaint, tool_call_id=call["id"] or "") for call in calls] or [HumanMessage(complaint)]


# One question as a graph, each repair a step that `tandem try` shows -------------------------------------------------


class AskState(TypedDict, total=False):
    """The conversation so far, how often it was repaired, the answer once one fits, and why a person is asked."""

    messages: list[BaseMessage]
    repairs: int
    answer: Answer
    why: str


@dataclass(frozen=True)
class Doubt:
    """When a person is asked: where `confidence`, a float output, is less than `below`, or null. Of several outputs the
    person may say `column` alone."""

    confidence: str
    below: float
    column: str | None = None

    def of(self, answer: Answer) -> str | None:
        sure = answer[self.confidence]
        return None if sure is not None and sure >= self.below else f"{self.confidence} {sure} is below {self.below}"


def asking_graph(
    question: ModelQuestion, mend: Callable[[Any], Any] = lambda data: data, doubt: Doubt | None = None
) -> Pregel[Any, Any, Any, Any]:
    """START → ask, again with what is wrong while it does not fit, → person, where there is doubt. `mend` sees an
    answer before it is validated."""

    async def ask(state: AskState) -> AskState | Command[Literal["ask", "person"]]:
        message = await question.ask(state["messages"])
        try:
            answer = question.form.read(message, mend)
        except ValueError as exc:
            repairs = state.get("repairs", 0)
            if repairs == MAX_REPAIRS:
                raise invalid(message, exc, MAX_REPAIRS) from None
            messages = [*state["messages"], message, *complaints(message, str(exc))]
            return Command(goto="ask", update={"messages": messages, "repairs": repairs + 1})
        why = doubt.of(answer) if doubt is not None else None
        return {"answer": answer} if why is None else Command(goto="person", update={"answer": answer, "why": why})

    async def person(state: AskState) -> AskState:
        assert doubt is not None
        answer = state["answer"]
        wanted = correction(question.form, answer, doubt.column, mend)
        return {"answer": interrupt({"why": state["why"], "answer": answer}, response_schema=wanted)}

    builder = StateGraph(AskState)
    builder.add_node("ask", ask, destinations=("ask", END, *(["person"] if doubt is not None else [])))
    builder.add_edge(START, "ask")
    if doubt is not None:
        builder.add_node("person", person)
    return builder.compile()


# Columns that options name -------------------------------------------------------------------------------------------


# The stage ---------------------------------------------------------------------------------------------------------
