"""LangChain's callbacks around the calls of built-in graphs. Only where somebody listens: a handler that the process
sets, or one of the run within which a pipeline is called, or LangSmith's where tracing is switched on.

Calls go to `_agenerate`, where the journal is, not through LangChain's `ainvoke`; so what that would report is reported
here. An answer from the journal is reported as a call too.
"""

import asyncio
import os
import sys
from collections.abc import Mapping
from typing import Any

import orjson
from langchain_core.globals import get_debug
from langchain_core.messages import BaseMessage
from langchain_core.outputs import ChatResult, LLMResult

from stages.models.asked import OneOfSeveral, TakesSettings
from stages.models.chat_model import AnyChatModel

# By which LangSmith is switched on; the first that is set decides.
TRACING = ("LANGSMITH_TRACING_V2", "LANGCHAIN_TRACING_V2", "LANGSMITH_TRACING", "LANGCHAIN_TRACING")
# Without any of them in the process nobody can have asked to hear of runs, but by these variables and by `set_debug`:
# callbacks are given to runnables, and all of LangChain's hooks for tracers import LangSmith.
_HEARING = ("langchain_core.runnables.base", "langsmith")
_OURS = ("settings", "each")  # arguments of our models that are no part of a request
_FLUSH_S = 10.0


def may_be_heard() -> bool:
    """False where surely nobody hears of runs; then what tells so exactly, 0.3 s and 20 MB, need not be imported."""
    tracing = next((value for name in TRACING if (value := os.environ.get(name))), "false")
    return tracing.lower() != "false" or get_debug() or any(name in sys.modules for name in _HEARING)


def callbacks_here() -> Any:
    """Return the callbacks of the runnable within which this code is called, as a graph's config takes them."""
    if not may_be_heard():
        return None
    from langchain_core.runnables.config import ensure_config

    return ensure_config().get("callbacks")


def are_heard(callbacks: Any) -> bool:
    """True if anybody hears of runs that begin with these callbacks."""
    if not may_be_heard():
        return False
    from langchain_core.callbacks import AsyncCallbackManager

    return bool(AsyncCallbackManager.configure(callbacks).handlers)


async def generate(model: AnyChatModel, messages: list[BaseMessage], arguments: Mapping[str, Any]) -> ChatResult:
    """Call a model, and report the call to those who listen."""
    from langchain_core.callbacks import AsyncCallbackManager
    from langchain_core.runnables.config import ensure_config

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


def _model_of(model: AnyChatModel, arguments: Mapping[str, Any]) -> tuple[str, dict[str, Any]]:
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
