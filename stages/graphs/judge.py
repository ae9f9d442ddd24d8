"""judge: a draft, criticised against a rubric and revised until it is good enough, at most `revisions` times.

START → draft → criticise ─ score ≥ accept, or no revision left ─→ END     (the best draft of all is kept, or the row
          ↑         └─ otherwise: revise with what is wrong ──┐             rejected: `unsatisfied`)
          └───────────────────────────────────────────────────┘

The critic is the role `judge` where the stage names one, else `main`.
"""

import operator
from collections.abc import Mapping
from typing import Annotated, Any, Literal, TypedDict

import orjson
from langchain_core.messages import AIMessage, BaseMessage, HumanMessage
from langgraph.graph import END, START, StateGraph
from pydantic import Field

from schemas.errors import RowError
from schemas.spec.fields import OutputField
from stages.contract import GraphStage, Options, StageSetup
from stages.graphs.toolkit.assemble import GraphParts, answer_format, assemble, own_column
from stages.graphs.toolkit.confidence import Confidence, column_of, sureness_of
from stages.graphs.toolkit.examples import example_turns
from stages.graphs.toolkit.prompts import Prompts
from stages.graphs.toolkit.provider_tools import citations_of, column_of_citations, provider_tools
from stages.graphs.toolkit.question import Answer, ModelQuestion
from stages.models.answers.answer_format import AnswerFormat
from stages.text.quoting import RULE, quoted

VERSION = "judge-1"
_CRITIQUE = {
    "score": OutputField(type="float", ge=0, le=1, description="how well the rubric is met"),
    "problems": OutputField.model_validate("list[str]"),
}
_JUDGE = (
    "You review a draft answer to a task, against this rubric:\n{rubric}\n\nScore it from 0 (not met at all) to 1 (met "
    "throughout) and name each problem in a sentence that says what to change. No problem: an empty list."
)
_REVISE = "A reviewer of your answer found these problems. Give the whole answer again without them.\n"


class JudgeOptions(Options):
    rubric: str = Field(min_length=1, description="what a good answer is")
    accept: float = Field(default=0.8, ge=0, le=1, description="the score from which a draft is good enough")
    revisions: int = Field(default=2, ge=0, le=10, description="how often a draft is revised at most")
    unsatisfied: Literal["keep", "reject"] = Field(default="keep", description="when no draft was good enough")
    confidence: Confidence | None = Field(
        default=None, description="the column that says how sure the model was of that draft"
    )
    score: str | None = Field(default=None, description="a column for the score of the draft that was kept")


class State(TypedDict, total=False):
    """`drafts` with their scores, in order; `messages` is the conversation of the model that writes."""

    task: str
    messages: list[BaseMessage]
    draft: Answer
    drafts: Annotated[list[tuple[float, Answer]], operator.add]
    problems: list[str]


def build(setup: StageSetup) -> GraphStage:
    """The stage of a spec that `uses: judge`. Raises SpecError."""
    options = setup.options(JudgeOptions)
    form = answer_format(setup)
    sureness = sureness_of(setup, form.fields, options.confidence)
    citations = citations_of(setup, form.fields)
    added = own_column(setup, form.fields, "score", options.score, "float") | column_of(sureness)
    added |= column_of_citations(citations)
    prompts = Prompts(setup)
    examples = example_turns(setup, prompts, form)
    writer = ModelQuestion(setup, form, tools=provider_tools(setup), sureness=sureness, citations=citations)
    critic = ModelQuestion(
        setup, AnswerFormat(_CRITIQUE, None, "critique"), "judge" if "judge" in setup.stage.model else "main"
    )
    system_message = prompts.fixed(f"{_JUDGE.format(rubric=options.rubric)}\n\n{RULE}")

    async def draft(state: State) -> State:
        return {"draft": await writer.answer(state["messages"])}

    async def criticise(state: State) -> State:
        draft_json = orjson.dumps(_written(state["draft"], form)).decode()
        question = f"{quoted('task', state['task'])}\n\n{quoted('draft', draft_json)}"
        critique = await critic.answer([system_message, HumanMessage(question)])
        return {"drafts": [(critique["score"], state["draft"])], "problems": critique["problems"]}

    def next_step(state: State) -> str:
        score, _ = state["drafts"][-1]
        return END if score >= options.accept or len(state["drafts"]) > options.revisions else "revise"

    def revise(state: State) -> State:
        problems = "\n".join(f"- {problem}" for problem in state["problems"]) or "- It does not meet the rubric."
        last_draft = AIMessage(orjson.dumps(_written(state["draft"], form)).decode())
        return {"messages": [*state["messages"], last_draft, HumanMessage(_REVISE + quoted("problems", problems))]}

    def first_state(row: Mapping[str, Any]) -> dict[str, Any]:
        question = prompts.question(row)
        return {"task": str(question.content), "messages": [*prompts.system(row), *examples, question]}

    def output_of(state: Mapping[str, Any]) -> Answer:
        score, best = max(state["drafts"], key=lambda scored: scored[0])
        if score < options.accept and options.unsatisfied == "reject":
            raise RowError(
                f"no draft of {len(state['drafts'])} was good enough: the best scored {score:g} of {options.accept:g}",
                kind="unsatisfied",
                raw=orjson.dumps(best).decode(),
            )
        return {**best, **({options.score: score} if options.score else {})}

    builder = StateGraph(State)
    builder.add_node("draft", draft)
    builder.add_node("criticise", criticise)
    builder.add_node("revise", revise)
    builder.add_edge(START, "draft")
    builder.add_edge("draft", "criticise")
    builder.add_conditional_edges("criticise", next_step, ["revise", END])
    builder.add_edge("revise", "draft")
    calls = (2, 2 * (options.revisions + 1))
    return assemble(
        setup, GraphParts(VERSION, options, form, prompts, builder.compile, first_state, output_of, added, calls)
    )


def _written(draft: Answer, form: AnswerFormat) -> Answer:
    """Return a draft as its model wrote it."""
    return {name: value for name, value in draft.items() if name in form.fields}
