"""Questions to a person: what a graph asks by LangGraph's `interrupt()`, and how it goes on with the answers.

A graph runs without a checkpointer, and its first question ends its run: the row is parked. Once there are answers the
graph is run again from its start, its model calls replayed from the journal, this once with a checkpointer in memory
that lives as long as the row's run. Each `interrupt()` then returns what was said to that question.

A question is known by what it asks, not by where: a graph that asks something else, because its prompt or an earlier
answer changed, is given no answer to what it asked before.
"""

import pickle
from collections import Counter, defaultdict, deque
from collections.abc import Awaitable, Callable, Iterable, Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any

import orjson
from langchain_core.runnables.config import var_child_runnable_config
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.errors import is_invalid_resume
from langgraph.pregel import Pregel
from langgraph.types import Command, Interrupt
from pydantic import ValidationError

from schemas.digests import digest
from schemas.spec.fields import problems
from stages.journal.known import Known
from stages.journal.records import AnswerRecord, CallKey, QuestionKey, RowRecord
from stages.text.plain_json import to_json

INTERRUPT = "__interrupt__"  # langgraph's key for what `interrupt()` asks
PENDING = "pending"
AnyGraph = Pregel[Any, Any, Any, Any]
Invoke = Callable[[AnyGraph, Any, Mapping[str, Any]], Awaitable[Any]]


@dataclass(frozen=True)
class GraphQuestion:
    """`asks` is what the graph gave to `interrupt()`, JSON-like; `digest` is of it, `ordinal` its number among equal
    ones of the row. `schema`: the JSON schema that an answer has to fit. `refused`: the nonce of an answer that did
    not, in `why`."""

    asks: Any
    digest: str
    ordinal: int
    schema: dict[str, Any] | None = None
    refused: str | None = None
    why: str | None = None

    @property
    def key(self) -> QuestionKey:
        return self.digest, self.ordinal


class RowPending(Exception):
    """The row cannot go on before somebody has answered."""

    def __init__(self, questions: Iterable[GraphQuestion]) -> None:
        super().__init__("waiting for an answer")
        self.questions = tuple(questions)


def described(questions: Iterable[GraphQuestion]) -> dict[str, Any]:
    """What a pending row's record says."""
    return {"kind": PENDING, "message": "waiting for an answer", "questions": [asdict(asked) for asked in questions]}


def questions_of(record: RowRecord) -> list[GraphQuestion]:
    """What a row waits for; nothing where it is not pending."""
    if record.status != PENDING:
        return []
    return [GraphQuestion(**asked) for asked in (record.error or {}).get("questions", ())]


def waits(record: RowRecord | None, known: Known) -> bool:
    """Is the row parked, with nothing new said to any of its questions?"""
    if record is None or record.status != PENDING:
        return False
    said = known.answers.get(record.key, {})
    return not any(is_answered(asked, said.get(asked.key)) for asked in questions_of(record))


def is_answered(asked: GraphQuestion, said: AnswerRecord | None) -> bool:
    return said is not None and said.nonce != asked.refused


# Asking ------------------------------------------------------------------------------------------------------------


def interrupts_of(state: Any) -> list[Interrupt[Any]]:
    """What the graph asked when it stopped; nothing where it came to its end."""
    return list(state.get(INTERRUPT, ())) if isinstance(state, Mapping) else []


class _Numbering:
    """Keys of questions, numbered as they are asked. An interrupt that is raised again keeps its key."""

    def __init__(self) -> None:
        self._counted: Counter[str] = Counter()
        self._keys: dict[tuple[str, str], GraphQuestion] = {}

    def question(self, asked: Interrupt[Any]) -> GraphQuestion:
        value = plain(asked.value)
        content = digest(orjson.dumps(value, option=orjson.OPT_SORT_KEYS))
        found = self._keys.get((asked.id, content))
        if found is None:
            schema = getattr(asked, "response_schema", None)
            found = GraphQuestion(value, content, self._counted[content], schema if isinstance(schema, dict) else None)
            self._counted[content] += 1
            self._keys[asked.id, content] = found
        return found


def ask(interrupts: Iterable[Interrupt[Any]]) -> RowPending:
    """The questions of a graph that ran without answers."""
    numbering = _Numbering()
    return RowPending([numbering.question(asked) for asked in interrupts])


async def resumed(
    graph: AnyGraph, prepared: Any, said: Mapping[QuestionKey, AnswerRecord], rounds: "Rounds", invoke: Invoke
) -> Any:
    """The last state of the graph, run from its start with what was said. Raises Parked where that is not enough."""
    saved = graph.copy({"checkpointer": InMemorySaver(serde=_Copies())})
    config = {"configurable": {"thread_id": "row"}}
    numbering, asked = _Numbering(), list[GraphQuestion]()
    used: set[str] = set()
    given: Any = prepared
    now: dict[QuestionKey, AnswerRecord] = {}
    while True:
        try:
            state = await invoke(saved, given, config)
        except Exception as exc:
            if not is_invalid_resume(exc):
                raise
            raise RowPending(_refused(question, now.get(question.key), exc) for question in asked) from None
        interrupts = interrupts_of(state)
        if not interrupts:
            return state
        asked = [numbering.question(one) for one in interrupts]
        now = {question.key: said[question.key] for question in asked if question.key in said}
        resume = {
            one.id: orjson.loads(now[question.key].answer)
            for one, question in zip(interrupts, asked, strict=True)
            if question.key in now and f"{one.id} {question.digest}" not in used
        }
        if not resume:  # what was said and is asked again did not help
            raise RowPending(replace(q, refused=now[q.key].nonce) if q.key in now else q for q in asked)
        used.update(f"{one.id} {question.digest}" for one, question in zip(interrupts, asked, strict=True))
        rounds.begin()
        given = Command(resume=resume)


def _refused(asked: GraphQuestion, said: AnswerRecord | None, exc: Exception) -> GraphQuestion:
    if said is None or asked.schema is None:
        return asked
    why = problems(exc) if isinstance(exc, ValidationError) else str(exc)
    return replace(asked, refused=said.nonce, why=" ".join(why.split())[:300])


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
    """Which task of a graph made which calls. A task whose question is answered is run again from its own start, and
    asks its model the same again: it gets the same answers, not further ones."""

    def __init__(self) -> None:
        self._now: defaultdict[tuple[str, str], list[CallKey]] = defaultdict(list)
        self._before: dict[tuple[str, str], deque[CallKey]] = {}

    def begin(self) -> None:
        """Another round: the tasks that are run from here on have been run before, or are new."""
        self._before = {task: deque(keys) for task, keys in self._now.items()}
        self._now.clear()

    def again(self, request: str) -> CallKey | None:
        """The key under which the task at work has made this call before."""
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
    """JSON-like: what a person is asked crosses files and screens."""
    return orjson.loads(to_json(value))
