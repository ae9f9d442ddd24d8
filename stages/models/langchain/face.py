"""Models of ours in LangChain's class, for graphs of users: with `ainvoke`, bound tools, structured output."""

from collections.abc import Sequence
from typing import Any, cast

from langchain_core.language_models import BaseChatModel, LangSmithParams, LanguageModelInput
from langchain_core.messages import AIMessage, BaseMessage
from langchain_core.outputs import ChatResult
from langchain_core.runnables import Runnable
from pydantic import SkipValidation

from stages.models.chat_model import AnyChatModel, ChatModel


class LangChainModel(BaseChatModel):
    """A model of ours, `inner`, as LangChain's. `model`: its name, as LangChain's classes have it."""

    inner: SkipValidation[ChatModel]
    model: str = ""

    @property
    def _llm_type(self) -> str:
        return self.inner._llm_type

    @property
    def _identifying_params(self) -> dict[str, Any]:
        return self.inner._identifying_params

    def _get_ls_params(self, stop: list[str] | None = None, **kwargs: Any) -> LangSmithParams:
        """Return what LangSmith shows of a call: provider and model as the spec names them."""
        provider, _, name = getattr(self.inner, "spec_name", "").partition(":")
        named = LangSmithParams(ls_provider=provider, ls_model_name=name) if provider else LangSmithParams()
        return LangSmithParams(**{**super()._get_ls_params(stop, **kwargs), **named})

    def bind_tools(self, tools: Sequence[Any], **kwargs: Any) -> Runnable[LanguageModelInput, AIMessage]:
        return self.bind(**self.inner.with_tools(tools, **kwargs))

    def _generate(
        self, messages: list[BaseMessage], stop: list[str] | None = None, run_manager: Any = None, **kwargs: Any
    ) -> ChatResult:
        return self.inner._generate(messages, stop, run_manager, **kwargs)

    async def _agenerate(
        self, messages: list[BaseMessage], stop: list[str] | None = None, run_manager: Any = None, **kwargs: Any
    ) -> ChatResult:
        return await self.inner._agenerate(messages, stop, run_manager, **kwargs)


def as_langchain(model: AnyChatModel) -> BaseChatModel:
    """Return the same model in LangChain's class; one that is of it stays as it is."""
    if not isinstance(model, ChatModel):
        return cast(BaseChatModel, model)
    # Its calls are journalled below; `stages.models.langchain.own_models` would do it again, through LangChain's cache.
    return LangChainModel(inner=model, model=getattr(model, "model", ""), disable_streaming=True, cache=False)
