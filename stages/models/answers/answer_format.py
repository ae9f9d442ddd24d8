"""A model's answer as data: how it is asked for, and how it is read back."""

import re
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from typing import Annotated, Any, cast

import orjson
from langchain_core.language_models import BaseChatModel, LanguageModelInput
from langchain_core.messages import AIMessage, BaseMessage, ToolCall
from langchain_core.runnables import Runnable, RunnableBinding
from langchain_core.tools import BaseTool
from pydantic import BaseModel, BeforeValidator, ValidationError, WithJsonSchema

from schemas.errors import RowError
from schemas.spec.fields import OutputField, json_schema, problems, validator_for
from stages.models.answers.json_in_text import Found, json_values
from stages.models.answers.method import structured_method
from stages.models.answers.near_misses import coerced, mended
from stages.models.finish import CUT_OFF, WITHHELD, finish_of
from stages.models.row_scope import current

WHOLE = "$"  # among the places that were mended: the text around the answer

Ask = Callable[[list[BaseMessage]], Awaitable[AIMessage]]
Mend = Callable[[Any], Any]
Reading = tuple[dict[str, Any], list[str]]  # an answer, and the places that were mended in it


class AnswerFormat:
    """Fields (and, where the spec names one, the pydantic class that they came from) as schema and validator."""

    def __init__(
        self, fields: Mapping[str, OutputField], cls: type[BaseModel] | None, name: str, *, exact: bool = False
    ) -> None:
        """`exact`: near misses are not mended."""
        self.fields = fields
        self.exact = exact
        self._is_list = len(fields) == 1 and all(field.type == "list" for field in fields.values())
        self.schema = _strict(cls.model_json_schema()) if cls else json_schema(fields)
        self.name = re.sub(r"\W", "_", name)[:60]
        self._validator = cls or validator_for(fields)

    def asker(self, model: BaseChatModel, model_name: str, tools: Sequence[BaseTool] = ()) -> Ask:
        """Asks the model for this format in the way its provider knows; with tools, it may call them first.

        Goes to `_agenerate`, where the journal is, and not through `ainvoke`: what that adds (callbacks, tracing) is a
        third of the time that a row takes (`make bench`).
        """
        bound = self._bound(model, model_name, tools)
        assert isinstance(bound, RunnableBinding)
        target, kwargs = cast(BaseChatModel, bound.bound), dict(bound.kwargs)

        async def ask(messages: list[BaseMessage]) -> AIMessage:
            message = (await target._agenerate(messages, **kwargs)).generations[0].message
            assert isinstance(message, AIMessage)
            return message

        return ask

    def _bound(
        self, model: BaseChatModel, model_name: str, tools: Sequence[BaseTool]
    ) -> Runnable[LanguageModelInput, AIMessage]:
        if structured_method(model_name) == "json_schema":
            wanted = {"name": self.name, "schema": self.schema, "strict": True}
            answer = {"type": "json_schema", "json_schema": wanted}
            if tools:
                return model.bind_tools(tools, response_format=answer)
            return cast(Runnable[LanguageModelInput, AIMessage], model.bind(response_format=answer))
        tool = {"name": self.name, "description": "Give the answer.", "parameters": self.schema}
        answering = {"type": "function", "function": tool}
        if tools:
            return model.bind_tools([*tools, answering])
        return model.bind_tools([answering], tool_choice=self.name)

    def wants_tools(self, message: AIMessage) -> bool:
        """Whether the model calls tools rather than answer, which some providers' models do by a tool, too."""
        return bool(message.tool_calls or message.invalid_tool_calls) and not self._answers(message)

    def _answers(self, message: AIMessage) -> list[ToolCall]:
        return [call for call in message.tool_calls if call["name"] == self.name]

    def only_answer(self, message: AIMessage) -> AIMessage:
        """The message without calls of other tools."""
        return message.model_copy(update={"tool_calls": self._answers(message)})

    def read(self, message: AIMessage, mend: Mend = lambda data: data) -> dict[str, Any]:
        """The validated answer, JSON-like; `mend`, a graph's own, sees the data before it is validated. Whatever was
        mended is noted with the row. Raises RowError for a refusal or a cut-off answer, and ValueError, in words that a
        model can act on, for an answer that does not fit."""
        refusal = message.additional_kwargs.get("refusal")
        finish = finish_of(message)
        text = text_of(message)
        if refusal:
            raise RowError(f"the model refused: {str(refusal)[:300]}", kind="refusal", raw=str(refusal))
        if finish in WITHHELD:
            raise RowError("the provider's content filter withheld the answer", kind="content_filter", raw=text)
        try:
            answer, places = self._reading(message, text, mend)
        except ValueError:
            if finish in CUT_OFF:
                raise RowError(
                    "the answer was cut off at max_tokens", kind="truncated", raw=text, hint="Raise params.max_tokens."
                ) from None
            raise
        if places and (scope := current.get()) is not None:
            scope.mended.update(places)
        return answer

    def _reading(self, message: AIMessage, text: str, mend: Mend) -> Reading:
        """The answer as it stands, else as it was meant. Raises ValueError."""
        try:
            data = message.tool_calls[0]["args"] if message.tool_calls else orjson.loads(text)
        except orjson.JSONDecodeError as exc:
            return self._around(json_values(text), mend, f"the answer is not valid JSON ({exc})")
        if not isinstance(data, dict) or (data and self.fields.keys().isdisjoint(data)):
            found = Found([], []) if message.tool_calls else json_values(text)
            try:
                return self._around(found if found.values else Found([data], []), mend, "the answer is not an object")
            except ValueError:
                return self._fitting(data, mend)
        if message.tool_calls:
            return self._fitting(data, mend)
        try:
            return self._fitting(data, mend, nearly=False)
        except ValueError:
            [as_written] = json_values(text).values or [data]
            return self._fitting(as_written, mend)

    def _around(self, found: Found, mend: Mend, otherwise: str) -> Reading:
        """The one answer that a text holds. Raises ValueError where there is none, or more than one."""
        readings, why = self._readings(found.values, mend)
        if not readings:
            raise why or ValueError(otherwise)
        (answer, places), *others = readings
        drafts, _ = self._readings(found.thoughts, mend)
        if any(other != answer for other, _ in (*others, *drafts)):
            raise ValueError("it holds several different answers")
        return answer, [*places, WHOLE]

    def _readings(self, values: Sequence[Any], mend: Mend) -> tuple[list[Reading], ValueError | None]:
        readings: list[Reading] = []
        why: ValueError | None = None
        for value in values:
            for data in self._shapes(value):
                try:
                    readings.append(self._fitting(data, mend))
                except ValueError as exc:
                    why = exc
        return readings, why

    def _shapes(self, value: Any, depth: int = 0) -> Iterator[dict[str, Any]]:
        """The objects with declared names that a value may stand for: itself, the only item of a list, the only such
        value of another object, or JSON within a text."""
        inner: list[Any] = []
        if isinstance(value, dict):
            if not self.fields.keys().isdisjoint(value):
                yield value
                return
            inner = [shape for part in value.values() for shape in self._shapes(part, depth + 1)] if depth < 3 else []
        elif isinstance(value, list) and len(value) == 1 and not self._is_list and depth < 3:
            inner = list(self._shapes(value[0], depth + 1))
        elif isinstance(value, str) and depth < 3 and "{" in value:
            found = json_values(value)
            inner = [shape for part in found.values for shape in self._shapes(part, depth + 1)]
        if len(inner) == 1:
            yield inner[0]

    def _fitting(self, data: Any, mend: Mend, *, nearly: bool = True) -> Reading:
        """The answer, and the places that were mended in it. Raises ValueError."""
        if self.exact:
            answer = self.validate(data)
            if places := coerced(data, answer):
                raise ValueError(f"{places[0]}: not exactly of the declared type, or not declared, or absent")
            return answer, []
        meant = mend(data)
        try:
            answer = self.validate(meant)
        except ValueError:
            if not nearly or not isinstance(meant, Mapping):
                raise
            nearer = mended(meant, self.fields)
            if nearer == meant:
                raise
            answer, own = self.validate(nearer), nearer
        else:
            own = meant
        places = coerced(data, answer)
        if own is not data:
            places += [name for name in answer if name not in places and own.get(name) != data.get(name)]
        return answer, places

    def validate(self, data: Any) -> dict[str, Any]:
        """Declared fields only, each within its bounds, as JSON-like values. Raises ValueError."""
        try:
            return self._validator.model_validate(data).model_dump(mode="json", by_alias=True)
        except ValidationError as exc:
            raise ValueError(problems(exc)) from None


def correction(form: AnswerFormat, answer: Mapping[str, Any], column: str | None, mend: Callable[[Any], Any]) -> type:
    """What a person may say to an answer: the outputs to change, `{}` for none of them, or, where it names one, only
    the value of `column`; mended as a model's answer is. As a type for `interrupt(response_schema=…)`, which gives the
    whole answer."""

    def corrected(said: Any) -> dict[str, Any]:
        if not isinstance(said, dict):
            if column is None:
                raise ValueError(f"an object with outputs to change is wanted, not {said!r}")
            said = {column: said}
        unknown = [name for name in said if name not in form.fields]
        if unknown:
            raise ValueError(f"{unknown[0]!r} is no output; those are {', '.join(form.fields)}")
        return form.validate(mend({**answer, **said}))

    outputs = json_schema(form.fields)  # that of a class has $refs, which hold at its top only
    changes = {**outputs, "required": []}
    schema = {"anyOf": [changes, outputs["properties"][column]]} if column else changes
    return cast(type, Annotated[Any, BeforeValidator(corrected), WithJsonSchema(schema)])


def _strict(schema: Any) -> Any:
    """A class's schema as strict modes take it: every property required, no additional ones, no defaults."""
    if isinstance(schema, list):
        return [_strict(part) for part in schema]
    if not isinstance(schema, dict):
        return schema
    plain = {key: value for key, value in schema.items() if key not in ("default", "properties", "$defs")}
    out: dict[str, Any] = {key: _strict(value) for key, value in plain.items()}
    for named in ("properties", "$defs"):  # a property may be called `default`
        if named in schema:
            out[named] = {name: _strict(part) for name, part in schema[named].items()}
    if "properties" in schema:
        out |= {"required": list(schema["properties"]), "additionalProperties": False}
    return {"$ref": out["$ref"]} if "$ref" in out else out


def text_of(message: BaseMessage) -> str:
    """The text of a message, whatever else is in it."""
    content = message.content
    if isinstance(content, str):
        return content
    return "".join(part if isinstance(part, str) else str(part.get("text", "")) for part in content)


def raw_answer(message: AIMessage) -> str:
    """What the model answered, as a reject shows it: its text, or what it called its tools with."""
    arguments = [str(call["args"]) for call in (*message.tool_calls, *message.invalid_tool_calls)]
    return text_of(message) or "\n".join(arguments)
