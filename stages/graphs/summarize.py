"""summarize: columns from a text of any length, by map and reduce.

START → split ─ fits in one question ───────────────────────────────────────→ answer → END
          ├─ Send ─→ note (one a chunk, `parallel` at once) ─→ gather ─ fits ─→ ↑
          ↑                                                       └─ still too long: once more ─┐
          └─────────────────────────────────────────────────────────────────────────────────────┘

A chunk is at most `chunk_tokens` long and ends at a paragraph, else at a line, a sentence, a word. Notes are taken by
the role `notes` where the stage names one, else by `main`, which also writes the answer.
"""

import operator
from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, TypedDict

from langchain_core.messages import BaseMessage, HumanMessage, SystemMessage
from langgraph.graph import END, START, StateGraph
from langgraph.types import Send
from pydantic import Field

from schemas.errors import RowError
from schemas.spec.fields import OutputField
from stages.contract import GraphStage, Options, StageSetup
from stages.graphs.toolkit.assemble import GraphParts, answer_format, assemble
from stages.graphs.toolkit.prompts import Prompts
from stages.graphs.toolkit.question import Answer, ModelQuestion
from stages.models.answers.answer_format import AnswerFormat
from stages.text.chunks import chunked
from stages.text.quoting import RULE, quoted
from stages.text.tokens import tokens

VERSION = "summarize-1"
_LEVELS = 8
_NOTE = "Note down what this part of a longer text says: facts, names, numbers, decisions. Be brief and complete."
_NOTES = "The text was too long to read at once: you are given notes on its parts, in order."


class SummarizeOptions(Options):
    pacing: ClassVar[frozenset[str]] = frozenset(("parallel",))

    chunk_tokens: int = Field(default=6_000, ge=50, description="the longest text in one question, estimated")
    parallel: int = Field(default=8, ge=1, le=500, description="chunks of one row at once")


class State(TypedDict, total=False):
    """`notes` of all levels as (level, place, text); `text` is the text to read at `level`."""

    system: list[BaseMessage]
    text: str
    level: int
    notes: Annotated[list[tuple[int, int, str]], operator.add]
    answer: Answer


class Chunk(TypedDict):
    text: str
    level: int
    place: int


def build(setup: StageSetup) -> GraphStage:
    """The stage of a spec that `uses: summarize`. Raises SpecError."""
    options = setup.options(SummarizeOptions)
    form = answer_format(setup)
    prompts = Prompts(setup)
    answerer = ModelQuestion(setup, form)
    role = "notes" if "notes" in setup.stage.model else "main"
    note_taker = ModelQuestion(setup, AnswerFormat({"notes": OutputField(type="str")}, None, "notes"), role)

    def split(state: State) -> dict[str, Any]:
        return {"level": state.get("level", 0)}

    def parts(state: State) -> list[Send] | str:
        chunks = chunked(state["text"], options.chunk_tokens)
        if len(chunks) <= 1:
            return "answer"
        return [Send("note", Chunk(text=text, level=state["level"], place=place)) for place, text in enumerate(chunks)]

    async def note(state: Chunk) -> State:
        messages = [SystemMessage(f"{_NOTE}\n\n{RULE}"), HumanMessage(quoted("text", state["text"]))]
        notes = (await note_taker.answer(messages))["notes"]
        return {"notes": [(state["level"], state["place"], notes)]}

    def gather(state: State) -> State:
        level = state["level"]
        text = "\n\n".join(note for note_level, _, note in sorted(state["notes"]) if note_level == level)
        if level + 1 == _LEVELS or tokens(text) >= tokens(state["text"]):
            raise RowError("the notes on the text are no shorter than the text", kind="no_shorter")
        return {"text": text, "level": level + 1}

    async def answer(state: State) -> State:
        name = "notes" if state["level"] else "text"
        return {"answer": await answerer.answer([*state["system"], HumanMessage(quoted(name, state["text"]))])}

    def first_state(row: Mapping[str, Any]) -> dict[str, Any]:
        text = prompts.text(row)
        long = tokens(text) > options.chunk_tokens
        return {"system": prompts.system(row, *([_NOTES] if long else []), RULE), "text": text}

    builder = StateGraph(State)
    builder.add_node("split", split)
    builder.add_node("note", note, input_schema=Chunk)
    builder.add_node("gather", gather)
    builder.add_node("answer", answer)
    builder.add_edge(START, "split")
    builder.add_conditional_edges("split", parts, ["note", "answer"])
    builder.add_edge("note", "gather")
    builder.add_edge("gather", "split")
    builder.add_edge("answer", END)
    graph = builder.compile().with_config({"max_concurrency": options.parallel})
    return assemble(setup, GraphParts(VERSION, options, form, prompts, lambda: graph, first_state, calls=(1, None)))
