"""`tandem review …`: list rows that wait for a person, and answer them one by one or by a file."""

import asyncio
import contextlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import orjson

from pipeline.cli.environment import command
from pipeline.cli.screen.console import Screen, counted
from pipeline.client.connection import connected_if_running
from pipeline.client.spec_file import read_spec, sink_of
from pipeline.operations.answer import checked_answer, notify_waiting, save_answers, waiting_partitions
from pipeline.review.answer_files import ending_of, export_file, import_file
from pipeline.review.answering import (
    ReviewQuestion,
    open_questions,
    questions_of_row,
    shown,
    single_question,
)
from pipeline.stores import Store
from schemas.errors import ConnectionFailed, UsageError

_LISTED = 100


def _questions(path: Path, key: str | None) -> tuple[Store, list[ReviewQuestion]]:
    spec, base = read_spec(path)
    store = sink_of(spec, base)
    questions = open_questions(store, key)
    if key is not None and not questions:
        raise UsageError(f"{key}: no row of that partition waits for an answer.", hint=f"See: {command()} review ls")
    return store, questions


def ls_command(path: Path, key: str | None, screen: Screen) -> int:
    """List the questions, by partition and stage."""
    _, questions = _questions(path, key)
    if screen.json:
        screen.document([question.as_json() for question in questions])
        return 0
    group = ("", "")
    for question in questions[:_LISTED]:
        if (question.partition, question.stage) != group:
            group = (question.partition, question.stage)
            group_questions = [other for other in questions if (other.partition, other.stage) == group]
            missing = sum(other.answer is None for other in group_questions)
            waits = ", which waits for them" if question.generation is None else ""
            screen.result(
                f"{question.partition}{waits}  {question.stage}: {missing:,} of {len(group_questions):,} to be answered"
            )
        rows = f", {len(question.rows):,} identical rows" if len(question.rows) > 1 else ""
        answer = f" = {shown(orjson.loads(question.answer), 60)}" if question.answer is not None else ""
        screen.result(f"    {question.id}  {shown(question.key, 60)}{rows}: {shown(question.question)}{answer}")
        if question.why:
            screen.result(f"        the last answer did not fit: {shown(question.why)}")
    if len(questions) > _LISTED:
        screen.note(f"… and {len(questions) - _LISTED:,} more: {command()} review export questions.csv {path}")
    if not questions:
        screen.note("No row waits for an answer.")
    elif any(question.answer is None for question in questions):
        screen.note(f"Answer one: {command()} review answer {path} --row ID --answer TEXT")
        screen.note(f"Or by a file: {command()} review export questions.csv {path}")
    else:
        screen.note(_next(path, questions))
    return 0


def show_command(path: Path, key: str | None, row: str, screen: Screen) -> int:
    """Show everything that a person needs to answer a row."""
    _, questions = _questions(path, key)
    matches = questions_of_row(questions, row)
    if screen.json:
        screen.document([question.as_json() for question in matches])
        return 0
    for question in matches:
        screen.result(
            f"{question.id}  {question.partition}  {question.stage}  asked {question.asked_at:%Y-%m-%d %H:%M} UTC"
        )
        for name, value in question.key.items():
            screen.result(f"    {name} = {value}")
        if len(question.rows) > 1:
            screen.result(f"    and {len(question.rows) - 1:,} identical rows")
        for name, value in question.reads.items():
            if name not in question.key:
                screen.result(f"    {name}: {shown(value, 2_000)}")
        screen.result(f"  asks: {shown(question.question, 2_000)}")
        if question.schema is not None:
            screen.result(f"  the answer must fit: {shown(question.schema, 1_000)}")
        if question.why:
            screen.result(f"  the last answer did not fit: {shown(question.why, 500)}")
        if question.answer is not None:
            screen.result(f"  answered: {shown(orjson.loads(question.answer), 500)}")
    return 0


@dataclass(frozen=True)
class AnswerOptions:
    spec: Path
    key: str | None
    row: str
    answer: str
    as_text: bool


async def answer_command(options: AnswerOptions, screen: Screen) -> int:
    """Answer one question, for all rows that ask it."""
    store, questions = await asyncio.to_thread(_questions, options.spec, options.key)
    question = single_question(questions, options.row)
    value = checked_answer(question, options.answer, as_text=options.as_text)
    return await _store_answers(options.spec, store, questions, [(question, value)], screen)


def export_command(path: Path, key: str | None, file: Path, screen: Screen) -> int:
    """Write the questions to a file, with a column for answers."""
    ending_of(file)
    _, questions = _questions(path, key)
    export_file(file, questions)
    if screen.json:
        screen.document({"file": str(file), "questions": len(questions)})
        return 0
    screen.result(f"{counted(len(questions), 'question')} in {file}.")
    if questions:
        screen.note(f"Fill in the column `answer`, then: {command()} review import {file} {path}")
    return 0


async def import_command(path: Path, key: str | None, file: Path, screen: Screen) -> int:
    """Import the answers of a file: all, or none."""
    ending_of(file)
    store, questions = await asyncio.to_thread(_questions, path, key)
    answers, blank = await asyncio.to_thread(import_file, file, questions)
    if blank:
        screen.note(f"{counted(blank, 'row')} without an answer, left as they are.")
    return await _store_answers(path, store, questions, answers, screen)


async def _store_answers(
    path: Path, store: Store, questions: list[ReviewQuestion], answers: list[tuple[ReviewQuestion, Any]], screen: Screen
) -> int:
    counts = await save_answers(store, answers)
    answered_ids = {question.id for question, _ in answers}
    left = sum(question.answer is None and question.id not in answered_ids for question in questions)
    await _notify_waiting(path, store, waiting_partitions(answers))
    if screen.json:
        screen.document({"answered": len(answers), "partitions": counts, "unanswered": left})
        return 0
    screen.result(f"{counted(len(answers), 'answer')} saved in {counted(len(counts), 'partition')}, {left:,} missing.")
    if answers:
        screen.note(_next(path, [question for question, _ in answers]))
    return 0


def _next(path: Path, answered: list[ReviewQuestion]) -> str:
    if all(question.generation is None for question in answered):
        return "The run that waits for them goes on by itself."
    return f"Publish with them: {command()} run {path}"


async def _notify_waiting(path: Path, store: Store, partitions: set[str]) -> None:
    """Signal waiting partitions that there are answers. One that gets no signal polls a little later."""
    if not partitions:
        return
    spec, base = read_spec(path)
    with contextlib.suppress(ConnectionFailed):
        async with connected_if_running(base) as connection:
            await notify_waiting(connection, store, spec.name, partitions)
