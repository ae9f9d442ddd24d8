"""Which keys of a stage each built-in graph and table stage needs, and which it has a use for."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

# Keys that say nothing to some stages; any other key is every stage's.
_SPECIFIC = frozenset(
    ("model", "prompt", "system", "when_empty", "output", "output_class", "query", "scope", "inputs", "outputs")
) | {"tools", "context", "coerce", "row_timeout", "blocking"}
_PROMPTED = frozenset(("model", "prompt", "system", "when_empty", "output", "output_class", "coerce", "row_timeout"))
_WHAT = {
    "output": "output: the columns that it shall write",
    "prompt": "prompt: the text that the model is given",
    "model": "model: provider:name, for example openai:gpt-5-mini",
    "query": "query: SELECT … FROM rows",
    "tools": "tools: [module:function]",
}


@dataclass(frozen=True)
class Uses:
    """`needs` must be given, `takes` may be; `roles` are the models that must be named, `may` those that may be."""

    needs: tuple[str, ...]
    takes: frozenset[str] = _PROMPTED
    roles: tuple[str, ...] = ("main",)
    may: tuple[str, ...] = ()


_ASKING = Uses(("output", "prompt", "model"))
BUILT_IN: dict[str, Uses] = {
    "extract": _ASKING,
    "classify": _ASKING,
    "summarize": Uses(_ASKING.needs, may=("notes",)),
    "cascade": Uses(_ASKING.needs, roles=("main", "cheap")),
    "agent": Uses((*_ASKING.needs, "tools"), _PROMPTED | {"tools"}),
    "judge": Uses(_ASKING.needs, may=("judge",)),
    "translate": _ASKING,
    "research": Uses(_ASKING.needs, _PROMPTED | {"tools"}, may=("sections",)),
    "embed": Uses(_ASKING.needs, _PROMPTED - {"system", "coerce"}),
    "sql": Uses(("query",), frozenset(("query", "scope")), ()),
    "checks": Uses((), frozenset(), ()),
    "sample": Uses((), frozenset(("scope",)), ()),
    "explode": Uses((), frozenset(), ()),
    "aggregate": Uses((), frozenset(("scope",)), ()),
    "dedupe": Uses((), frozenset(("scope",)), ()),
}


def complaint(uses: str, given: Mapping[str, Any]) -> str | None:
    """What is wrong with the keys that were given to a built-in stage; they are all it has that is not a default."""
    known = BUILT_IN.get(uses)
    if known is None:
        if ":" in uses and "coerce" in given:
            return "coerce belongs to built-in graphs: a graph of yours reads its models' answers itself"
        return "query belongs to uses: sql, not to a graph of yours" if ":" in uses and "query" in given else None
    for name in known.needs:
        if name not in given and not (name == "output" and "output_class" in given):
            return f"uses: {uses} needs {_WHAT[name]}"
    for role in known.roles:
        if role not in given.get("model", {}):
            wanted = ", ".join(f"{name}: provider:name" for name in known.roles)
            return f"uses: {uses} needs model: " + (
                "provider:name, for example openai:gpt-5-mini" if known.roles == ("main",) else f"{{{wanted}}}"
            )
    for role in given.get("model", {}):
        if role not in (*known.roles, *known.may):
            return f"model has no role {role!r} in uses: {uses}; it has: {', '.join((*known.roles, *known.may))}"
    stray = sorted((_SPECIFIC & set(given)) - known.takes)
    if stray:
        name = stray[0].removesuffix("_class")
        homes = [other for other, its in BUILT_IN.items() if stray[0] in its.takes]
        where = f"uses: {' or '.join(homes[:3])}" if homes else "a graph of yours"
        return f"{name} belongs to {where}, not uses: {uses}"
    return None
