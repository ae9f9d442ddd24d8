"""Models that a graph builds for itself, journalled through LangChain's process-wide cache hook.

Tandem did not build them, so they have no limiter, no budget and no retry. But LangChain reads its cache before each
call and writes it after, also in `with_structured_output` and `bind_tools`, so a paid answer is stored and replayed.
Not covered are calls that stream, and models with a cache of their own (or `cache=False`).

Two faults of the hook's key are corrected here: it holds timeouts and retries, which must not make an answer be paid
for again, and it holds only the name of a bound class, so that the schema has to be read from the class.
"""

import asyncio
import contextlib
import inspect
import re
import sys
from collections.abc import Sequence
from operator import attrgetter
from typing import Any

import orjson
from langchain_core.caches import RETURN_VAL_TYPE, BaseCache
from langchain_core.globals import get_llm_cache, set_llm_cache
from langchain_core.messages import AIMessage
from langchain_core.outputs import ChatGeneration, ChatResult

from schemas.errors import CallNeeded
from schemas.spec.sections import Price
from stages.journal.records import CallKey, CallRecord
from stages.journal.requests import RequestText
from stages.limits.limiter import Limiter
from stages.limits.prices import pricer
from stages.models import heard
from stages.models.asked import canonical_json
from stages.models.backend import Backend
from stages.models.calls import as_result, call_answered, unknown_call
from stages.models.known_calls import append
from stages.models.request import ModelRequest
from stages.models.row.scope import RowScope, current, request_digest

# Fields of a model's serialised form that do not change its answers.
_CONNECTION = frozenset(
    ("timeout", "request_timeout", "max_retries", "cache", "callbacks", "rate_limiter", "verbose", "tags", "metadata",
     "http_client", "http_async_client", "disable_streaming", "default_headers")
)  # fmt: skip
_NAMED_CLASS = re.compile(r"<class '([^']+)'>")


class JournalCache(BaseCache):
    """LangChain's cache hook as a view of the running row's journal; empty outside of a row."""

    def __init__(self, prices: dict[str, Price] | None = None) -> None:
        self._prices = prices or {}

    def lookup(self, prompt: str, llm_string: str) -> RETURN_VAL_TYPE | None:
        scope = current.get()
        if scope is None:
            return None
        key = scope.next_key(_digest(prompt, llm_string))
        known = scope.journal.known.calls.get(key)
        if known is None:
            why = scope.halted()
            if why is None and scope.no_calls:
                why = CallNeeded(f"{scope.stage}: an answer is not in the journal, and --no-calls makes no call.")
            if why is not None:
                scope.record_failure(why)
                raise why
            scope.cache_missed[key[0]].append(key)
            return None
        scope.count_reuse(known)
        return as_result(known).generations

    async def alookup(self, prompt: str, llm_string: str) -> RETURN_VAL_TYPE | None:
        return self.lookup(prompt, llm_string)

    def update(self, prompt: str, llm_string: str, return_val: RETURN_VAL_TYPE) -> None:
        """Store an answer from a synchronous node, whose thread may wait for the batch's loop."""
        scope = current.get()
        record = self._record(scope, prompt, llm_string, return_val)
        if scope is None or record is None:
            return
        text = _text(prompt, record.model)
        try:
            asyncio.get_running_loop()
        except RuntimeError:
            asyncio.run_coroutine_threadsafe(append(scope, record, text), scope.loop).result()
        else:  # `model.invoke` within an async node: waiting here would be waiting for ourselves
            scope.journal.note_request(record, text)
            scope.journal.note(record)

    async def aupdate(self, prompt: str, llm_string: str, return_val: RETURN_VAL_TYPE) -> None:
        scope = current.get()
        record = self._record(scope, prompt, llm_string, return_val)
        if scope is None or record is None:
            return
        text = _text(prompt, record.model)
        if asyncio.get_running_loop() is scope.loop:
            await append(scope, record, text)
        else:  # a node that runs in a thread with a loop of its own
            await asyncio.wrap_future(asyncio.run_coroutine_threadsafe(append(scope, record, text), scope.loop))

    def clear(self, **kwargs: Any) -> None:
        """Do nothing: a journal is never dropped."""

    def _record(
        self, scope: RowScope | None, prompt: str, llm_string: str, generations: Sequence[Any]
    ) -> CallRecord | None:
        missed = scope.cache_missed[scope.own_digest(_digest(prompt, llm_string))] if scope is not None else None
        one = generations[0] if len(generations) == 1 else None  # `n=2` is not ours to replay
        if scope is None or not missed or not isinstance(one, ChatGeneration) or not isinstance(one.message, AIMessage):
            return None
        key: CallKey = missed.pop(0)
        name = _name(one.message)
        backend = Backend(
            name=name,
            identity=b"",
            setting="",
            limiter=Limiter(1),
            price=pricer(name, self._prices),
            timeout_s=0,
        )
        request = ModelRequest(key[0], len(prompt))
        record = call_answered(
            scope, backend, unknown_call(scope, backend, key), request, ChatResult(generations=[one]), 0
        )
        heard.call_answered(scope, record, None)
        return record


def journal_own_models() -> None:
    """Install the hook for this process. A cache that the user's own code sets takes its place."""
    if get_llm_cache() is None:
        set_llm_cache(JournalCache())


def _name(message: AIMessage) -> str:
    metadata = message.response_metadata
    model = metadata.get("model_name") or metadata.get("model") or "unknown"
    return f"{metadata.get('model_provider') or 'own'}:{model}"


def _digest(prompt: str, llm_string: str) -> str:
    model, _, bound = llm_string.partition("---")
    classes = [_schema_of(name) for name in _NAMED_CLASS.findall(bound)]
    return request_digest(b"own", _plain(prompt), _plain(model), _NAMED_CLASS.sub("", bound).encode(), *classes)


def _text(prompt: str, model: str) -> RequestText | None:
    """Return a request for people from LangChain's serialised messages; its settings are not known."""
    try:
        fields = [message["kwargs"] for message in orjson.loads(prompt)]
        messages = [{"role": one.get("type", "user"), "content": one.get("content")} for one in fields]
    except (orjson.JSONDecodeError, TypeError, KeyError, AttributeError):
        return None
    common: dict[str, Any] = {"model": {"name": model, "params": {}}, "settings": None, "messages": []}
    return RequestText(orjson.dumps(common), orjson.dumps(messages))


def _plain(text: str) -> bytes:
    """Return serialised JSON without fields of the connection; other text as it is."""
    try:
        return orjson.dumps(_without(orjson.loads(text)), option=orjson.OPT_SORT_KEYS)
    except orjson.JSONDecodeError:
        return text.encode()


def _without(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _without(inner) for key, inner in value.items() if key not in _CONNECTION}
    if isinstance(value, list):
        return [_without(inner) for inner in value]
    return value


def _schema_of(name: str) -> bytes:
    """Return the schema of the class of this name; for a class local to a function, the module's source."""
    parts = name.split(".")
    for end in range(len(parts) - 1, 0, -1):
        module = sys.modules.get(".".join(parts[:end]))
        if module is None:
            continue
        try:
            return canonical_json(attrgetter(".".join(parts[end:]))(module))
        except AttributeError:
            with contextlib.suppress(OSError, TypeError):
                return inspect.getsource(module).encode()
    return name.encode()
