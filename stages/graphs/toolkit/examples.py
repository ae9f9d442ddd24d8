"""Examples of a stage as turns of a conversation: what a row would be asked, and the answer that it should have."""

import datetime as dt
from collections.abc import Callable, Mapping
from typing import Any

import orjson
import pyarrow as pa
from langchain_core.messages import AIMessage, BaseMessage, HumanMessage

from schemas.errors import RowError, SpecError
from stages.contract import StageSetup
from stages.graphs.toolkit.prompts import Prompts
from stages.models.answers.answer_format import AnswerFormat
from stages.models.prompt_cache.prefix import common


def example_turns(
    setup: StageSetup, prompts: Prompts, form: AnswerFormat, ask: Callable[[str], str] = lambda prompt: prompt
) -> list[BaseMessage]:
    """Return the turns that come before that of a row. `ask`: makes what the model is asked of a prompt. Raises
    SpecError that names the example, counted from 1, and the field."""
    turns: list[BaseMessage] = []
    for number, example in enumerate(setup.stage.examples, start=1):
        where = f"{setup.where}: example {number}"
        try:
            prompt = prompts.text(_row(example.input, prompts.columns, setup.columns, where))
        except RowError as exc:
            raise SpecError(f"{where}: {exc.message}.") from None
        answer = orjson.dumps(_answer(example.output, form, where)).decode()
        turns += [HumanMessage(ask(prompt)), AIMessage(answer)]
    if turns and prompts.are_common:
        common(turns[-1])
    return turns


def _row(given: Mapping[str, Any], reads: frozenset[str], columns: pa.Schema, where: str) -> dict[str, Any]:
    """Return the row of an example: all columns that the prompt reads, each of its type."""
    for name in given:
        if name not in columns.names:
            raise SpecError(f"{where}: input.{name} is no column here.", hint=f"Columns: {', '.join(columns.names)}")
    if missing := sorted(reads - given.keys()):
        raise SpecError(f"{where}: input.{missing[0]} is missing, which the prompt reads.", hint="A null is null.")
    return {name: _value(value, columns.field(name).type, f"{where}: input.{name}") for name, value in given.items()}


def _value(value: Any, kind: pa.DataType, where: str) -> Any:
    try:
        if isinstance(value, str) and pa.types.is_date(kind):
            return dt.date.fromisoformat(value)
        if isinstance(value, str) and pa.types.is_timestamp(kind):
            return dt.datetime.fromisoformat(value)
        return pa.scalar(value, type=kind).as_py()
    except (ValueError, TypeError, pa.ArrowException):
        raise SpecError(f"{where} = {value!r} is not of the column's type, {kind}.") from None


def _answer(given: Mapping[str, Any], form: AnswerFormat, where: str) -> dict[str, Any]:
    if stray := [name for name in given if name not in form.fields]:
        raise SpecError(f"{where}: output.{stray[0]} is not declared.", hint=f"Outputs: {', '.join(form.fields)}")
    try:
        return form.validate(given)
    except ValueError as exc:
        raise SpecError(f"{where}: output.{exc}.") from None
