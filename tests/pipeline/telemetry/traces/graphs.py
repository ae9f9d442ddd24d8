"""A graph as a user writes it: LangGraph's own node for tools, and a subgraph."""

from typing import Annotated, Any, TypedDict

from langchain_core.messages import AIMessage, AnyMessage
from langchain_core.tools import tool
from langgraph.graph import END, START, StateGraph
from langgraph.graph.message import add_messages
from langgraph.prebuilt import ToolNode


class State(TypedDict, total=False):
    text: str
    reply: str
    messages: Annotated[list[AnyMessage], add_messages]


@tool
def stock(item: str) -> str:
    """How many of an item are in stock."""
    return str(len(item))


async def leaf(state: State) -> dict[str, Any]:
    call = {"name": "stock", "args": {"item": state["text"]}, "id": "call-1", "type": "tool_call"}
    return {"reply": "done", "messages": [AIMessage("", tool_calls=[call])]}


_inner = StateGraph(State)
_inner.add_node("leaf", leaf)
_inner.add_edge(START, "leaf")
_inner.add_edge("leaf", END)
_outer = StateGraph(State)
_outer.add_node("inner", _inner.compile())
_outer.add_node("use", ToolNode([stock]))
_outer.add_edge(START, "inner")
_outer.add_edge("inner", "use")
_outer.add_edge("use", END)
graph = _outer.compile()
