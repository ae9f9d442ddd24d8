"""Questions to a person: a graph asks by LangGraph's `interrupt()`, and is run again with the answers.

A graph runs without a checkpointer, and its first question ends its run: the row is parked. Once there are answers the
graph is run again from its start, its model calls replayed from the journal, this once with a checkpointer in memory
that lives as long as the row's run. Each `interrupt()` then returns the answer to its question.
"""

import pickle
from collections import Counter, defaultdict, deque
from collections.abc import Awaitable, Callable, Iterable, Mapping
from dataclasses import replace
from typing import Any

import orjson
from langchain_core.runnables.config import var_child_runnable_config
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.errors import is_invalid_resume
from langgraph.types import Command, Interrupt
from pydantic import ValidationError

from schemas.digests import digest
from schemas.spec.fields import problems
from stages.contract import AnyGraph
from stages.execution.questions import GraphQuestion, RowPending
from stages.journal.records import AnswerRecord, CallKey, QuestionKey
from stages.text.plain_json import to_json

INTERRUPT = "__interrupt__"  # langgraph's key for what `interrupt()` asks
Invoke = Callable[[AnyGraph, Any, Mapping[str, Any]], Awaitable[Any]]


def interrupts_of(state: Any) -> list[Interrupt[Any]]:
    """Return the interrupts that stopped the graph; none if it finished."""
    return list(state.get(INTERRUPT, ())) if isinstance(state, Mapping) else []


class _Numbering:
    """Keys of questions, numbered as they are asked. An interrupt that is raised again keeps its key."""

    def __init__(self) -> None:
        self._counted: Counter[str] = Counter()
        self._keys: dict[tuple[str, str], GraphQuestion] = {}

    def question(self, interrupt: Interrupt[Any]) -> GraphQuestion:
        value = plain(interrupt.value)
        content = digest(orjson.dumps(value, option=orjson.OPT_SORT_KEYS))
        question = self._keys.get((interrupt.id, content))
        if question is None:
            schema = getattr(interrupt, "response_schema", None)
            question = GraphQuestion(
                value, content, self._counted[content], schema if isinstance(schema, dict) else None
            )
            self._counted[content] += 1
            self._keys[interrupt.id, content] = question
        return question


def row_pending(interrupts: Iterable[Interrupt[Any]]) -> RowPending:
    """Return the exception with the questions of a graph that ran without answers."""
    numbering = _Numbering()
    return RowPending([numbering.question(interrupt) for interrupt in interrupts])


async def resume_graph(
    graph: AnyGraph, prepared: Any, answers: Mapping[QuestionKey, AnswerRecord], rounds: "Rounds", invoke: Invoke
) -> Any:
    """Run the graph from its start with the answers and return its last state. Raises RowPending if it needs more."""
    saved = graph.copy({"checkpointer": InMemorySaver(serde=_Copies())})
    config = {"configurable": {"thread_id": "row"}}
    numbering, questions = _Numbering(), list[GraphQuestion]()
    used: set[str] = set()
    graph_input: Any = prepared
    current: dict[QuestionKey, AnswerRecord] = {}
    while True:
        try:
            state = await invoke(saved, graph_input, config)
        except Exception as exc:
            if not is_invalid_resume(exc):
                raise
            raise RowPending(_refused(question, current.get(question.key), exc) for question in questions) from None
        interrupts = interrupts_of(state)
        if not interrupts:
            return state
        questions = [numbering.question(interrupt) for interrupt in interrupts]
        current = {question.key: answers[question.key] for question in questions if question.key in answers}
        replies = {
            interrupt.id: orjson.loads(current[question.key].answer)
            for interrupt, question in zip(interrupts, questions, strict=True)
            if question.key in current and f"{interrupt.id} {question.digest}" not in used
        }
        if not replies:  # the answers to questions that are asked again did not help
            raise RowPending(replace(q, refused=current[q.key].nonce) if q.key in current else q for q in questions)
        used.update(
            f"{interrupt.id} {question.digest}" for interrupt, question in zip(interrupts, questions, strict=True)
        )
        rounds.begin()
        graph_input = Command(resume=replies)


def _refused(question: GraphQuestion, answer: AnswerRecord | None, exc: Exception) -> GraphQuestion:
    if answer is None or question.schema is None:
        return question
    why = problems(exc) if isinstance(exc, ValidationError) else str(exc)
    return replace(question, refused=answer.nonce, why=" ".join(why.split())[:300])


class _Copies:
    """State kept as copies in this process: LangGraph's own serialiser knows fewer types than a user's state may have.
    What cannot be copied stays as it is, as it would without a checkpointer."""

    def dumps_typed(self, obj: Any) -> tuple[str, Any]:
        try:
            return "pickle", pickle.dumps(obj)
        except Exception:  # noqa: BLE001  objects may refuse in any way they like
            return "itself", obj

    def loads_typed(self, data: tuple[str, Any]) -> Any:
        return pickle.loads(data[1]) if data[0] == "pickle" else data[1]  # noqa: S301  written above, in this process


class Rounds:
    """The calls of each task of a graph. A task whose question is answered is run again from its own start, and repeats
    its model calls: it gets the same answers, not further ones."""

    def __init__(self) -> None:
        self._now: defaultdict[tuple[str, str], list[CallKey]] = defaultdict(list)
        self._before: dict[tuple[str, str], deque[CallKey]] = {}

    def begin(self) -> None:
        """Begin another round: tasks that are run from here on were run before, or are new."""
        self._before = {task: deque(keys) for task, keys in self._now.items()}
        self._now.clear()

    def again(self, request: str) -> CallKey | None:
        """Return the key under which the running task made this call before."""
        task = _task(), request
        keys = self._before.get(task)
        if not keys:
            return None
        self._now[task].append(keys[0])
        return keys.popleft()

    def first(self, key: CallKey) -> None:
        self._now[_task(), key[0]].append(key)


def _task() -> str:
    config = var_child_runnable_config.get() or {}
    return str(config.get("configurable", {}).get("checkpoint_ns", ""))


def plain(value: Any) -> Any:
    """Convert a question to JSON types: it is stored in files and shown on screens."""
    return orjson.loads(to_json(value))
