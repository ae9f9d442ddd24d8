"""A graph of your own, as a start. Its stage is commented out at the end of `stages` in tandem.yaml.

START → answer ─ short enough ─→ END
          ↑  └─ too long, and not called twice yet ─┐
          └────────────────────────────────────────┘

It is plain LangGraph. Tandem runs it once per row, keeps each answer of the model that it passes in, and reads the
columns that `output` declares from the last state. Leave retries to Tandem: a RetryPolicy would pay for each attempt.
"""

from dataclasses import dataclass
from typing import TypedDict

from langchain_core.language_models import BaseChatModel
from langgraph.graph import END, START, StateGraph
from langgraph.runtime import Runtime

LONGEST = 200  # characters


@dataclass
class Context:
    """The context that Tandem passes in: `model` of the stage (`models` by role, `tools`), and the keys of its
    `context`."""

    model: BaseChatModel


class State(TypedDict, total=False):
    """`text` comes from a column (`inputs`), `reply` becomes one (`output`)."""

    text: str
    reply: str
    calls: int


async def answer(state: State, runtime: Runtime[Context]) -> State:
    brief = "Shorter, please. " if state.get("calls") else ""
    message = await runtime.context.model.ainvoke(f"{brief}Answer this in one sentence:\n{state['text']}")
    return {"reply": str(message.content), "calls": state.get("calls", 0) + 1}


def next_step(state: State) -> str:
    return END if len(state["reply"]) <= LONGEST or state["calls"] == 2 else "answer"


graph = StateGraph(State, context_schema=Context)
graph.add_node("answer", answer)
graph.add_edge(START, "answer")
graph.add_conditional_edges("answer", next_step, ["answer", END])
