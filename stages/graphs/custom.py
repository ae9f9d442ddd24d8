"""Any LangGraph graph of the user's, as `module:attribute`: compiled, a builder, or a factory. It runs unchanged.

Columns are mapped to state keys by `inputs` and back by `outputs`; models by role, tools and settings reach the graph
through LangGraph's runtime context, or a factory's parameters of those names.
"""

import asyncio
import dataclasses
import inspect
from collections.abc import Awaitable, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Literal

from langchain_core.messages import AIMessage, BaseMessage
from langchain_core.runnables import RunnableConfig
from langgraph.graph import StateGraph
from langgraph.pregel import Pregel
from pydantic import BaseModel, PydanticUserError, ValidationError

from schemas.digests import digest
from schemas.errors import RowError, SpecError
from schemas.manifest import Provenance
from schemas.spec.fields import OutputField, problems
from stages.contract import Answered, GraphStage, StageSetup, check_outputs
from stages.graphs.blocking_calls import blocking_calls
from stages.graphs.toolkit.assemble import answer_format, limiter_of
from stages.models.answers.answer_format import text_of
from stages.models.factory import build_model
from stages.models.langchain.face import as_langchain
from stages.process_state import restoring_process_state
from stages.stage_digests import stage_fingerprint
from stages.user_code import code_digest, load_attribute, user_code_error

VERSION = "custom-1"


def build(setup: StageSetup) -> GraphStage:
    """The stage of a spec that uses a graph of the user's. Raises SpecError."""
    stage = setup.stage
    if stage.options:
        raise SpecError(f"{setup.where}: with is for built-in graphs.", hint="Give a graph of yours its context.")
    built = {role: build_model(choice, stage, setup.spec, setup.services) for role, choice in stage.model.items()}
    models = {role: as_langchain(model) for role, model in built.items()}
    tools = [load_attribute(tool, where=f"{setup.where}: tools") for tool in stage.tools]
    context = {**stage.context, "models": models, "tools": tools}
    if "main" in models:
        context["model"] = models["main"]
    graph = _compiled(load_attribute(stage.uses, where=setup.where), setup, context)
    if not stage.output and not stage.output_class:
        raise SpecError(f"{setup.where}: output is missing.", hint="Declare the columns that the graph writes.")
    form = answer_format(setup)
    check_outputs(setup, form.fields)
    inputs = _inputs(setup, graph)
    outputs = _outputs(setup, graph, form.fields)

    def prepare(row: Mapping[str, Any]) -> dict[str, Any] | Answered:
        return {key: row[column] for key, column in inputs.items()}

    def read_output(state: Mapping[str, Any]) -> dict[str, Any]:
        if not isinstance(state, Mapping):
            raise RowError(f"the graph ended with {type(state).__name__}, not with a state", kind="missing_output")
        missing = [key for column, key in outputs.items() if key not in state and not form.fields[column].optional]
        if missing:
            raise RowError(f"the graph ended without {missing[0]!r} in its state", kind="missing_output")
        try:
            return form.validate(
                {column: _value(state.get(key), form.fields[column]) for column, key in outputs.items()}
            )
        except ValueError as exc:
            raise RowError(f"the graph's output does not fit: {exc}", kind="invalid_output") from None

    return GraphStage(
        spec=stage,
        reads=tuple(sorted(set(inputs.values()))),
        fields=form.fields,
        fingerprint=stage_fingerprint(setup, VERSION, form),
        build_graph=lambda: graph,
        prepare=prepare,
        output_of=read_output,
        provenance=Provenance(
            stage=stage.name,
            uses=stage.uses,
            models={role: choice.name for role, choice in stage.model.items()},
            code_digest=digest(code_digest(stage.uses), *(code_digest(tool) for tool in stage.tools)),
        ),
        limiter=limiter_of(setup),
        context=_runtime_context(setup, graph, context),
    )


def is_factory(found: Any) -> bool:
    """True for a function, or another callable, that returns a graph."""
    return inspect.isroutine(found) or (callable(found) and not isinstance(found, Pregel | StateGraph))


def _compiled(found: Any, setup: StageSetup, context: Mapping[str, Any]) -> Pregel[Any, Any, Any, Any]:
    if is_factory(found):
        try:
            with restoring_process_state():
                found = found(**_parameters(found, context))
                if inspect.isawaitable(found):
                    found = _awaited(found)
        except BaseException as exc:
            hint = f"A factory may take: config, {', '.join(context)}"
            raise user_code_error(exc, f"{setup.where}: calling {setup.stage.uses}", hint=hint) from exc
    if isinstance(found, StateGraph):
        found = found.compile()
    if not isinstance(found, Pregel):
        raise SpecError(
            f"{setup.where}: {setup.stage.uses} is a {type(found).__name__}, not a LangGraph graph.",
            hint="Name a compiled graph, a StateGraph, or a function that returns one.",
        )
    stops = [*found.interrupt_before_nodes, *found.interrupt_after_nodes]
    if stops:
        raise SpecError(
            f"{setup.where}: {setup.stage.uses} is compiled to stop at {stops[0]!r}, and nothing would resume it.",
            hint="Compile it without interrupt_before and interrupt_after.",
        )
    _refuse_retries(found, setup)
    for node, call, line in blocking_calls(found):
        raise SpecError(
            f"{setup.where}: {setup.stage.uses}: the async node {node!r} calls {call} (line {line}), which would "
            "block the worker.",
            hint=f"Write: await {call.rpartition('.')[0]}.a{call.rpartition('.')[2]}(…), or make the node a plain def.",
        )
    # A checkpointer per row would keep every state of every row; what must last is in the journal.
    return found.copy({"checkpointer": None}) if found.checkpointer else found


def _parameters(factory: Any, context: Mapping[str, Any]) -> dict[str, Any]:
    """Return a factory's arguments: values of the context by name, and LangGraph's config, which also holds them."""
    accepted = inspect.signature(factory).parameters
    arguments = {name: value for name, value in context.items() if name in accepted}
    config: RunnableConfig = {"configurable": dict(context), "metadata": {}, "tags": []}
    unfilled = [
        name for name, parameter in accepted.items()
        if name not in arguments and parameter.default is parameter.empty
        and parameter.kind in (parameter.POSITIONAL_OR_KEYWORD, parameter.KEYWORD_ONLY)
    ]  # fmt: skip
    if "config" in accepted and "config" not in arguments:
        arguments["config"] = config
    elif len(unfilled) == 1 and "RunnableConfig" in str(accepted[unfilled[0]].annotation):
        arguments[unfilled[0]] = config
    return arguments


def _awaited(found: Awaitable[Any]) -> Any:
    """Return the result of an async factory. In a thread, because this thread's loop may be running."""

    async def once() -> Any:
        return await found

    with ThreadPoolExecutor(1) as thread:
        return thread.submit(asyncio.run, once()).result()


def _refuse_retries(graph: Pregel[Any, Any, Any, Any], setup: StageSetup) -> None:
    """Refuse RetryPolicies: a node that runs again calls its models again, and each call is paid for. Only one layer
    retries."""
    for name, node in graph.nodes.items():
        if node.retry_policy or graph.retry_policy:
            raise SpecError(
                f"{setup.where}: {setup.stage.uses}: the node {name!r} has a RetryPolicy, under which a node that "
                "failed would call its models again and pay for each attempt.",
                hint="Leave it out: failed model calls are retried below the graph; retry other things inside a node.",
            )
    for _, inner in graph.get_subgraphs():
        if isinstance(inner, Pregel):
            _refuse_retries(inner, setup)


def _inputs(setup: StageSetup, graph: Pregel[Any, Any, Any, Any]) -> dict[str, str]:
    """Return state key → column."""
    columns = setup.columns.names
    for key, column in setup.stage.inputs.items():
        if column not in columns:
            raise SpecError(
                f"{setup.where}: inputs.{key} names {column!r}, which is no column here.",
                hint=f"Columns: {', '.join(columns)}",
            )
    keys = _keys(graph, "input")
    if setup.stage.inputs:
        unknown = [key for key in setup.stage.inputs if keys and key not in keys]
        if unknown:
            raise SpecError(
                f"{setup.where}: inputs.{unknown[0]} is no key of the graph's input.",
                hint=f"It has: {', '.join(keys)}",
            )
        return dict(setup.stage.inputs)
    matching = {key: key for key in keys if key in columns}
    if not matching:
        raise SpecError(
            f"{setup.where}: no column has the name of a key of the graph's input ({', '.join(keys) or 'unknown'}).",
            hint="Map them with inputs: {state_key: column}.",
        )
    return matching


def _outputs(setup: StageSetup, graph: Pregel[Any, Any, Any, Any], fields: Mapping[str, Any]) -> dict[str, str]:
    """Return column → state key."""
    outputs = {column: setup.stage.outputs.get(column, column) for column in fields}
    stray = sorted(set(setup.stage.outputs) - set(fields))
    if stray:
        raise SpecError(f"{setup.where}: outputs.{stray[0]} is not declared under output.")
    keys = _keys(graph, "output")
    for column, key in outputs.items():
        if keys and key not in keys:
            raise SpecError(
                f"{setup.where}: the graph's output has no {key!r}, which output.{column} declares.",
                hint=f"It has: {', '.join(keys)}. Map others with outputs: {{{column}: state_key}}.",
            )
    return outputs


def _keys(graph: Pregel[Any, Any, Any, Any], side: Literal["input", "output"]) -> list[str]:
    """Return the keys of a graph's input or output; none if the graph declares none.

    Of a state graph, channels are read, not the JSON schema: pydantic makes none of `typing.TypedDict` before Python
    3.12, nor of arbitrary classes.
    """
    builder = getattr(graph, "builder", None)
    if isinstance(builder, StateGraph):
        channels = builder.schemas.get(getattr(builder, f"{side}_schema"), {})
        return [key for key in channels if not key.startswith("__")]
    try:
        schema = graph.get_input_jsonschema() if side == "input" else graph.get_output_jsonschema()
    except PydanticUserError:
        return []
    return list(schema.get("properties", {}))


def _runtime_context(setup: StageSetup, graph: Pregel[Any, Any, Any, Any], values: Mapping[str, Any]) -> Any:
    """Fill the graph's context schema with the values that it has fields for; a graph without a schema gets all values
    in a dictionary."""
    schema: Any = graph.context_schema
    if schema is None:
        return dict(values)
    if dataclasses.is_dataclass(schema):
        names = {f.name for f in dataclasses.fields(schema) if f.init}
    elif isinstance(schema, type) and issubclass(schema, BaseModel):
        names = set(schema.model_fields)
    else:
        return {name: values[name] for name in getattr(schema, "__annotations__", {}) if name in values}
    try:
        return schema(**{name: value for name, value in values.items() if name in names})
    except (TypeError, ValueError) as exc:
        why = problems(exc) if isinstance(exc, ValidationError) else str(exc)
        raise SpecError(
            f"{setup.where}: the graph's context {schema.__name__} cannot be filled: {why}.",
            hint=f"Available: {', '.join(values)}; add missing values under context.",
        ) from exc


def _value(value: Any, field: OutputField) -> Any:
    """Return a value of the state as JSON types; of messages, if the output is no list and no object, the text of the
    last that the model wrote."""
    if field.type not in ("list", "fields"):
        messages = value if isinstance(value, list) else [value]
        if messages and all(isinstance(message, BaseMessage) for message in messages):
            from_model = [message for message in messages if isinstance(message, AIMessage)] or messages
            return text_of(from_model[-1])
    return _plain(value)


def _plain(value: Any) -> Any:
    """Convert a value to JSON types at every depth: graphs keep pydantic objects and dataclasses in their state."""
    if isinstance(value, BaseModel):
        return value.model_dump(mode="json")
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {f.name: _plain(getattr(value, f.name)) for f in dataclasses.fields(value)}
    if isinstance(value, Mapping):
        return {key: _plain(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [_plain(inner) for inner in value]
    return value
