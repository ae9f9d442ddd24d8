"""agent: a model that calls tools until it can answer; one conversation a row.

START → think ─ calls tools ─→ tools ─┐      tools: those of the stage and no other; arguments are validated; a failure,
          ↑   │                       │             an unknown tool or bad arguments are reported to the model
          ├───┼───────────────────────┘
          ├───┼─ an answer that does not fit: repair, at most twice
              └─ an answer ─→ END            at `steps` model calls or `token_cap` tokens: rejected, or made to answer
"""

import asyncio
from collections.abc import Mapping
from datetime import timedelta
from typing import Any, Literal, TypedDict

from langchain_core.messages import AIMessage, BaseMessage, HumanMessage, ToolMessage
from langgraph.graph import START, StateGraph
from langgraph.types import Command
from pydantic import Field

from schemas.errors import RowError
from schemas.spec.durations import Duration
from stages.contract import GraphStage, Options, StageSetup
from stages.graphs.toolkit.assemble import GraphParts, answer_format, assemble
from stages.graphs.toolkit.examples import example_turns
from stages.graphs.toolkit.prompts import Prompts
from stages.graphs.toolkit.provider_tools import citations_of, column_of_citations, provider_tools
from stages.graphs.toolkit.question import MAX_REPAIRS, Answer, ModelQuestion, complaints, invalid
from stages.graphs.toolkit.toolbox import Toolbox
from stages.graphs.toolkit.tools import call
from stages.text.quoting import RULE, quoted
from stages.text.tokens import tokens

VERSION = "agent-1"
_NOW = "You have no step left. Answer now, from what you know."


class AgentOptions(Options):
    steps: int = Field(default=12, ge=1, le=200, description="model calls of one row at most")
    token_cap: int = Field(default=200_000, ge=1, description="tokens in and out of one row, after which it ends")
    at_cap: Literal["reject", "answer"] = Field(default="reject", description="answer: once more, without tools")
    tool_timeout: Duration = Field(default=timedelta(seconds=60), description="how long one call of a tool may take")
    result_chars: int = Field(default=20_000, ge=100, description="the most characters of a tool's result")


class State(TypedDict, total=False):
    messages: list[BaseMessage]
    steps: int
    spent: int
    repairs: int
    answer: Answer


def build(setup: StageSetup) -> GraphStage:
    """The stage of a spec that `uses: agent`. Raises SpecError."""
    options = setup.options(AgentOptions)
    form = answer_format(setup)
    prompts = Prompts(setup)
    examples = example_turns(setup, prompts, form)
    citations = citations_of(setup, form.fields)
    by_provider = provider_tools(setup)
    toolbox = Toolbox(
        setup, lambda tools: ModelQuestion(setup, form, tools=[*tools, *by_provider], citations=citations)
    )
    without_tools = ModelQuestion(setup, form, citations=citations)
    timeout_s = options.tool_timeout.total_seconds()

    async def think(state: State) -> Command[Literal["think", "tools", "__end__"]]:
        steps, spent = state.get("steps", 0), state.get("spent", 0)
        capped = _cap(steps + (options.at_cap == "answer"), spent, options)
        if capped and options.at_cap == "reject":
            raise RowError(f"no answer after {capped}", kind=f"{capped.split()[-1].rstrip('s')}_cap")
        final_prompt: list[BaseMessage] = [HumanMessage(_NOW)] if capped else []
        messages = [*state["messages"], *final_prompt]
        question = without_tools if capped else (await toolbox.open())[1]
        message = await question.ask(messages)
        update: State = {"steps": steps + 1, "spent": spent + _tokens(messages, message)}
        if not capped and form.wants_tools(message):
            return Command(goto="tools", update={**update, "messages": [*messages, message]})
        try:
            return Command(goto="__end__", update={**update, "answer": question.read(form.only_answer(message))})
        except ValueError as exc:
            repairs = state.get("repairs", 0)
            if repairs == MAX_REPAIRS or capped:
                raise invalid(message, exc, repairs) from None
            conversation = [*messages, message, *complaints(message, str(exc))]
            return Command(goto="think", update={**update, "repairs": repairs + 1, "messages": conversation})

    async def use_tools(state: State) -> State:
        message = state["messages"][-1]
        assert isinstance(message, AIMessage)
        tools, _ = await toolbox.open()
        results = await asyncio.gather(
            *(call(tools, c, timeout_s=timeout_s, max_chars=options.result_chars) for c in message.tool_calls)
        )
        replies = [
            ToolMessage(
                result.text if result.failed else quoted("result", result.text),
                tool_call_id=tool_call["id"] or "",
                status="error" if result.failed else "success",
            )
            for tool_call, result in zip(message.tool_calls, results, strict=True)
        ]
        replies += [
            ToolMessage("The arguments are not a JSON object.", tool_call_id=tool_call["id"] or "", status="error")
            for tool_call in message.invalid_tool_calls
        ]
        return {"messages": [*state["messages"], *replies]}

    def first_state(row: Mapping[str, Any]) -> dict[str, Any]:
        return {"messages": [*prompts.system(row, RULE), *examples, prompts.question(row)]}

    builder = StateGraph(State)
    builder.add_node("think", think)
    builder.add_node("tools", use_tools)
    builder.add_edge(START, "think")
    builder.add_edge("tools", "think")
    graph = builder.compile().with_config({"recursion_limit": 2 * options.steps + MAX_REPAIRS + 5})
    added = column_of_citations(citations)
    calls = (1, options.steps)
    return assemble(
        setup, GraphParts(VERSION, options, form, prompts, lambda: graph, first_state, added_columns=added, calls=calls)
    )


def _cap(steps: int, spent: int, options: AgentOptions) -> str:
    """Return the cap that was reached, in words; '' if there is none."""
    if steps >= options.steps:
        return f"{options.steps} steps"
    return f"{options.token_cap:,} tokens" if spent >= options.token_cap else ""


def _tokens(messages: list[BaseMessage], message: AIMessage) -> int:
    if message.usage_metadata is not None:
        return message.usage_metadata["total_tokens"]
    return sum(tokens(str(item.content)) for item in (*messages, message))
