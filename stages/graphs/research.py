"""research: a plan, a search and a text for each of its sections at once, and one answer from all of them.

START → plan ─ Send ─→ section: search → write (one a section, `parallel` at once) ─→ synthesise → END
                          └─ nothing found, or a failure: noted, the others go on       └─ too many failed: rejected

The search is the stage's tool, a function of a query, or a ranking over the text files of `corpus`. Sections are
written by the role `sections` where the stage names one, else by `main`.
"""

import operator
from collections.abc import Awaitable, Callable, Mapping
from datetime import timedelta
from typing import Annotated, Any, ClassVar, TypedDict

from langchain_core.messages import BaseMessage, HumanMessage, ToolCall
from langchain_core.tools import BaseTool
from langgraph.graph import END, START, StateGraph
from langgraph.types import Send
from pydantic import Field

from schemas.errors import RowError, SpecError
from schemas.spec.durations import Duration
from schemas.spec.fields import OutputField
from stages.contract import GraphStage, Options, StageSetup
from stages.graphs.toolkit.assemble import GraphParts, answer_format, assemble, own_column
from stages.graphs.toolkit.prompts import Prompts
from stages.graphs.toolkit.question import Answer, ModelQuestion
from stages.graphs.toolkit.tools import call, load_tools
from stages.models.answers.answer_format import AnswerFormat
from stages.text.quoting import RULE, quoted
from stages.text.search import LANGUAGES, load_corpus

VERSION = "research-2"
_PLAN = "Plan how to answer the question: at most {sections} sections, each with a title and a query for a search."
_SECTION = (
    "Write one section of a longer answer, from what was found and from nothing else. Say so where it does not tell."
)
_SYNTHESIS = "Answer the question from these sections and from nothing else."
_GONE = "These sections could not be written, so the answer has to do without: {titles}."

Search = Callable[[str], Awaitable[str]]


class ResearchOptions(Options):
    pacing: ClassVar[frozenset[str]] = frozenset(("parallel",))

    corpus: str | None = Field(default=None, description="a folder or glob of text files, relative to the spec")
    language: str = Field(default="english", description="of the corpus, for word endings and stop words")
    sections: int = Field(default=6, ge=1, le=100, description="sections of an answer at most")
    passages: int = Field(default=5, ge=1, le=50, description="passages of the corpus for one section")
    max_failed: float = Field(default=0.5, ge=0, le=1, description="the share of sections that may fail")
    failed: str | None = Field(default=None, description="an int column for how many sections failed")
    parallel: int = Field(default=8, ge=1, le=100, description="sections of one row at once")
    tool_timeout: Duration = Field(default=timedelta(seconds=60), description="how long one search may take")
    result_chars: int = Field(default=20_000, ge=100, description="the most characters of a search's result")


class State(TypedDict, total=False):
    """`written` and `gone` as (place, title, text or reason)."""

    system: list[BaseMessage]
    question: str
    sections: list[dict[str, str]]
    written: Annotated[list[tuple[int, str, str]], operator.add]
    gone: Annotated[list[tuple[int, str, str]], operator.add]
    answer: Answer


class Section(TypedDict):
    question: str
    place: int
    title: str
    query: str


def build(setup: StageSetup) -> GraphStage:
    """The stage of a spec that `uses: research`. Raises SpecError."""
    options = setup.options(ResearchOptions)
    form = answer_format(setup)
    added = own_column(setup, form.fields, "failed", options.failed, "int")
    prompts = Prompts(setup)
    search, content = _search(setup, options)
    planner = ModelQuestion(setup, AnswerFormat(_plan_fields(options.sections), None, "plan"))
    role = "sections" if "sections" in setup.stage.model else "main"
    writer = ModelQuestion(setup, AnswerFormat({"text": OutputField(type="str", min_length=1)}, None, "section"), role)
    answerer = ModelQuestion(setup, form)

    async def plan(state: State) -> State:
        system = prompts.fixed(f"{_PLAN.format(sections=options.sections)}\n\n{RULE}")
        answer = await planner.answer([system, HumanMessage(quoted("question", state["question"]))])
        return {"sections": answer["sections"]}

    def parts(state: State) -> list[Send]:
        planned = [(place, section["title"], section["query"]) for place, section in enumerate(state["sections"])]
        return [
            Send("section", Section(question=state["question"], place=place, title=title, query=query))
            for place, title, query in planned
        ]

    async def section(state: Section) -> State:
        place, title = state["place"], state["title"]
        try:
            found = await search(state["query"])
            prompt_parts = [quoted("question", state["question"]), quoted("section", title), quoted("found", found)]
            system = prompts.fixed(f"{_SECTION}\n\n{RULE}")
            answer = await writer.answer([system, HumanMessage("\n\n".join(prompt_parts))])
        except RowError as exc:
            return {"gone": [(place, title, exc.message)]}
        return {"written": [(place, title, answer["text"])]}

    async def synthesise(state: State) -> State:
        written, gone = sorted(state.get("written", [])), sorted(state.get("gone", []))
        if not written or len(gone) > options.max_failed * len(state["sections"]):
            raise RowError(
                f"{len(gone)} of {len(state['sections'])} sections failed: {gone[0][2] if gone else 'none planned'}",
                kind="sections_failed",
            )
        prompt_parts = [quoted("question", state["question"])]
        prompt_parts += [quoted("section", f"{title}\n\n{text}") for _, title, text in written]
        if gone:
            prompt_parts.append(quoted("missing", _GONE.format(titles="; ".join(title for _, title, _ in gone))))
        return {"answer": await answerer.answer([*state["system"], HumanMessage("\n\n".join(prompt_parts))])}

    def first_state(row: Mapping[str, Any]) -> dict[str, Any]:
        return {"system": prompts.system(row, _SYNTHESIS, RULE), "question": prompts.text(row)}

    def output_of(state: Mapping[str, Any]) -> Answer:
        count = {options.failed: len(state.get("gone", []))} if options.failed else {}
        return {**state["answer"], **count}

    builder = StateGraph(State)
    builder.add_node("plan", plan)
    builder.add_node("section", section, input_schema=Section)
    builder.add_node("synthesise", synthesise)
    builder.add_edge(START, "plan")
    builder.add_conditional_edges("plan", parts, ["section"])
    builder.add_edge("section", "synthesise")
    builder.add_edge("synthesise", END)
    graph = builder.compile().with_config({"max_concurrency": options.parallel})
    calls = (3, options.sections + 2)
    return assemble(
        setup,
        GraphParts(VERSION, options, form, prompts, lambda: graph, first_state, output_of, added, calls, code=content),
    )


def _plan_fields(limit: int) -> dict[str, OutputField]:
    section = {"fields": {"title": "str", "query": "str"}}
    return {
        "sections": OutputField.model_validate({"type": "list", "items": section, "min_length": 1, "max_length": limit})
    }


def _search(setup: StageSetup, options: ResearchOptions) -> tuple[Search, str]:
    """Return the search of the stage, and a digest of the text that it searches; "" for a tool."""
    tools = load_tools(setup)
    if (len(tools) == 1) == (options.corpus is not None) or len(tools) > 1:
        raise SpecError(
            f"{setup.where}: uses: research needs one search.",
            hint="Give with: {corpus: a folder of text files}, or tools: [module:function] of a query.",
        )
    if tools:
        return _by_tool(setup, tools[0], options), ""
    if options.language not in LANGUAGES:
        raise SpecError(
            f"{setup.where}: with.language = {options.language!r} is not known.",
            hint=f"One of {', '.join(LANGUAGES)}.",
        )
    corpus = load_corpus(setup.base, options.corpus or "", setup.where, options.language)

    async def search(query: str) -> str:
        found = corpus.search(query, options.passages)
        if not found:
            raise RowError("nothing was found", kind="nothing_found")
        return "\n\n".join(f"[{passage.source}]\n{passage.text}" for passage in found)[: options.result_chars]

    return search, corpus.digest


def _by_tool(setup: StageSetup, tool: BaseTool, options: ResearchOptions) -> Search:
    if len(tool.args) != 1:
        raise SpecError(
            f"{setup.where}: tools: {tool.name} takes {', '.join(tool.args) or 'nothing'}.",
            hint="A search takes one argument, the query.",
        )
    (argument,) = tool.args
    timeout_s = options.tool_timeout.total_seconds()

    async def search(query: str) -> str:
        tool_call = ToolCall(name=tool.name, args={argument: query}, id="search", type="tool_call")
        result = await call([tool], tool_call, timeout_s=timeout_s, max_chars=options.result_chars)
        if result.failed or not result.text.strip():
            raise RowError(result.text if result.failed else "nothing was found", kind="search_failed")
        return result.text

    return search
