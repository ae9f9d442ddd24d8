"""A model's answer as data: how to request it, and how to read it."""

import re
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from typing import Annotated, Any, cast

import orjson
from langchain_core.messages import AIMessage, BaseMessage, ToolCall
from pydantic import BaseModel, BeforeValidator, ValidationError, WithJsonSchema

from schemas.errors import RowError
from schemas.spec.fields import OutputField, json_schema, problems, validator_for
from stages.models import callbacks
from stages.models.answers.json_in_text import Found, json_values
from stages.models.answers.method import structured_method
from stages.models.answers.near_misses import coerced, mended
from stages.models.asked import Declared, OneOfSeveral, TakesSettings, settings_of
from stages.models.chat_model import AnyChatModel, arguments_with_tools
from stages.models.finish import CUT_OFF, WITHHELD, finish_of
from stages.models.logprobs import LOGPROBS
from stages.models.row.scope import current
from stages.models.wires.protocols.search import CITATIONS

WHOLE = "$"  # the corrected place that stands for text around the answer

Ask = Callable[[list[BaseMessage]], Awaitable[AIMessage]]
Mend = Callable[[Any], Any]
AnyTool = Any  # one of LangChain's, or one that the provider runs, as a dict in its canonical form
Reading = tuple[dict[str, Any], list[str]]  # an answer, and the places that were mended in it


class AnswerFormat:
    """Fields (and, where the spec names one, the pydantic class that they came from) as schema and validator."""

    def __init__(
        self, fields: Mapping[str, OutputField], cls: type[BaseModel] | None, name: str, *, exact: bool = False
    ) -> None:
        """`exact`: near misses are not corrected."""
        self.fields = fields
        self.exact = exact
        self._is_list = len(fields) == 1 and all(field.type == "list" for field in fields.values())
        self.schema = _strict(cls.model_json_schema()) if cls else json_schema(fields)
        self.name = re.sub(r"\W", "_", name)[:60]
        self._validator = cls or validator_for(fields)

    def asker(
        self,
        model: AnyChatModel,
        model_name: str,
        tools: Sequence[AnyTool] = (),
        *,
        logprobs: bool = False,
        citations: bool = False,
    ) -> Ask:
        """Return a function that calls the model for this format, as its provider needs; with tools, the model may call
        them first; `logprobs`: it is asked for log-probabilities, too; `citations`: it is to name its sources.

        It goes to `_agenerate`, where the journal is, and not through `ainvoke`: what that adds (callbacks, tracing) is
        a third of the time that a row takes (`make bench`), so it is done where somebody listens.
        """
        declared = Declared(self.name, self.schema, tools)

        def arguments(model: AnyChatModel) -> dict[str, Any]:
            name = model.spec_name if isinstance(model, TakesSettings) else model_name
            kwargs = {**self._told(model, name, tools), **({LOGPROBS: True} if logprobs else {})}
            if citations:
                kwargs[CITATIONS] = True
            if isinstance(model, TakesSettings):
                kwargs["settings"] = settings_of(None, kwargs, declared, name.partition(":")[0])
            return kwargs

        if isinstance(model, OneOfSeveral):
            kwargs: dict[str, Any] = {"each": [arguments(one) for one in model.members]}
        else:
            kwargs = arguments(model)

        async def ask(messages: list[BaseMessage]) -> AIMessage:
            scope = current.get()
            if scope is not None and scope.heard:
                result = await callbacks.generate(model, messages, kwargs)
            else:
                result = await model._agenerate(messages, **kwargs)
            message = result.generations[0].message
            assert isinstance(message, AIMessage)
            return message

        return ask

    def _told(self, model: AnyChatModel, model_name: str, tools: Sequence[AnyTool]) -> dict[str, Any]:
        """Return the arguments of a request by which its provider is told of the format and the tools."""
        if structured_method(model_name) == "json_schema":
            declaration = {"name": self.name, "schema": self.schema, "strict": True}
            answer = {"type": "json_schema", "json_schema": declaration}
            told = {"response_format": answer}
            return arguments_with_tools(model, tools, **told) if tools else told
        tool = {"name": self.name, "description": "Give the answer.", "parameters": self.schema}
        answering = {"type": "function", "function": tool}
        if tools:
            return arguments_with_tools(model, [*tools, answering])
        return arguments_with_tools(model, [answering], tool_choice=self.name)

    def wants_tools(self, message: AIMessage) -> bool:
        """True if the model calls tools instead of answering (some providers' models answer by a tool, too)."""
        return bool(message.tool_calls or message.invalid_tool_calls) and not self._answers(message)

    def _answers(self, message: AIMessage) -> list[ToolCall]:
        return [call for call in message.tool_calls if call["name"] == self.name]

    def only_answer(self, message: AIMessage) -> AIMessage:
        """Return the message without calls of other tools."""
        return message.model_copy(update={"tool_calls": self._answers(message)})

    def read(self, message: AIMessage, mend: Mend = lambda data: data) -> dict[str, Any]:
        """Return the validated answer, JSON-like; `mend`, of the graph, changes the data before validation. Corrected
        places are noted with the row. Raises RowError for a refusal or a cut-off answer, and ValueError, with a message
        for the model, for an answer that does not fit."""
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
                raise _cut_off(message, text) from None
            raise
        if places and (scope := current.get()) is not None:
            scope.mended.update(places)
        return answer

    def _reading(self, message: AIMessage, text: str, mend: Mend) -> Reading:
        """Return the answer as it stands, else corrected. Raises ValueError."""
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
        """Return the only answer in a text. Raises ValueError if there is none, or more than one."""
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
        """Yield the objects with declared names that a value may stand for: itself, the only item of a list, the only
        such value of another object, or JSON within a text."""
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
        """Return the answer, and the places that were corrected in it. Raises ValueError."""
        if self.exact:
            answer = self.validate(data)
            if places := coerced(data, answer):
                raise ValueError(f"{places[0]}: not exactly of the declared type, or not declared, or absent")
            return answer, []
        own_data = mend(data)
        try:
            answer = self.validate(own_data)
        except ValueError:
            if not nearly or not isinstance(own_data, Mapping):
                raise
            nearer = mended(own_data, self.fields)
            if nearer == own_data:
                raise
            answer, own = self.validate(nearer), nearer
        else:
            own = own_data
        places = coerced(data, answer)
        if own is not data:
            places += [name for name in answer if name not in places and own.get(name) != data.get(name)]
        return answer, places

    def validate(self, data: Any) -> dict[str, Any]:
        """Return declared fields only, each within its bounds, as JSON-like values. Raises ValueError."""
        try:
            return self._validator.model_validate(data).model_dump(mode="json", by_alias=True)
        except ValidationError as exc:
            raise ValueError(problems(exc)) from None


def _cut_off(message: AIMessage, text: str) -> RowError:
    """Return the error of an answer that its cap has cut off: in the answer, or before it, while the model thought."""
    usage = message.usage_metadata
    thought = (usage.get("output_token_details") or {}).get("reasoning", 0) if usage else 0
    wrote = usage["output_tokens"] if usage else 0
    hint = "Raise params.max_tokens, or set reasoning: {effort: low}."
    if (thought or _thinks(message)) and not text.strip():
        after = f", after {thought:,} tokens" if thought else ""
        sentence = f"max_tokens was used up before the answer: the model was still thinking{after}"
        return RowError(sentence, kind="truncated_thinking", hint=hint)
    if 2 * thought > wrote:
        sentence = f"the answer was cut off at max_tokens, of which {thought:,} of {wrote:,} tokens were thoughts"
        return RowError(sentence, kind="truncated_thinking", raw=text, hint=hint)
    return RowError("the answer was cut off at max_tokens", kind="truncated", raw=text, hint="Raise params.max_tokens.")


def _thinks(message: AIMessage) -> bool:
    parts = message.content if isinstance(message.content, list) else []
    return any(isinstance(part, dict) and part.get("type") in ("thinking", "redacted_thinking") for part in parts)


def correction(form: AnswerFormat, answer: Mapping[str, Any], column: str | None, mend: Callable[[Any], Any]) -> type:
    """Return the type of a person's reply, for `interrupt(response_schema=…)`: the outputs to change, `{}` for none, or
    just the value of `column`, if set. Validation corrects it like a model's answer and gives the whole answer."""

    def corrected(changes: Any) -> dict[str, Any]:
        if not isinstance(changes, dict):
            if column is None:
                raise ValueError(f"expected an object with the outputs to change, not {changes!r}")
            changes = {column: changes}
        unknown = [name for name in changes if name not in form.fields]
        if unknown:
            raise ValueError(f"{unknown[0]!r} is no output; outputs: {', '.join(form.fields)}")
        return form.validate(mend({**answer, **changes}))

    outputs = json_schema(form.fields)  # that of a class has $refs, which hold at its top only
    changes = {**outputs, "required": []}
    schema = {"anyOf": [changes, outputs["properties"][column]]} if column else changes
    return cast(type, Annotated[Any, BeforeValidator(corrected), WithJsonSchema(schema)])


def _strict(schema: Any) -> Any:
    """Return a class's schema for strict modes: every property required, no additional ones, no defaults."""
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
    """Return the text of a message, without its other parts."""
    content = message.content
    if isinstance(content, str):
        return content
    return "".join(part if isinstance(part, str) else str(part.get("text", "")) for part in content)


def raw_answer(message: AIMessage) -> str:
    """Return the answer as a reject shows it: its text, or the arguments of its tool calls."""
    arguments = [str(call["args"]) for call in (*message.tool_calls, *message.invalid_tool_calls)]
    return text_of(message) or "\n".join(arguments)
