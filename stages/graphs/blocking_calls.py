"""Calls in a user's async nodes that would block the worker, found in their source before any row is run."""

import ast
import inspect
import textwrap
from collections.abc import Iterator, Mapping
from typing import Any

from langchain_core.runnables import RunnableBinding
from langgraph.pregel import Pregel

from stages.models.calls import Journalled
from stages.models.langchain.face import LangChainModel

_BLOCKING = frozenset(("invoke", "stream", "batch"))


def blocking_calls(graph: Pregel[Any, Any, Any, Any]) -> Iterator[tuple[str, str, int]]:
    """Yield node, call and line of the module, for each blocking call of a stage's model. If the source is not
    available, or the model cannot be traced in it, the call is refused when it is made."""
    for name, node in graph.nodes.items():
        function = getattr(node.bound, "afunc", None)
        function = getattr(function, "__func__", function)
        if function is None or not inspect.iscoroutinefunction(function):
            continue
        try:
            lines, first = inspect.getsourcelines(function)
            tree = ast.parse(textwrap.dedent("".join(lines)))
            seen = inspect.getclosurevars(function)
        except (OSError, TypeError, SyntaxError, ValueError):
            continue
        ours = {name for name, value in {**seen.globals, **seen.nonlocals}.items() if _is_ours(value)}
        for call in _calls(tree.body[0], ours):
            yield name, ast.unparse(call.func), first + call.lineno - 1


def _is_ours(value: Any) -> bool:
    if isinstance(value, Mapping):
        return any(_is_ours(item) for item in value.values())
    if isinstance(value, RunnableBinding):
        return _is_ours(value.bound)
    return isinstance(value, Journalled | LangChainModel)


def _calls(function: ast.AST, ours: set[str]) -> Iterator[ast.Call]:
    """Yield blocking calls in the order of the source; `ours` grows by names that are assigned one of our models.
    Nested functions are skipped: they run elsewhere."""
    for node in ast.iter_child_nodes(function):
        if isinstance(node, ast.FunctionDef | ast.Lambda | ast.ClassDef):
            continue
        if isinstance(node, ast.Assign) and _leads_to_model(node.value, ours):
            ours.update(target.id for target in node.targets if isinstance(target, ast.Name))
        called = node.func if isinstance(node, ast.Call) else None
        if isinstance(called, ast.Attribute) and called.attr in _BLOCKING and _leads_to_model(called.value, ours):
            assert isinstance(node, ast.Call)
            yield node
        yield from _calls(node, ours)


def _leads_to_model(expression: ast.AST, ours: set[str]) -> bool:
    """True for `model`, `models["main"]`, `runtime.context.model`, `runtime.context["model"].bind_tools(…)`."""
    if isinstance(expression, ast.Name):
        return expression.id in ours
    if isinstance(expression, ast.Call):
        method = expression.func
        if not isinstance(method, ast.Attribute) or method.attr.startswith("a") or method.attr in _BLOCKING:
            return False
        return _leads_to_model(method.value, ours)
    if isinstance(expression, ast.Attribute):
        return expression.attr in ("model", "models") and _is_context(expression.value)
    if isinstance(expression, ast.Subscript):
        key = expression.slice.value if isinstance(expression.slice, ast.Constant) else None
        return (key in ("model", "models") and _is_context(expression.value)) or _leads_to_model(expression.value, ours)
    return False


def _is_context(expression: ast.AST) -> bool:
    return isinstance(expression, ast.Attribute) and expression.attr == "context"
