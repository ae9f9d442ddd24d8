"""classify: labels out of a closed list.

START → ask → check ─ a label, or labels, of the list → sure enough? ─ yes ─→ END
          ↑      └─ another word: repair, at most twice       └─ no: the fallback label, or null, or a person → END
          └────────────────────────────────────┘

The labels are the values of the output that is an enum (one label) or list[enum] (several). `" Billing."` is `billing`
without a second call.
"""

import re
from collections.abc import Mapping
from typing import Any

from langchain_core.messages import HumanMessage
from pydantic import Field

from schemas.errors import SpecError
from schemas.spec.fields import OutputField
from stages.contract import GraphStage, Options, StageSetup
from stages.graphs.toolkit.assemble import GraphParts, answer_format, assemble
from stages.graphs.toolkit.confidence import Confidence, column_of, doubt_of, sureness_of
from stages.graphs.toolkit.examples import example_turns
from stages.graphs.toolkit.prompts import Prompts
from stages.graphs.toolkit.provider_tools import citations_of, column_of_citations, provider_tools
from stages.graphs.toolkit.question import Answer, Doubt, ModelQuestion, question_graph
from stages.text.quoting import RULE, quoted

VERSION = "classify-1"


class ClassifyOptions(Options):
    label: str | None = Field(default=None, description="the output that holds the label, where several could")
    labels: dict[str, str] = Field(default={}, description="label: what it means")
    confidence: Confidence | None = Field(default=None, description="the column that says how sure the model is")
    below: float | None = Field(default=None, ge=0, le=1, description="less sure than this: the fallback")
    ask_below: float | None = Field(default=None, ge=0, le=1, description="less sure than this: a person is asked")
    fallback: str | None = Field(default=None, description="a label; null leaves the label empty")


def build(setup: StageSetup) -> GraphStage:
    """The stage of a spec that `uses: classify`. Raises SpecError."""
    options = setup.options(ClassifyOptions)
    form = answer_format(setup)
    column, labels, several = _labels(setup, form.fields, options)
    sureness = sureness_of(setup, form.fields, options.confidence, label=column)
    doubt = _check(setup, labels, options, column)
    prompts = Prompts(setup)
    examples = example_turns(setup, prompts, form, lambda prompt: quoted("text", prompt))
    instructions = _instructions(labels, several, options)
    known = {_plain(label): label for label in labels} | {label: label for label in labels}

    def to_label(value: Any) -> Any:
        return known.get(value) or known.get(_plain(value), value) if isinstance(value, str) else value

    def mend(data: Any) -> Any:
        if not isinstance(data, dict):
            return data
        value = data.get(column)
        if isinstance(value, str):
            return {**data, column: [to_label(value)] if several else to_label(value)}
        if several and isinstance(value, list):
            chosen = [to_label(item) for item in value]
            return {**data, column: [item for position, item in enumerate(chosen) if item not in chosen[:position]]}
        return data

    def first_state(row: Mapping[str, Any]) -> dict[str, Any]:
        question = HumanMessage(quoted("text", prompts.text(row)))
        return {"messages": [*prompts.system(row, instructions, RULE), *examples, question]}

    def output_of(state: Mapping[str, Any]) -> Answer:
        answer = dict(state["answer"])
        if options.below is not None and options.confidence is not None:
            sure = answer[options.confidence.column]
            if sure is None or sure < options.below:
                chosen = [] if options.fallback is None else [options.fallback]
                answer[column] = chosen if several else options.fallback
        return answer

    citations = citations_of(setup, form.fields)
    model = ModelQuestion(setup, form, tools=provider_tools(setup), sureness=sureness, citations=citations)
    question = question_graph(model, mend, doubt)
    parts = GraphParts(
        VERSION, options, form, prompts, question.build, first_state, output_of,
        column_of(sureness) | column_of_citations(citations), direct=question.direct,
    )  # fmt: skip
    return assemble(setup, parts)


def _labels(
    setup: StageSetup, fields: Mapping[str, OutputField], options: ClassifyOptions
) -> tuple[str, tuple[str, ...], bool]:
    """Return the output that holds the label, its values, and True if it holds several."""
    found = {name: values for name, declared in fields.items() if (values := _closed(declared))}
    if options.label is not None and options.label not in found:
        raise SpecError(
            f"{setup.where}: with.label = {options.label!r} is no output with a closed list of values.",
            hint=f"Those are: {', '.join(found) or 'none'}.",
        )
    if not found:
        raise SpecError(
            f"{setup.where}: uses: classify needs an output with a closed list of labels.",
            hint="Write output: {category: {type: enum, values: [first, second]}}, or a list of such.",
        )
    if options.label is None and len(found) > 1:
        raise SpecError(
            f"{setup.where}: {' and '.join(found)} could each hold the label.", hint="Name it: with: {label: …}."
        )
    name = options.label or next(iter(found))
    return name, found[name], fields[name].type == "list"


def _closed(declared: OutputField) -> tuple[str, ...]:
    inner = declared.items if declared.type == "list" else declared
    return inner.values or () if inner is not None and inner.type == "enum" else ()


def _check(setup: StageSetup, labels: tuple[str, ...], options: ClassifyOptions, column: str) -> Doubt | None:
    for label in options.labels:
        if label not in labels:
            raise SpecError(f"{setup.where}: with.labels describes {label!r}, which is no label.")
    doubt = doubt_of(setup, options.confidence, options.ask_below, column)
    if options.below is not None and options.confidence is None:
        raise SpecError(f"{setup.where}: with.below needs with.confidence: the float output to compare.")
    if options.fallback is not None and options.below is None:
        raise SpecError(f"{setup.where}: with.fallback needs with.below: the confidence below which it is used.")
    if options.fallback is not None and options.fallback not in labels:
        raise SpecError(
            f"{setup.where}: with.fallback = {options.fallback!r} is no label.", hint=f"Labels: {', '.join(labels)}"
        )
    if options.below is not None and doubt is not None:
        raise SpecError(
            f"{setup.where}: with.below takes the fallback and with.ask_below asks a person: set only one of them."
        )
    return doubt


def _plain(label: str) -> str:
    """Return a label without case, and without quotes, spaces and punctuation around it."""
    return re.sub(r"[\s_-]+", " ", label.strip(" \t\r\n.,;:!\"'`*")).casefold()


def _instructions(labels: tuple[str, ...], several: bool, options: ClassifyOptions) -> str:
    lines = [f"- {label}" + (f": {meaning}" if (meaning := options.labels.get(label)) else "") for label in labels]
    which = "every label that applies" if several else "exactly one label"
    said = options.confidence is not None and options.confidence.source == "answer"
    sure = f" {options.confidence.column}: how sure you are, from 0 to 1." if options.confidence and said else ""
    return f"Classify the text. Choose {which} of this list, as it is written there:\n" + "\n".join(lines) + sure
