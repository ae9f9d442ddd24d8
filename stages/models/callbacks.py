"""LangChain's callbacks around the calls of built-in graphs. Only where somebody listens: a handler that the process
sets, or one of the run within which a pipeline is called, or LangSmith's where tracing is switched on.

Calls go to `_agenerate`, where the journal is, not through LangChain's `ainvoke`; so what that would report is reported
here. An answer from the journal is reported as a call too.
"""

import asyncio
import sys
from collections.abc import Mapping
from typing import Any

import orjson
from langchain_core.callbacks import AsyncCallbackManager, Callbacks
from langchain_core.language_models import BaseChatModel
from langchain_core.messages import BaseMessage
from langchain_core.outputs import ChatResult, LLMResult
from langchain_core.runnables.config import ensure_config

from stages.models.asked import OneOfSeveral, TakesSettings

_OURS = ("settings", "each")  # arguments of our models that are no part of a request
_FLUSH_S = 10.0


def callbacks_here() -> Callbacks:
    """Return the callbacks of the runnable within which this code is called, as a graph's config takes them."""
    return ensure_config().get("callbacks")


def are_heard(callbacks: Callbacks) -> bool:
    """True if anybody hears of runs that begin with these callbacks."""
    return bool(AsyncCallbackManager.configure(callbacks).handlers)


async def generate(model: BaseChatModel, messages: list[BaseMessage], arguments: Mapping[str, Any]) -> ChatResult:
    """Call a model, and report the call to those who listen."""
    config = ensure_config()
    name, shown = _model_of(model, arguments)
    manager = AsyncCallbackManager.configure(
        config.get("callbacks"),
        inheritable_tags=config.get("tags"),
        inheritable_metadata=config.get("metadata"),
        local_metadata=_names_for_langsmith(name),
    )
    # Not the model's own representation, whose headers may hold secrets.
    serialized = {"lc": 1, "type": "not_implemented", "id": ["tandem", type(model).__name__], "name": name}
    runs = await manager.on_chat_model_start(
        serialized, [messages], invocation_params=shown, options={"stop": None}, name=name, batch_size=1
    )
    try:
        result = await model._agenerate(messages, **arguments)
    except BaseException as exc:
        await asyncio.gather(*(run.on_llm_error(exc, response=LLMResult(generations=[])) for run in runs))
        raise
    answer = LLMResult(generations=[list(result.generations)])
    await asyncio.gather(*(run.on_llm_end(answer) for run in runs))
    return result


def _model_of(model: BaseChatModel, arguments: Mapping[str, Any]) -> tuple[str, dict[str, Any]]:
    """Return the name of a model and what people may see of its request: parameters without secrets, tools, schema; of
    several models those of the first."""
    if isinstance(model, OneOfSeveral):
        return _model_of(model.members[0], arguments["each"][0])
    shown = orjson.loads(backend.shown) if (backend := getattr(model, "_tandem", None)) is not None else {}
    plain = {name: value for name, value in arguments.items() if name not in _OURS}
    name = model.spec_name if isinstance(model, TakesSettings) else model._llm_type
    provider, _, model_name = name.partition(":")
    return name, {"model": model_name or provider, **shown.get("params", {}), **plain}


def _names_for_langsmith(name: str) -> dict[str, Any]:
    provider, _, model = name.partition(":")
    return {"ls_provider": provider, "ls_model_name": model, "ls_model_type": "chat"}


async def flush_tracers() -> None:
    """Wait until LangSmith's client, if there is one, has sent what it knows."""
    runs = sys.modules.get("langsmith.run_trees")
    if runs is None or getattr(runs, "_CLIENT", None) is None:
        return
    from langchain_core.tracers.langchain import wait_for_all_tracers

    try:
        async with asyncio.timeout(_FLUSH_S):
            await asyncio.to_thread(wait_for_all_tracers)
    except TimeoutError:
        return
