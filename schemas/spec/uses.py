"""The keys that each built-in stage needs, and the keys that it may have."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from schemas.spec.tools import ToolKind, kind_of

# Keys that only some stages have; every stage has all others.
_SPECIFIC = frozenset(
    ("model", "prompt", "system", "when_empty", "output", "output_class", "query", "scope", "inputs", "outputs")
) | {"tools", "context", "coerce", "row_timeout", "blocking", "share", "cache", "examples", "citations"}
_PROMPTED = frozenset(
    ("model", "prompt", "system", "when_empty", "output", "output_class", "coerce", "row_timeout", "share", "cache")
)
_KEY_EXAMPLES = {
    "output": "output: the columns to write",
    "prompt": "prompt: the text for the model",
    "model": "model: provider:name, for example openai:gpt-5-mini",
    "query": "query: SELECT … FROM rows",
    "tools": "tools: [module:function]",
}


@dataclass(frozen=True)
class Uses:
    """The keys of a built-in stage: required `needs`, allowed `takes`; required model `roles`, and optional ones
    `may`; the kinds of `tools`."""

    needs: tuple[str, ...]
    takes: frozenset[str] = _PROMPTED
    roles: tuple[str, ...] = ("main",)
    may: tuple[str, ...] = ()
    tools: tuple[ToolKind, ...] = ()


_SHOWN = _PROMPTED | {"examples", "tools", "citations"}
_BY_PROVIDER: tuple[ToolKind, ...] = ("provider",)
_ASKING = Uses(("output", "prompt", "model"), _SHOWN, tools=_BY_PROVIDER)
BUILT_IN: dict[str, Uses] = {
    "extract": _ASKING,
    "classify": _ASKING,
    "summarize": Uses(_ASKING.needs, may=("notes",)),
    "cascade": Uses(_ASKING.needs, _SHOWN, roles=("main", "cheap"), tools=_BY_PROVIDER),
    "agent": Uses((*_ASKING.needs, "tools"), _SHOWN, tools=("function", "provider", "mcp")),
    "judge": Uses(_ASKING.needs, _SHOWN, may=("judge",), tools=_BY_PROVIDER),
    "translate": Uses(_ASKING.needs),
    "research": Uses(_ASKING.needs, _PROMPTED | {"tools"}, may=("sections",), tools=("function",)),
    "embed": Uses(_ASKING.needs, _PROMPTED - {"system", "coerce", "cache"}),
    "sql": Uses(("query",), frozenset(("query", "scope")), ()),
    "checks": Uses((), frozenset(), ()),
    "sample": Uses((), frozenset(("scope",)), ()),
    "explode": Uses((), frozenset(), ()),
    "aggregate": Uses((), frozenset(("scope",)), ()),
    "dedupe": Uses((), frozenset(("scope",)), ()),
}


def complaint(uses: str, declared: Mapping[str, Any]) -> str | None:
    """Return the first fault of a stage's keys, else None. `declared` holds all values that are not defaults."""
    known = BUILT_IN.get(uses)
    if known is None:
        if ":" in uses and (wrong := _of_own_graph(declared)) is not None:
            return wrong
        if ":" in uses and "examples" in declared:
            return "examples belongs to built-in graphs: a graph of yours writes its own messages"
        if ":" in uses and "coerce" in declared:
            return "coerce belongs to built-in graphs: a graph of yours reads its models' answers itself"
        return "query belongs to uses: sql, not to a graph of yours" if ":" in uses and "query" in declared else None
    for name in known.needs:
        if name not in declared and not (name == "output" and "output_class" in declared):
            return f"uses: {uses} needs {_KEY_EXAMPLES[name]}"
    for role in known.roles:
        if role not in declared.get("model", {}):
            example = ", ".join(f"{name}: provider:name" for name in known.roles)
            return f"uses: {uses} needs model: " + (
                "provider:name, for example openai:gpt-5-mini" if known.roles == ("main",) else f"{{{example}}}"
            )
    for role in declared.get("model", {}):
        if role not in (*known.roles, *known.may):
            return f"model has no role {role!r} in uses: {uses}; it has: {', '.join((*known.roles, *known.may))}"
    stray = sorted((_SPECIFIC & set(declared)) - known.takes)
    if stray:
        name = stray[0].removesuffix("_class")
        homes = [other for other, its in BUILT_IN.items() if stray[0] in its.takes]
        stages = f"uses: {' or '.join(homes[:3])}" if homes else "a graph of yours"
        return f"{name} belongs to {stages}, not uses: {uses}"
    return _of_tools(uses, known, declared)


def _of_own_graph(declared: Mapping[str, Any]) -> str | None:
    if "citations" in declared:
        return "citations belongs to built-in graphs: a graph of yours reads its models' answers itself"
    for tool in declared.get("tools", ()):
        if kind_of(tool) == "mcp":
            return f"tools: {tool} goes with uses: agent: a graph of yours opens a session with the server itself"
        if kind_of(tool) == "provider":
            return (
                f"tools: {tool} goes with built-in graphs: in a graph of yours write "
                'model.bind_tools([{"type": "web_search"}])'
            )
    return None


_KINDS: dict[ToolKind, str] = {
    "function": "functions of yours (module:function)",
    "provider": "tools that the provider runs (provider:web_search)",
    "mcp": "MCP servers (mcp:NAME)",
}


def _of_tools(uses: str, known: Uses, declared: Mapping[str, Any]) -> str | None:
    for tool in declared.get("tools", ()):
        if kind_of(tool) not in known.tools:
            homes = [other for other, its in BUILT_IN.items() if kind_of(tool) in its.tools]
            kinds = " and ".join(_KINDS[kind] for kind in known.tools)
            return f"tools: {tool} goes with uses: {' or '.join(homes[:3])}; uses: {uses} takes {kinds}"
    if "citations" in declared and not any(kind_of(tool) == "provider" for tool in declared.get("tools", ())):
        return "citations needs tools: [provider:web_search], whose sources it keeps"
    return None
