"""Questions to a model, repeated until the answer fits: the part that built-in graphs share."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol, TypedDict, cast

from langchain_core.messages import AIMessage, BaseMessage, HumanMessage, ToolMessage

from schemas.errors import RowError
from stages.contract import AnyGraph, Direct, StageSetup
from stages.models import heard
from stages.models.answers.answer_format import AnswerFormat, AnyTool, Mend, correction, raw_answer
from stages.models.factory import build_model
from stages.models.row.scope import current
from stages.models.settings.parameters import gives_logprobs, refuse_schema
from stages.models.settings.provider_tools import refuse_absent_tools

MAX_REPAIRS = 2
_COMPLAINT = 1000  # characters of the problem of an answer, which may quote the answer
Answer = dict[str, Any]


class Addition(Protocol):
    """A column of an answer that is read from the message around it."""

    def of(self, message: AIMessage) -> Mapping[str, Any]: ...


class ModelQuestion:
    """A model of the stage, called for answers of one format. `tools`: those that it may call, and those that its
    provider runs; `sureness`: how probable an answer was, by its log-probabilities; `citations`: the sources that it
    names."""

    def __init__(
        self,
        setup: StageSetup,
        form: AnswerFormat,
        role: str = "main",
        *,
        tools: Sequence[AnyTool] = (),
        sureness: Addition | None = None,
        citations: Addition | None = None,
    ) -> None:
        choice = setup.stage.model[role]
        self.form = form
        self.name = choice.name
        self._added = [added for added in (sureness, citations) if added is not None]
        asked = (choice, *choice.others) if sureness is not None else ()
        logprobs = bool(asked) and all(gives_logprobs(one, setup.stage) for one in asked)
        refuse_schema(choice, setup.stage, form.schema)
        refuse_absent_tools(choice, setup.stage)
        model = build_model(choice, setup.stage, setup.spec, setup.services)
        self.ask = form.asker(model, choice.name, tools, logprobs=logprobs, citations=citations is not None)

    def read(self, message: AIMessage, mend: Mend = lambda data: data) -> Answer:
        """Return the validated answer, and what is added to it. Raises as `AnswerFormat.read` does."""
        return with_additions(self.form.read(message, mend), message, self._added)

    async def answer(
        self,
        messages: list[BaseMessage],
        check: Callable[[Answer], Answer] = lambda answer: answer,
        *,
        repairs: int = MAX_REPAIRS,
    ) -> Answer:
        """Return the answer, repaired if it does not fit. `check` may change it, or raise ValueError with a message for
        the model. Raises RowError."""
        for repair in range(repairs + 1):
            message = await self.ask(messages)
            try:
                return check(self.read(message))
            except ValueError as exc:
                if repair == repairs:
                    raise invalid(message, exc, repairs) from None
                messages = [*messages, message, *complaints(message, str(exc))]
        raise AssertionError("unreachable")


def with_additions(answer: Answer, message: AIMessage, added: Iterable[Addition]) -> Answer:
    """Return an answer with the columns that are read from the message around it."""
    for addition in added:
        answer = {**answer, **addition.of(message)}
    return answer


def invalid(message: AIMessage, exc: ValueError, repairs: int) -> RowError:
    """Return the error of a row whose answers never fitted."""
    return RowError(f"still invalid after {repairs} repairs: {exc}", kind="invalid_answer", raw=raw_answer(message))


def complaints(message: AIMessage, problem: str) -> list[BaseMessage]:
    """Return messages that state the problem: replies to the tool calls, which providers require, or text."""
    heard.repair_began(current.get(), problem)
    complaint = f"That answer is not valid: {problem[:_COMPLAINT]}. Answer again with the corrected JSON only."
    calls = [*message.tool_calls, *message.invalid_tool_calls]
    return [ToolMessage(complaint, tool_call_id=call["id"] or "") for call in calls] or [HumanMessage(complaint)]


# One question as a graph, each repair a step that `tandem try` shows -------------------------------------------------


class AskState(TypedDict, total=False):
    """The conversation so far, the number of repairs, the answer once one fits, and the reason to ask a person."""

    messages: list[BaseMessage]
    repairs: int
    answer: Answer
    why: str


@dataclass(frozen=True)
class Doubt:
    """The condition under which a person is asked: `confidence`, a float column, is less than `below`, or null. If
    `column` is set, the person may answer with its value alone."""

    confidence: str
    below: float
    column: str | None = None

    def of(self, answer: Answer) -> str | None:
        sure = answer[self.confidence]
        return None if sure is not None and sure >= self.below else f"{self.confidence} {sure} is below {self.below}"


@dataclass(frozen=True)
class QuestionGraph:
    """The graph START → ask (again, with the problem, until the answer fits) → person (if in doubt), as `build` makes
    it. `direct` runs its only node; None where there are two."""

    build: Callable[[], AnyGraph]
    direct: Direct | None


def question_graph(
    question: ModelQuestion, mend: Callable[[Any], Any] = lambda data: data, doubt: Doubt | None = None
) -> QuestionGraph:
    """Return the graph of a question. `mend` changes an answer before it is validated."""

    async def once(state: AskState) -> AskState:
        """Ask once. Return an answer, with the reason to ask a person, or else the longer conversation."""
        message = await question.ask(state["messages"])
        try:
            answer = question.read(message, mend)
        except ValueError as exc:
            repairs = state.get("repairs", 0)
            if repairs == MAX_REPAIRS:
                raise invalid(message, exc, MAX_REPAIRS) from None
            messages = [*state["messages"], message, *complaints(message, str(exc))]
            return {"messages": messages, "repairs": repairs + 1}
        why = doubt.of(answer) if doubt is not None else None
        return {"answer": answer} if why is None else {"answer": answer, "why": why}

    async def direct(state: dict[str, Any]) -> dict[str, Any]:
        while "answer" not in state:
            state = {**state, **await once(cast(AskState, state))}
        return state

    def build() -> AnyGraph:
        from langgraph.graph import END, START, StateGraph
        from langgraph.types import Command, interrupt

        async def ask(state: AskState) -> AskState | Command[Literal["ask", "person"]]:
            update = await once(state)
            if "answer" not in update:
                return Command(goto="ask", update=update)
            return Command(goto="person", update=update) if "why" in update else update

        async def person(state: AskState) -> AskState:
            assert doubt is not None
            answer = state["answer"]
            schema = correction(question.form, answer, doubt.column, mend)
            corrected = interrupt({"why": state["why"], "answer": answer}, response_schema=schema)
            added = {name: answer[name] for name in answer if name not in question.form.fields}
            return {"answer": {**added, **corrected}}

        builder = StateGraph(AskState)
        builder.add_node("ask", ask, destinations=("ask", END, *(["person"] if doubt is not None else [])))
        builder.add_edge(START, "ask")
        if doubt is not None:
            builder.add_node("person", person)
        return builder.compile()

    return QuestionGraph(build, direct if doubt is None else None)
