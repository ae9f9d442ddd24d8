"""What built-in graphs are made of: a stage's prompts, a model that is asked until its answer fits, the finished stage.

A graph of its own file says only what is its own: which questions, in which order, and what becomes of the answers.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, TypedDict

from langchain_core.messages import AIMessage, BaseMessage, HumanMessage, SystemMessage, ToolMessage
from langchain_core.tools import BaseTool
from langgraph.graph import END, START, StateGraph
from langgraph.pregel import Pregel
from langgraph.types import Command, interrupt

from schemas.digests import digest
from schemas.errors import RowError, SpecError
from schemas.manifest import Provenance
from schemas.spec.fields import OutputField
from stages.contract import Answered, Build, GraphStage, Options, check_outputs
from stages.models import build_model, model_identity, structured_method
from stages.prompts import Template, is_blank
from stages.structured import AnswerFormat, correction, said_text

MAX_REPAIRS = 2
_COMPLAINT = 1000  # characters of what is wrong with an answer: it may hold what the answer said
Answer = dict[str, Any]


class Prompts:
    """A stage's prompt and system. A row whose prompt reads only blanks is answered, or refused, without a call."""

    def __init__(self, wanted: Build) -> None:
        stage = wanted.stage
        available = frozenset(wanted.columns.names)
        self._prompt = Template(stage.prompt or "", where=f"{wanted.where}: prompt")
        self._system = Template(stage.system, where=f"{wanted.where}: system") if stage.system else None
        self._asks = self._prompt.reads(available)
        self._when_empty = stage.when_empty
        self.reads = tuple(sorted(self._asks | (self._system.reads(available) if self._system else frozenset())))

    def is_empty(self, row: Mapping[str, Any]) -> bool:
        """Whether the row needs no call. Raises RowError where it shall be rejected."""
        if not self._asks or self._when_empty == "call" or not all(is_blank(row[name]) for name in self._asks):
            return False
        if self._when_empty == "reject":
            raise RowError("every column of the prompt is blank", kind="empty")
        return True

    def text(self, row: Mapping[str, Any]) -> str:
        return self._prompt.render(row)

    def system(self, row: Mapping[str, Any], *ours: str) -> list[BaseMessage]:
        """The system message, the user's words after ours; none where nobody says anything."""
        said = [*ours, *([self._system.render(row)] if self._system else [])]
        return [SystemMessage("\n\n".join(said))] if said else []


class Question:
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


class Asked(TypedDict, total=False):
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
    question: Question, mend: Callable[[Any], Any] = lambda data: data, doubt: Doubt | None = None
) -> Pregel[Any, Any, Any, Any]:
    """START → ask, again with what is wrong while it does not fit, → person, where there is doubt. `mend` sees an
    answer before it is validated."""

    async def ask(state: Asked) -> Asked | Command[Literal["ask", "person"]]:
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

    async def person(state: Asked) -> Asked:
        assert doubt is not None
        answer = state["answer"]
        wanted = correction(question.form, answer, doubt.column, mend)
        return {"answer": interrupt({"why": state["why"], "answer": answer}, response_schema=wanted)}

    builder = StateGraph(Asked)
    builder.add_node("ask", ask, destinations=("ask", END, *(["person"] if doubt is not None else [])))
    builder.add_edge(START, "ask")
    if doubt is not None:
        builder.add_node("person", person)
    return builder.compile()


# Columns that options name -------------------------------------------------------------------------------------------


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


# The stage ---------------------------------------------------------------------------------------------------------


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
    from stages.registry import limiter_of, stage_fingerprint

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
        harvest=made.harvest,
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
