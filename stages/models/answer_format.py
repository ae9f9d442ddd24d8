"""A model's answer as data: how it is asked for, and how it is read back."""

import re
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Annotated, Any, cast

import orjson
from langchain_core.language_models import BaseChatModel, LanguageModelInput
from langchain_core.messages import AIMessage, BaseMessage, ToolCall
from langchain_core.runnables import Runnable, RunnableBinding
from langchain_core.tools import BaseTool
from pydantic import BaseModel, BeforeValidator, ValidationError, WithJsonSchema

from schemas.errors import RowError
from schemas.spec.fields import OutputField, json_schema, problems, validator_for
from stages.models.factory import structured_method
from stages.models.wires.openai_chat import CUT_OFF, finish_of

_WITHHELD = frozenset(("content_filter", "content_filtered", "safety", "prohibited_content", "blocklist", "spii",
                       "recitation", "refusal", "guardrail_intervened"))  # fmt: skip
_FENCE = re.compile(r"^\s*```[a-zA-Z]*\s*\n?(.*?)\n?\s*```\s*$", re.S)

Ask = Callable[[list[BaseMessage]], Awaitable[AIMessage]]


class AnswerFormat:
    """Fields (and, where the spec names one, the pydantic class that they came from) as schema and validator."""

    def __init__(self, fields: Mapping[str, OutputField], cls: type[BaseModel] | None, name: str) -> None:
        self.fields = fields
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

    def read(self, message: AIMessage, mend: Callable[[Any], Any] = lambda data: data) -> dict[str, Any]:
        """The validated answer, JSON-like; `mend` sees the data before it is validated. Raises RowError for a refusal
        or a cut-off answer, and ValueError, in words that a model can act on, for an answer that does not fit."""
        refusal = message.additional_kwargs.get("refusal")
        finish = finish_of(message)
        text = _text(message)
        if refusal:
            raise RowError(f"the model refused: {str(refusal)[:300]}", kind="refusal", raw=str(refusal))
        if finish in _WITHHELD:
            raise RowError("the provider's content filter withheld the answer", kind="content_filter", raw=text)
        try:
            return self.validate(mend(message.tool_calls[0]["args"] if message.tool_calls else _json(text)))
        except ValueError:
            if finish in CUT_OFF:
                raise RowError(
                    "the answer was cut off at max_tokens", kind="truncated", raw=text, hint="Raise params.max_tokens."
                ) from None
            raise

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


def _text(message: AIMessage) -> str:
    content = message.content
    if isinstance(content, str):
        return content
    return "".join(part if isinstance(part, str) else str(part.get("text", "")) for part in content)


def said_text(message: AIMessage) -> str:
    """What the model answered, as a reject shows it: its text, or what it called its tools with."""
    arguments = [str(call["args"]) for call in (*message.tool_calls, *message.invalid_tool_calls)]
    return _text(message) or "\n".join(arguments)


def _json(text: str) -> Any:
    """JSON from a model's text: as it is, out of a code fence, or the outermost braces."""
    if match := _FENCE.match(text):
        text = match[1]
    try:
        return orjson.loads(text)
    except orjson.JSONDecodeError as exc:
        start, end = text.find("{"), text.rfind("}")
        if 0 <= start < end:
            try:
                return orjson.loads(text[start : end + 1])
            except orjson.JSONDecodeError:
                pass
        raise ValueError(f"the answer is not valid JSON ({exc})") from None
