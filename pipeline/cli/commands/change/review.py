"""`tandem review …`: which rows wait for a person, and answering them, one by one or by a file."""

import asyncio
import contextlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import orjson
from temporalio.service import RPCError

from pipeline.cli.environment import command
from pipeline.cli.screen.console import Screen, counted
from pipeline.client.connection import connected_if_running
from pipeline.client.preflight import read_spec, sink_of
from pipeline.review.answer_files import ending_of, export_file, import_file
from pipeline.review.answering import (
    ReviewQuestion,
    answer_all,
    open_questions,
    parsed,
    refusal,
    shown,
    the_one,
    those_of,
)
from pipeline.stores import Store
from schemas import ids
from schemas.errors import ConnectionFailed, UsageError

_LISTED = 100


def _found(path: Path, key: str | None) -> tuple[Store, list[ReviewQuestion]]:
    spec, base = read_spec(path)
    store = sink_of(spec, base)
    found = open_questions(store, key)
    if key is not None and not found:
        raise UsageError(f"{key}: no row of that partition waits for an answer.", hint=f"See: {command()} review ls")
    return store, found


def ls_command(path: Path, key: str | None, screen: Screen) -> int:
    """The questions, by partition and stage."""
    _, found = _found(path, key)
    if screen.json:
        screen.document([asked.as_json() for asked in found])
        return 0
    group = ("", "")
    for asked in found[:_LISTED]:
        if (asked.partition, asked.stage) != group:
            group = (asked.partition, asked.stage)
            here = [other for other in found if (other.partition, other.stage) == group]
            missing = sum(other.answer is None for other in here)
            waits = ", which waits for them" if asked.generation is None else ""
            screen.result(f"{asked.partition}{waits}  {asked.stage}: {missing:,} of {len(here):,} to be answered")
        rows = f", {len(asked.rows):,} equal rows" if len(asked.rows) > 1 else ""
        said = f" = {shown(orjson.loads(asked.answer), 60)}" if asked.answer is not None else ""
        screen.result(f"    {asked.id}  {shown(asked.key, 60)}{rows}: {shown(asked.question)}{said}")
        if asked.why:
            screen.result(f"        the last answer did not fit: {shown(asked.why)}")
    if len(found) > _LISTED:
        screen.say(f"… and {len(found) - _LISTED:,} more: {command()} review export questions.csv {path}")
    if not found:
        screen.say("No row waits for an answer.")
    elif any(asked.answer is None for asked in found):
        screen.say(f"Answer one: {command()} review answer {path} --row ID --answer TEXT")
        screen.say(f"Or by a file: {command()} review export questions.csv {path}")
    else:
        screen.say(_next(path, found))
    return 0


def show_command(path: Path, key: str | None, row: str, screen: Screen) -> int:
    """All that a person needs to answer a row."""
    _, found = _found(path, key)
    chosen = those_of(found, row)
    if screen.json:
        screen.document([asked.as_json() for asked in chosen])
        return 0
    for asked in chosen:
        screen.result(f"{asked.id}  {asked.partition}  {asked.stage}  asked {asked.asked_at:%Y-%m-%d %H:%M} UTC")
        for name, value in asked.key.items():
            screen.result(f"    {name} = {value}")
        if len(asked.rows) > 1:
            screen.result(f"    and {len(asked.rows) - 1:,} rows that are equal")
        for name, value in asked.reads.items():
            if name not in asked.key:
                screen.result(f"    {name}: {shown(value, 2_000)}")
        screen.result(f"  asks: {shown(asked.question, 2_000)}")
        if asked.schema is not None:
            screen.result(f"  the answer has to fit: {shown(asked.schema, 1_000)}")
        if asked.why:
            screen.result(f"  the last answer did not fit: {shown(asked.why, 500)}")
        if asked.answer is not None:
            screen.result(f"  answered: {shown(orjson.loads(asked.answer), 500)}")
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
    store, found = await asyncio.to_thread(_found, options.spec, options.key)
    asked = the_one(found, options.row)
    if not options.answer:
        raise UsageError("--answer is empty.", hint="""The empty text is: --answer '""'""")
    value = parsed(options.answer, as_text=options.as_text)
    if (why := refusal(asked, value)) is not None:
        hint = "Use --text to give it as text." if not isinstance(value, str) else ""
        raise UsageError(f"--answer {options.answer}: {why}.", hint=hint)
    return await _take(options.spec, store, found, [(asked, value)], screen)


def export_command(path: Path, key: str | None, file: Path, screen: Screen) -> int:
    """Write the questions to a file, with a column for answers."""
    ending_of(file)
    _, found = _found(path, key)
    export_file(file, found)
    if screen.json:
        screen.document({"file": str(file), "questions": len(found)})
        return 0
    screen.result(f"{counted(len(found), 'question')} in {file}.")
    if found:
        screen.say(f"Fill in the column `answer`, then: {command()} review import {file} {path}")
    return 0


async def import_command(path: Path, key: str | None, file: Path, screen: Screen) -> int:
    """Take the answers of a file: all, or none."""
    ending_of(file)
    store, found = await asyncio.to_thread(_found, path, key)
    answers, blank = await asyncio.to_thread(import_file, file, found)
    if blank:
        screen.say(f"{counted(blank, 'row')} without an answer, left as they are.")
    return await _take(path, store, found, answers, screen)


async def _take(
    path: Path, store: Store, found: list[ReviewQuestion], answers: list[tuple[ReviewQuestion, Any]], screen: Screen
) -> int:
    taken = await asyncio.to_thread(answer_all, store, answers)
    said = {asked.id for asked, _ in answers}
    left = sum(asked.answer is None and asked.id not in said for asked in found)
    await _wake(path, store, {asked.partition for asked, _ in answers if asked.generation is None})
    if screen.json:
        screen.document({"answered": len(answers), "partitions": taken, "unanswered": left})
        return 0
    screen.result(f"{counted(len(answers), 'answer')} taken in {counted(len(taken), 'partition')}, {left:,} missing.")
    if answers:
        screen.say(_next(path, [asked for asked, _ in answers]))
    return 0


def _next(path: Path, answered: list[ReviewQuestion]) -> str:
    if all(asked.generation is None for asked in answered):
        return "The run that waits for them goes on by itself."
    return f"Publish with them: {command()} run {path}"


async def _wake(path: Path, store: Store, partitions: set[str]) -> None:
    """Tell partitions that wait that there is news. One that is not told looks by itself, a little later."""
    if not partitions:
        return
    spec, base = read_spec(path)
    with contextlib.suppress(RPCError, ConnectionFailed):
        async with connected_if_running(base) as engine:
            for partition in partitions if engine is not None else ():
                workflow = ids.partition_workflow_id(spec.name, store.uri, partition)
                assert engine is not None
                await engine.client.get_workflow_handle(workflow).signal("answered")
