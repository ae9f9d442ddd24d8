"""translate: a text of any length into another language; terms, links and placeholders are kept.

START → split ─ Send ─→ translate (one a chunk, `parallel` at once) → join → END
                          ↑    └─ a term or something to keep is missing: repair ─┐
                          └───────────────────────────────────────────────────────┘   at most twice, then rejected

Chunks end at paragraphs where they can, and the white space between them stays as it was. Each translation is checked:
the glossary's words, and whatever `keep` matches (links and {placeholders} by default), must be in it.
"""

import operator
import re
from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, TypedDict

from langchain_core.messages import BaseMessage, HumanMessage
from langgraph.graph import END, START, StateGraph
from langgraph.types import Send
from pydantic import Field, field_validator

from schemas.errors import SpecError
from schemas.spec.fields import OutputField
from stages.contract import GraphStage, Options, StageSetup
from stages.graphs.toolkit.assemble import GraphParts, answer_format, assemble
from stages.graphs.toolkit.prompts import Prompts
from stages.graphs.toolkit.question import Answer, ModelQuestion
from stages.models.answers.answer_format import AnswerFormat
from stages.text.chunks import chunked
from stages.text.quoting import RULE, quoted

VERSION = "translate-1"
_KEEP = [r"https?://[^\s<>\"')\]]*[^\s<>\"')\].,;:!?]", r"\{\{?[\w.]+\}?\}"]


class TranslateOptions(Options):
    pacing: ClassVar[frozenset[str]] = frozenset(("parallel",))

    to: str = Field(min_length=1, description="the language, as you would name it")
    source: str | None = Field(default=None, description="the language of the text; default: whatever it is")
    glossary: dict[str, str] = Field(default={}, description="word: the word to use for it")
    keep: list[str] = Field(default=_KEEP, description="regular expressions of what is not translated")
    chunk_tokens: int = Field(default=1_500, ge=20, description="the longest text in one question, estimated")
    parallel: int = Field(default=8, ge=1, le=500, description="chunks of one row at once")

    @field_validator("keep")
    @classmethod
    def _expressions(cls, value: list[str]) -> list[str]:
        for expression in value:
            try:
                re.compile(expression)
            except re.error as exc:
                raise ValueError(f"{expression!r} is no regular expression: {exc}") from None
        return value


class State(TypedDict, total=False):
    """`done` as (place, translation with the white space around it)."""

    system: list[BaseMessage]
    text: str
    done: Annotated[list[tuple[int, str]], operator.add]


class Chunk(TypedDict):
    system: list[BaseMessage]
    text: str
    place: int


def build(setup: StageSetup) -> GraphStage:
    """The stage of a spec that `uses: translate`. Raises SpecError."""
    options = setup.options(TranslateOptions)
    form = answer_format(setup)
    column = _column(setup, form.fields)
    prompts = Prompts(setup)
    question = ModelQuestion(setup, AnswerFormat({"translation": OutputField(type="str")}, None, "translation"))
    instructions = _instructions(options)

    def parts(state: State) -> list[Send]:
        chunks = chunked(state["text"], options.chunk_tokens) or [""]
        return [Send("translate", Chunk(system=state["system"], text=text, place=n)) for n, text in enumerate(chunks)]

    async def translate(state: Chunk) -> State:
        text = state["text"].strip()
        if not text:
            return {"done": [(state["place"], state["text"])]}
        messages = [*state["system"], HumanMessage(quoted("text", text))]
        answer = await question.answer(messages, lambda found: _check(found, text, options))
        before, _, after = state["text"].partition(text)
        return {"done": [(state["place"], before + answer["translation"].strip() + after)]}

    def first_state(row: Mapping[str, Any]) -> dict[str, Any]:
        return {"system": prompts.system(row, instructions, RULE), "text": prompts.text(row)}

    def output_of(state: Mapping[str, Any]) -> Answer:
        return form.validate({column: "".join(text for _, text in sorted(state["done"]))})

    builder = StateGraph(State)
    builder.add_node("split", lambda state: {})
    builder.add_node("translate", translate, input_schema=Chunk)
    builder.add_edge(START, "split")
    builder.add_conditional_edges("split", parts, ["translate"])
    builder.add_edge("translate", END)
    graph = builder.compile().with_config({"max_concurrency": options.parallel})
    return assemble(
        setup, GraphParts(VERSION, options, form, prompts, lambda: graph, first_state, output_of, calls=(1, None))
    )


def _column(setup: StageSetup, fields: Mapping[str, OutputField]) -> str:
    if [declared.type for declared in fields.values()] != ["str"]:
        raise SpecError(
            f"{setup.where}: uses: translate needs one output, of type str.", hint="Write output: {translation: str}."
        )
    return next(iter(fields))


def _instructions(options: TranslateOptions) -> str:
    source = f" from {options.source}" if options.source else ""
    instructions = f"Translate the text{source} into {options.to}. Keep its form: paragraphs, lists, mark-up."
    if options.glossary:
        terms = "\n".join(f"- {term}: {word}" for term, word in options.glossary.items())
        instructions += f"\nUse these words:\n{terms}"
    return instructions + ("\nLeave links and placeholders as they are." if options.keep else "")


def _check(answer: Answer, text: str, options: TranslateOptions) -> Answer:
    """Return the answer if it is complete. Raises ValueError that names what is missing."""
    translation = answer["translation"]
    if not translation.strip():
        raise ValueError("the translation is empty")
    required = dict.fromkeys(found[0] for expression in options.keep for found in re.finditer(expression, text))
    missing = [part for part in required if part not in translation]
    if missing:
        raise ValueError(f"these must stay as they are: {', '.join(missing[:5])}")
    for term, word in options.glossary.items():
        in_text = re.search(rf"(?<!\w){re.escape(term)}(?!\w)", text, re.I)
        if in_text and word.casefold() not in translation.casefold():
            raise ValueError(f"{term!r} must be translated as {word!r}")
    return answer
