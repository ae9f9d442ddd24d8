"""Answer questions of rows that wait for a person, and tell partitions that wait for the answers."""

import asyncio
import contextlib
from collections.abc import Iterable, Sequence
from typing import Any

from temporalio.service import RPCError

from pipeline.client.connection import Connection
from pipeline.review.answering import ReviewQuestion, answer_all, parsed, refusal
from pipeline.stores import Store
from schemas import ids
from schemas.errors import UsageError

Answer = tuple[ReviewQuestion, Any]


def checked_answer(question: ReviewQuestion, text: str, *, as_text: bool = False, name: str = "--answer") -> Any:
    """Return the value of an answer as a person wrote it: JSON, else the text. `name` of the flag or field is for the
    error. Raises UsageError if it is empty or does not fit the question."""
    if not text:
        raise UsageError(f"{name} is empty.", hint=f"""The empty text is: {name} '""'""")
    value = parsed(text, as_text=as_text)
    if (reason := refusal(question, value)) is not None:
        hint = "Add --text to pass it as text." if not isinstance(value, str) else ""
        raise UsageError(f"{name} {text}: {reason}.", hint=hint)
    return value


async def save_answers(store: Store, answers: Sequence[Answer], by: str = "") -> dict[str, int]:
    """Write answers; `by` is the name of the person, if it is known. Return their number by partition."""
    return await asyncio.to_thread(answer_all, store, answers, by)


def waiting_partitions(answers: Iterable[Answer]) -> set[str]:
    """Return the partitions that wait for these answers before they are published."""
    return {question.partition for question, _ in answers if question.generation is None}


async def notify_waiting(connection: Connection | None, store: Store, pipeline: str, partitions: Iterable[str]) -> None:
    """Signal waiting partitions that there are answers. One that gets no signal polls a little later."""
    for partition in partitions if connection is not None else ():
        assert connection is not None
        workflow = ids.partition_workflow_id(pipeline, store.uri, partition)
        with contextlib.suppress(RPCError):
            await connection.client.get_workflow_handle(workflow).signal("answered")
