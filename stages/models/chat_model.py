"""A model that a stage asks: messages in, an answer out, both in LangChain's forms, but not of LangChain's class.

That class brings LangSmith's client and the runnables with it: 0.3 s and 20 MB of each command and worker, of which
built-in stages use nothing. Graphs of users get one (`stages.models.langchain.face`). The methods have the names of
LangChain's, so that a provider's own class can take the place of one of ours.
"""

from collections.abc import Mapping, Sequence
from typing import Any, Protocol, Self

from langchain_core.messages import BaseMessage
from langchain_core.outputs import ChatResult
from pydantic import BaseModel, ConfigDict


class AnyChatModel(Protocol):
    """A chat model of ours, or one of LangChain's class."""

    @property
    def _llm_type(self) -> str: ...

    async def _agenerate(
        self, messages: list[BaseMessage], stop: list[str] | None = None, run_manager: Any = None, **kwargs: Any
    ) -> ChatResult: ...

    def model_copy(self, *, update: Mapping[str, Any] | None = None, deep: bool = False) -> Self: ...


class ChatModel(BaseModel):
    """A chat model of ours."""

    model_config = ConfigDict(arbitrary_types_allowed=True)

    @property
    def _llm_type(self) -> str:
        raise NotImplementedError

    @property
    def _identifying_params(self) -> dict[str, Any]:
        return {}

    async def _agenerate(
        self, messages: list[BaseMessage], stop: list[str] | None = None, run_manager: Any = None, **kwargs: Any
    ) -> ChatResult:
        """Answer messages; `kwargs`: further arguments of the request."""
        raise NotImplementedError

    def _generate(
        self, messages: list[BaseMessage], stop: list[str] | None = None, run_manager: Any = None, **kwargs: Any
    ) -> ChatResult:
        """Answer messages in a thread of the caller's."""
        raise NotImplementedError

    def with_tools(self, tools: Sequence[Any], **kwargs: Any) -> dict[str, Any]:
        """Return the arguments of a request whose answer may call tools. `tool_choice`: it has to call this one, or
        any."""
        raise NotImplementedError


def arguments_with_tools(model: Any, tools: Sequence[Any], **kwargs: Any) -> dict[str, Any]:
    """Return the arguments of a request with tools to a model of any kind."""
    if isinstance(model, ChatModel):
        return model.with_tools(tools, **kwargs)
    return dict(getattr(model.bind_tools(tools, **kwargs), "kwargs", {}))


def canonical_tool(tool: Any, *, strict: bool | None = None) -> dict[str, Any]:
    """Return a tool in the form of the Chat Completions API."""
    if isinstance(tool, dict) and tool.get("type") == "function" and "function" in tool:
        return tool  # as it is; LangChain's way to say so would import all of its tools
    from langchain_core.utils.function_calling import convert_to_openai_tool

    return convert_to_openai_tool(tool, strict=strict)
