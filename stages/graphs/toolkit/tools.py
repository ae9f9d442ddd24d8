"""Tools that a model may call: those of the stage's `tools`, and no other.

A tool's result is journalled under the run and the row, so that a graph that is run again after a kill goes the same
way; other rows and other runs call it again, and so does a run whose process died during the call.
"""

import asyncio
import inspect
import time
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import orjson
from langchain_core.messages import ToolCall
from langchain_core.tools import BaseTool, StructuredTool
from langgraph.errors import GraphBubbleUp
from pydantic import ValidationError

from schemas.errors import RowError, SpecError, TandemError
from schemas.spec.fields import problems
from schemas.spec.tools import functions_in
from stages import observer
from stages.contract import StageSetup
from stages.execution.guards.row_guard import as_row_error, is_row_error
from stages.journal.records import TOOL, CallRecord, now
from stages.models.failures.errors import redacted
from stages.models.row.scope import RowScope, current, request_digest
from stages.text.exceptions import text_of
from stages.user_code import load_attribute


@dataclass(frozen=True)
class ToolResult:
    """The result of a call; if `failed`, `text` is the error message for the model."""

    text: str
    failed: bool = False


def load_tools(setup: StageSetup) -> list[BaseTool]:
    """Load the stage's tools: LangChain tools, or functions with type hints and a docstring. Raises SpecError."""
    tools: list[BaseTool] = []
    for reference in functions_in(setup.stage.tools):
        loaded = load_attribute(reference, where=f"{setup.where}: tools")
        if not isinstance(loaded, BaseTool):
            loaded = _to_tool(loaded, reference, setup)
        if loaded.name in {tool.name for tool in tools}:
            raise SpecError(f"{setup.where}: tools: two are called {loaded.name!r}.")
        tools.append(loaded)
    return tools


def _to_tool(loaded: Any, reference: str, setup: StageSetup) -> BaseTool:
    if not inspect.isroutine(loaded):
        raise SpecError(
            f"{setup.where}: tools: {reference} is a {type(loaded).__name__}.",
            hint="Name a function with type hints and a docstring, or a LangChain tool.",
        )
    try:
        if inspect.iscoroutinefunction(loaded):
            return StructuredTool.from_function(coroutine=loaded)
        return StructuredTool.from_function(loaded)
    except (ValueError, TypeError) as exc:
        raise SpecError(
            f"{setup.where}: tools: {reference} cannot be a tool: {exc}", hint="Give it type hints and a docstring."
        ) from exc


async def call(tools: Sequence[BaseTool], request: ToolCall, *, timeout_s: float, max_chars: int) -> ToolResult:
    """Run a tool call of a model and return its result, at most `max_chars` characters. An unknown tool, bad arguments
    and a failure are results for the model, too. Raises errors that are not the tool's: a wait, a fatal error, an
    interrupt."""
    tool = next((tool for tool in tools if tool.name == request["name"]), None)
    if tool is None:
        return ToolResult(f"There is no tool {request['name']!r}; there are: {', '.join(t.name for t in tools)}.", True)
    stray = [] if _takes_any(tool) else sorted(set(request["args"]) - set(tool.args))
    if stray:
        return ToolResult(f"{tool.name} takes no {stray[0]!r}; it takes: {', '.join(tool.args) or 'nothing'}.", True)
    scope = current.get()
    if scope is None:
        return await _result(tool, request["args"], timeout_s, max_chars)
    result, seconds = await _journalled(scope, tool, request["args"], timeout_s, max_chars)
    if scope.observer is not None:
        id, known = request["id"] or "", seconds is None
        scope.observer.tool_ended(
            observer.ToolCall(tool.name, id, seconds or 0.0, result.failed, known, request["args"], result.text)
        )
    return result


def _takes_any(tool: BaseTool) -> bool:
    """True for a tool of a server that does not name all of its arguments: what fits is the server's to say."""
    schema = tool.args_schema
    if not isinstance(schema, dict):
        return False
    return schema.get("additionalProperties", not schema.get("properties")) is not False


async def _journalled(
    scope: RowScope, tool: BaseTool, arguments: Mapping[str, Any], timeout_s: float, max_chars: int
) -> tuple[ToolResult, float | None]:
    """Return the result and the seconds that the tool took, None if its result was known."""
    payload = orjson.dumps([scope.run, scope.id, tool.name, arguments], option=orjson.OPT_SORT_KEYS, default=str)
    key = scope.next_key(request_digest(TOOL.encode(), payload))
    known = scope.journal.known.calls.get(key)
    if known is not None and known.raw is not None:
        return ToolResult(**orjson.loads(known.raw)), None
    if (halted := scope.halted()) is not None:
        scope.awaits_tool = True
        scope.record_failure(halted)
        raise halted
    began = time.monotonic()
    result = await _result(tool, arguments, timeout_s, max_chars)
    seconds = time.monotonic() - began
    record = CallRecord(
        request=key[0],
        ordinal=key[1],
        id=scope.id,
        model=f"{TOOL}{tool.name}",
        raw=orjson.dumps({"text": result.text, "failed": result.failed}).decode(),
        error=None,
        usage={},
        cost_usd=0.0,
        request_id=None,
        latency_ms=round(seconds * 1000),
        run=scope.run,
        batch=scope.batch,
        at=now(),
        nonce=uuid.uuid4().hex,
    )
    try:
        await scope.journal.append(record)
    except Exception as exc:
        scope.record_failure(exc)
        raise
    return result, seconds


async def _result(tool: BaseTool, arguments: Mapping[str, Any], timeout_s: float, max_chars: int) -> ToolResult:
    try:
        async with asyncio.timeout(timeout_s):
            text = _text(await tool.ainvoke(dict(arguments)))
    except ValidationError as exc:
        return ToolResult(f"{tool.name}: the arguments do not fit: {problems(exc)}", True)
    except TimeoutError:
        return ToolResult(f"{tool.name}: no result within {timeout_s:g} s", True)
    except GraphBubbleUp:
        raise
    except TandemError as exc:
        if not isinstance(exc, RowError):
            raise
        return ToolResult(f"{tool.name}: {exc.message}", True)
    except Exception as exc:  # noqa: BLE001  a tool of the user's may raise anything
        return ToolResult(f"{tool.name}: {type(exc).__name__}: {redacted(text_of(exc))}", True)
    except BaseException as exc:
        if is_row_error(exc):  # what would end a process is no news for a model
            raise as_row_error(exc) from exc
        raise
    return ToolResult(text if len(text) <= max_chars else f"{text[:max_chars]}\n… cut after {max_chars:,} characters")


def _text(value: Any) -> str:
    if isinstance(value, str):
        return value.encode("utf-8", "replace").decode()
    try:
        return orjson.dumps(value, default=str, option=orjson.OPT_NON_STR_KEYS).decode()
    except (TypeError, ValueError):
        return str(value).encode("utf-8", "replace").decode()
