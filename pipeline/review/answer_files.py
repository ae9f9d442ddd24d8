"""Questions to files and answers from them: JSON, or CSV for a spreadsheet. A file is taken whole or not at all."""

import csv
import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import orjson

from pipeline.formulas import texts
from pipeline.review.answering import ReviewQuestion, parsed, refusal
from schemas.errors import UsageError

_ENDINGS = (".json", ".csv")
_COLUMNS = ("id", "partition", "row_id", "stage", "question", "answer")


def ending_of(path: Path) -> str:
    ending = path.suffix.lower()
    if ending not in _ENDINGS:
        raise UsageError(f"{path}: questions and answers are files that end in .json or .csv.")
    return ending


def export_file(path: Path, found: Sequence[ReviewQuestion]) -> None:
    """Write the questions, with room for answers. Raises UsageError."""
    text = _json(found) if ending_of(path) == ".json" else _csv(found)
    try:
        path.write_text(text, encoding="utf-8", newline="")
    except OSError as exc:
        raise UsageError(f"{path} cannot be written: {exc.strerror}.") from None


def _json(found: Sequence[ReviewQuestion]) -> str:
    return orjson.dumps([asked.as_json() for asked in found], option=orjson.OPT_INDENT_2, default=str).decode() + "\n"


def _csv(found: Sequence[ReviewQuestion]) -> str:
    names = list(dict.fromkeys(name for asked in found for name in asked.key))
    heads = {name: f"key_{name}" if name in _COLUMNS else name for name in names}
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow([*_COLUMNS[:3], *texts(list(heads.values())), *_COLUMNS[3:]])
    for asked in found:
        keys = texts([_cell(asked.key.get(name)) for name in names])
        answer = "" if asked.answer is None else _cell(orjson.loads(asked.answer))
        said = [asked.stage, *texts([_cell(asked.question)]), answer]
        writer.writerow([asked.id, asked.partition, asked.row_id, *keys, *said])
    return out.getvalue()


def _cell(value: Any) -> str:
    if value is None:
        return ""
    return value if isinstance(value, str) else orjson.dumps(value, default=str).decode()


# Importing ---------------------------------------------------------------------------------------------------------


def import_file(path: Path, found: Sequence[ReviewQuestion]) -> tuple[list[tuple[ReviewQuestion, Any]], int]:
    """The answers of a file, and how many questions it leaves open. Raises UsageError for the first thing that is
    wrong; nothing of the file counts then."""
    lines = _read_json(path) if ending_of(path) == ".json" else _read_csv(path)
    given: dict[str, tuple[ReviewQuestion, Any, str]] = {}
    blank = 0
    for where, line in lines:
        asked = _meant(where, line, found)
        answer = line.get("answer")
        if answer is None:
            blank += 1
            continue
        if (why := refusal(asked, answer)) is not None:
            raise UsageError(f"{where}: {why}.", hint="Nothing of the file was taken.")
        before = given.get(asked.id)
        if before is not None and before[1] != answer:
            raise UsageError(
                f"{where}: the row was answered otherwise in {before[2]}.", hint="Nothing of the file was taken."
            )
        given[asked.id] = (asked, answer, where)
    return [(asked, answer) for asked, answer, _ in given.values()], blank


def _read_json(path: Path) -> list[tuple[str, dict[str, Any]]]:
    try:
        data = orjson.loads(_bytes(path))
    except orjson.JSONDecodeError as exc:
        raise UsageError(f"{path} is no JSON: {exc}.") from None
    if not isinstance(data, list) or not all(isinstance(line, dict) for line in data):
        raise UsageError(f"{path} is no list of objects.", hint="tandem review export writes such a file.")
    lines = [(f"{path}, object {at}", line) for at, line in enumerate(data, start=1)]
    for where, line in lines:
        _refuse_columns(where, line)
    return lines


def _read_csv(path: Path) -> list[tuple[str, dict[str, Any]]]:
    try:
        text = _bytes(path).decode("utf-8-sig")
    except UnicodeDecodeError:
        raise UsageError(f"{path} is not UTF-8.", hint="Save it as CSV UTF-8.") from None
    head = text.split("\n", 1)[0]
    delimiter = max(",;\t", key=head.count)
    reader = csv.DictReader(io.StringIO(text, newline=""), delimiter=delimiter)
    _refuse_columns(str(path), dict.fromkeys(reader.fieldnames or ()))
    lines = []
    for line in reader:
        where = f"{path}, line {reader.line_num}"
        if None in line or None in line.values():
            raise UsageError(
                f"{where}: it has other columns than the first line.", hint="Nothing of the file was taken."
            )
        answer = line["answer"].strip()
        lines.append((where, {**line, "answer": parsed(answer) if answer else None}))
    return lines


def _bytes(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as exc:
        raise UsageError(f"{path} cannot be read: {exc.strerror}.") from None


def _refuse_columns(where: str, line: dict[str, Any]) -> None:
    if "answer" not in line or not ({"id", "row_id"} & line.keys()):
        named = "answer" if "answer" not in line else "id (or row_id)"
        raise UsageError(
            f"{where}: there is no {named}.", hint=f"It has: {', '.join(line) or 'nothing'}. Nothing was taken."
        )


def _meant(where: str, line: dict[str, Any], found: Sequence[ReviewQuestion]) -> ReviewQuestion:
    """The question of a line: by its id, else by the row's id, and the partition where that is given."""
    asked = line.get("id") or line.get("row_id")
    by = "id" if line.get("id") else "row_id"
    partition = line.get("partition") or None
    chosen = [
        question
        for question in found
        if (question.id == asked if by == "id" else any(row_id == asked for row_id, _ in question.rows))
        and partition in (None, question.partition)
    ]
    if len(chosen) != 1:
        why = "is not waiting for an answer" if not chosen else f"asks {len(chosen)} questions; give the id of one"
        raise UsageError(f"{where}: {by} {asked!r} {why}.", hint="Nothing of the file was taken.")
    return chosen[0]
