"""Arguments of calls as LangChain's classes had them, by which earlier versions called providers that have a wire now.

They named requests by them, so answers that they stored are found under these names too.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from stages.models.chat_model import canonical_tool
from stages.models.wires.protocols.search import is_search

_ANSWERING = "Give the answer."  # the description of the tool that a model answered by
_ANTHROPIC_CHOICES = {"required": {"type": "any"}, "auto": {"type": "auto"}, "none": {"type": "none"}}
_CONVERSE_CHOICES: dict[str, dict[str, Any]] = {"required": {"any": {}}, "auto": {"auto": {}}}


def by_langchain(
    provider: str, arguments: Mapping[str, Any], answer: tuple[str, Mapping[str, Any]] | None, tools: Sequence[Any]
) -> dict[str, Any] | None:
    """Return the arguments of a call as the provider's class in LangChain had them; None for a provider that was never
    called so. `answer`: the name and schema of a declared output, which was a forced tool; `tools`: those beside it."""
    if provider not in ("anthropic", "google_genai", "google_vertexai", "bedrock_converse") or any(
        map(is_search, tools)
    ):
        return None
    rest = {name: value for name, value in arguments.items() if name not in ("tools", "tool_choice", "response_format")}
    choice: Any = arguments.get("tool_choice")
    declared = list(arguments.get("tools") or ())
    if answer is not None:
        name, schema = answer
        function = {"name": name, "description": _ANSWERING, "parameters": schema}
        declared = [*map(canonical_tool, tools), {"type": "function", "function": function}]
        choice = None if tools else {"type": "function", "function": {"name": name}}
    if not declared:
        return rest
    named = choice["function"]["name"] if isinstance(choice, Mapping) and "function" in choice else None
    match provider:
        case "anthropic":
            own = {"type": "tool", "name": named} if named else choice
            if isinstance(choice, str):
                own = _ANTHROPIC_CHOICES.get(choice, choice)
            return {
                **rest,
                "tools": list(map(_anthropic_tool, declared)),
                **({} if own is None else {"tool_choice": own}),
            }
        case "google_genai" | "google_vertexai":
            own = named or ("any" if choice == "required" else choice)
            return {**rest, "tools": declared, **({} if own is None else {"tool_choice": own})}
    own = {"tool": {"name": named}} if named else choice
    if isinstance(choice, str):
        own = _CONVERSE_CHOICES.get(choice, choice)
    return {**rest, "tools": declared, "tool_choice": own}


def _anthropic_tool(tool: Mapping[str, Any]) -> dict[str, Any]:
    function = tool.get("function")
    if function is None:
        return dict(tool)
    described = {"description": function["description"]} if "description" in function else {}
    return {"name": function["name"], "input_schema": function.get("parameters"), **described}
