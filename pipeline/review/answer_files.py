"""Export questions to files and import answers: JSON, or CSV for a spreadsheet. An import is all or nothing."""

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
        raise UsageError(f"{path}: a file of questions or answers must end in .json or .csv.")
    return ending


def export_file(path: Path, questions: Sequence[ReviewQuestion]) -> None:
    """Write the questions, with room for answers. Raises UsageError."""
    text = _json(questions) if ending_of(path) == ".json" else _csv(questions)
    try:
        path.write_text(text, encoding="utf-8", newline="")
    except OSError as exc:
        raise UsageError(f"{path} cannot be written: {exc.strerror}.") from None


def _json(questions: Sequence[ReviewQuestion]) -> str:
    return (
        orjson.dumps([question.as_json() for question in questions], option=orjson.OPT_INDENT_2, default=str).decode()
        + "\n"
    )


def _csv(questions: Sequence[ReviewQuestion]) -> str:
    names = list(dict.fromkeys(name for question in questions for name in question.key))
    headers = {name: f"key_{name}" if name in _COLUMNS else name for name in names}
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow([*_COLUMNS[:3], *texts(list(headers.values())), *_COLUMNS[3:]])
    for question in questions:
        key_cells = texts([_cell(question.key.get(name)) for name in names])
        answer = "" if question.answer is None else _cell(orjson.loads(question.answer))
        tail = [question.stage, *texts([_cell(question.question)]), answer]
        writer.writerow([question.id, question.partition, question.row_id, *key_cells, *tail])
    return out.getvalue()


def _cell(value: Any) -> str:
    if value is None:
        return ""
    return value if isinstance(value, str) else orjson.dumps(value, default=str).decode()


# Importing ---------------------------------------------------------------------------------------------------------


def import_file(path: Path, questions: Sequence[ReviewQuestion]) -> tuple[list[tuple[ReviewQuestion, Any]], int]:
    """Return the answers of a file and the number of questions that it leaves open. Raises UsageError for the first
    fault; then no answer is imported."""
    lines = _read_json(path) if ending_of(path) == ".json" else _read_csv(path)
    answers: dict[str, tuple[ReviewQuestion, Any, str]] = {}
    blank = 0
    for place, line in lines:
        question = _question_of(place, line, questions)
        answer = line.get("answer")
        if answer is None:
            blank += 1
            continue
        if (reason := refusal(question, answer)) is not None:
            raise UsageError(f"{place}: {reason}.", hint="No answer of the file was imported.")
        earlier = answers.get(question.id)
        if earlier is not None and earlier[1] != answer:
            raise UsageError(
                f"{place}: {earlier[2]} has another answer to the same question.",
                hint="No answer of the file was imported.",
            )
        answers[question.id] = (question, answer, place)
    return [(question, answer) for question, answer, _ in answers.values()], blank


def _read_json(path: Path) -> list[tuple[str, dict[str, Any]]]:
    try:
        data = orjson.loads(_bytes(path))
    except orjson.JSONDecodeError as exc:
        raise UsageError(f"{path} is not JSON: {exc}.") from None
    if not isinstance(data, list) or not all(isinstance(line, dict) for line in data):
        raise UsageError(f"{path} is not a list of objects.", hint="`tandem review export` writes such a file.")
    lines = [(f"{path}, object {number}", line) for number, line in enumerate(data, start=1)]
    for place, line in lines:
        _check_columns(place, line)
    return lines


def _read_csv(path: Path) -> list[tuple[str, dict[str, Any]]]:
    try:
        text = _bytes(path).decode("utf-8-sig")
    except UnicodeDecodeError:
        raise UsageError(f"{path} is not UTF-8.", hint="Save it as CSV UTF-8.") from None
    head = text.split("\n", 1)[0]
    delimiter = max(",;\t", key=head.count)
    reader = csv.DictReader(io.StringIO(text, newline=""), delimiter=delimiter)
    _check_columns(str(path), dict.fromkeys(reader.fieldnames or ()))
    lines = []
    for line in reader:
        place = f"{path}, line {reader.line_num}"
        if None in line or None in line.values():
            raise UsageError(
                f"{place}: its number of columns differs from the first line.",
                hint="No answer of the file was imported.",
            )
        answer = line["answer"].strip()
        lines.append((place, {**line, "answer": parsed(answer) if answer else None}))
    return lines


def _bytes(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as exc:
        raise UsageError(f"{path} cannot be read: {exc.strerror}.") from None


def _check_columns(place: str, line: dict[str, Any]) -> None:
    if "answer" not in line or not ({"id", "row_id"} & line.keys()):
        missing = "answer" if "answer" not in line else "id (or row_id)"
        raise UsageError(
            f"{place}: the column {missing} is missing.",
            hint=f"Its columns: {', '.join(line) or 'none'}. No answer was imported.",
        )


def _question_of(place: str, line: dict[str, Any], questions: Sequence[ReviewQuestion]) -> ReviewQuestion:
    """Return the question of a line: by its id, else by the row's id, and by the partition if the line has one."""
    value = line.get("id") or line.get("row_id")
    column = "id" if line.get("id") else "row_id"
    partition = line.get("partition") or None
    matches = [
        question
        for question in questions
        if (question.id == value if column == "id" else any(row_id == value for row_id, _ in question.rows))
        and partition in (None, question.partition)
    ]
    if len(matches) != 1:
        reason = "is not waiting for an answer" if not matches else f"asks {len(matches)} questions; give the id of one"
        raise UsageError(f"{place}: {column} {value!r} {reason}.", hint="No answer of the file was imported.")
    return matches[0]
