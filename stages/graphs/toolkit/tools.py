"""Tools that a model may call: those of the stage's `tools`, and no other.

A tool's result is journalled under the run and the row, so that a graph that is run again after a kill goes the same
way; other rows and other runs call it anew. A tool that the process died in is called again.
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
from stages.contract import Build
from stages.execution.row_guard import as_row_error, is_row_error
from stages.journal.records import TOOL, CallRecord, now
from stages.models.failures.errors import redacted
from stages.models.row_scope import RowScope, current, request_digest
from stages.text.exceptions import text_of
from stages.user_code import load_attribute


@dataclass(frozen=True)
class ToolResult:
    """What a call came to; `failed` with what is told to the model instead."""

    text: str
    failed: bool = False


def load_tools(wanted: Build) -> list[BaseTool]:
    """The stage's tools: LangChain tools, or functions with type hints and a docstring. Raises SpecError."""
    tools: list[BaseTool] = []
    for reference in wanted.stage.tools:
        found = load_attribute(reference, where=f"{wanted.where}: tools")
        if not isinstance(found, BaseTool):
            found = _made(found, reference, wanted)
        if found.name in {tool.name for tool in tools}:
            raise SpecError(f"{wanted.where}: tools: two are called {found.name!r}.")
        tools.append(found)
    return tools


def _made(found: Any, reference: str, wanted: Build) -> BaseTool:
    if not inspect.isroutine(found):
        raise SpecError(
            f"{wanted.where}: tools: {reference} is a {type(found).__name__}.",
            hint="Name a function with type hints and a docstring, or a LangChain tool.",
        )
    try:
        if inspect.iscoroutinefunction(found):
            return StructuredTool.from_function(coroutine=found)
        return StructuredTool.from_function(found)
    except (ValueError, TypeError) as exc:
        raise SpecError(
            f"{wanted.where}: tools: {reference} cannot be a tool: {exc}", hint="Give it type hints and a docstring."
        ) from exc


async def call(tools: Sequence[BaseTool], asked: ToolCall, *, timeout_s: float, most: int) -> ToolResult:
    """The result of what a model asked for, at most `most` characters of it. What is not allowed, does not fit or
    fails is a result, too: the model is told. Raises what is not the tool's: a wait, a fatal error, an interrupt."""
    tool = next((tool for tool in tools if tool.name == asked["name"]), None)
    if tool is None:
        return ToolResult(f"There is no tool {asked['name']!r}; there are: {', '.join(t.name for t in tools)}.", True)
    stray = sorted(set(asked["args"]) - set(tool.args))
    if stray:
        return ToolResult(f"{tool.name} takes no {stray[0]!r}; it takes: {', '.join(tool.args) or 'nothing'}.", True)
    scope = current.get()
    if scope is None:
        return await _result(tool, asked["args"], timeout_s, most)
    return await _journalled(scope, tool, asked["args"], timeout_s, most)


async def _journalled(
    scope: RowScope, tool: BaseTool, arguments: Mapping[str, Any], timeout_s: float, most: int
) -> ToolResult:
    said = orjson.dumps([scope.run, scope.id, tool.name, arguments], option=orjson.OPT_SORT_KEYS, default=str)
    key = scope.next_key(request_digest(TOOL.encode(), said))
    known = scope.journal.known.calls.get(key)
    if known is not None and known.raw is not None:
        return ToolResult(**orjson.loads(known.raw))
    if (why := scope.halted()) is not None:
        scope.failed(why)
        raise why
    began = time.monotonic()
    result = await _result(tool, arguments, timeout_s, most)
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
        latency_ms=round((time.monotonic() - began) * 1000),
        run=scope.run,
        batch=scope.batch,
        at=now(),
        nonce=uuid.uuid4().hex,
    )
    try:
        await scope.journal.append(record)
    except Exception as exc:
        scope.failed(exc)
        raise
    return result


async def _result(tool: BaseTool, arguments: Mapping[str, Any], timeout_s: float, most: int) -> ToolResult:
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
    return ToolResult(text if len(text) <= most else f"{text[:most]}\n… cut after {most:,} characters")


def _text(value: Any) -> str:
    if isinstance(value, str):
        return value.encode("utf-8", "replace").decode()
    try:
        return orjson.dumps(value, default=str, option=orjson.OPT_NON_STR_KEYS).decode()
    except (TypeError, ValueError):
        return str(value).encode("utf-8", "replace").decode()
