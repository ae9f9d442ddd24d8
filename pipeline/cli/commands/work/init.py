"""`tandem init`: a small commented pipeline that runs as it is, for the reader's own table or a bundled sample."""

import os
import re
import shlex
import shutil
from importlib.resources import as_file, files
from pathlib import Path

import yaml

from pipeline.cli.environment import command
from pipeline.cli.screen.console import Screen, counted
from pipeline.sources.profile import Proposal, propose
from schemas.errors import SourceError, UsageError
from schemas.ids import PIPELINE_NAME
from schemas.json_schema import schema_text
from schemas.spec.sections import ModelChoice
from stages.models.credentials import key_of
from stages.options import OPTIONS

_OPENAI = "openai:gpt-5-mini"
_OFFLINE = "offline:lexical"
_GRAPH = "my_graph.py"
_LONG = 80  # characters: a shorter text needs no summary
_SUMMARY = "{type: str, description: one sentence}"
_TOPIC = "{type: str, description: what it is about in one to three words}"
_KIND = "{type: str, description: what kind of record it is in one to three words}"
_SCHEMA = ".tandem/tandem.schema.json"  # beside the spec and relative to it, so that editors need no network


def init_command(folder: Path, from_file: Path | None, model: str | None, screen: Screen) -> int:
    """Write `tandem.yaml` into a folder. Raises UsageError if there is one already."""
    target = folder / "tandem.yaml"
    if target.exists():
        raise UsageError(f"{target} exists already.", hint="Name another folder, or edit that file.")
    if model is not None:
        _check_model(model)
    chosen = model or (_OPENAI if key_of("openai")[1] else _OFFLINE)
    if from_file is not None and not from_file.exists():
        raise SourceError(f"--from {from_file}: no such file.", hint="Check the path.")
    try:
        if from_file is None:
            folder.mkdir(parents=True, exist_ok=True)
            with as_file(files("pipeline.demo")) as bundled:
                shutil.copy(bundled / "tickets.csv", folder / "tickets.csv")
            from_file = folder / "tickets.csv"
        proposal = propose(from_file)
        folder.mkdir(parents=True, exist_ok=True)
        target.write_text(render(folder, from_file, proposal, chosen), encoding="utf-8")
        schema_file(folder).parent.mkdir(exist_ok=True)
        schema_file(folder).write_text(schema_text(OPTIONS), encoding="utf-8")
        with as_file(files("pipeline.demo")) as bundled:
            if not (folder / _GRAPH).exists():
                shutil.copy(bundled / _GRAPH, folder / _GRAPH)
    except OSError as exc:
        raise UsageError(f"{folder} cannot be written: {exc.strerror}.", hint="Name another folder.") from exc
    screen.note(f"Wrote {target} for {from_file} ({counted(proposal.rows, 'row')}):")
    screen.note(f"  key: {proposal.key or 'none found; rows are identified by their content'}")
    screen.note(f"  partitions: {f'a day, by {proposal.time}' if proposal.time else 'one'}")
    screen.note(f"  prompt: {_prompt_text(proposal)}; model: {chosen}")
    if proposal.constant:
        screen.note(f"  not in the prompt, as every row has the same: {', '.join(proposal.constant)}")
    screen.note("Read it, then:")
    for verb in ("check", "try", "run"):
        screen.result(f"  {command()} {verb} {shlex.quote(str(target))}")
    return 0


def _prompt_text(proposal: Proposal) -> str:
    if not proposal.whole:
        return ", ".join(proposal.text)
    return f"no column holds text, so the record as a whole ({counted(len(proposal.text), 'column')})"


def schema_file(folder: Path) -> Path:
    """Return the path of the JSON Schema that the first line of the spec names for editors."""
    return folder / _SCHEMA


def _check_model(model: str) -> None:
    try:
        ModelChoice(name=model)
    except ValueError:
        raise UsageError(f"--model {model}: not provider:name.", hint="For example openai:gpt-5-mini.") from None


def render(folder: Path, path: Path, proposal: Proposal, model: str) -> str:
    """Return the YAML, commented for somebody who sees such a file for the first time."""
    source = os.path.relpath(path, folder)
    name = re.sub("[^a-z0-9]+", "-", path.absolute().stem.lower()).strip("-")[:60]
    name = name if PIPELINE_NAME.match(name) else "my-pipeline"
    lines = [
        f"# yaml-language-server: $schema={_SCHEMA}",
        "# A Tandem pipeline. Check it: tandem check. See a few rows: tandem try. Run it: tandem run.",
        f"name: {_quoted(name)}",
        "source:",
        f"  path: {_quoted(source)}            # a file, a folder or a glob; local or s3://bucket/…",
    ]
    if proposal.encoding:
        lines.append(f"  encoding: {proposal.encoding}")
    if proposal.key:
        lines.append(f"  key: [{_quoted(proposal.key)}]            # what identifies a row")
    else:
        lines.append("  # key: [id]            # what identifies a row; without one it is the row's content")
    lines += _types(proposal)
    if proposal.time:
        lines += [
            "partition:               # each part is enriched and published on its own",
            "  by: time",
            f"  column: {_quoted(proposal.time)}",
            "  every: day             # hour | day | week | month",
        ]
        if proposal.nulls:
            lines.append("  nulls: own             # rows without a time: a part of their own (error: refuse them)")
    else:
        lines.append("# partition: {by: rows, rows: 10000}   # default: one partition a file")
    prompt = [f"      {_label(column, proposal)}{'{{ ' + _reference(column) + ' }}'}" for column in proposal.text]
    lines += [
        "stages:",
        "  - name: enrich",
        "    uses: extract        # columns from text; also: sql, or a LangGraph graph of yours as module:attribute",
        f"    model: {_quoted(model)}"
        + ("   # a toy that needs no key; for real answers: openai:gpt-5-mini" if model == _OFFLINE else ""),
        "    system: You read one record and describe it.",
        "    prompt: |            # Jinja2 over the row's columns",
        *prompt,
        "    output:              # the columns that are added",
        *(f"      {_free(name, proposal.columns)}: {kind}" for name, kind in _outputs(proposal).items()),
        "      # mood: {type: enum, values: [good, neutral, bad]}   # or whatever you want to know",
        "  # - name: reply        # a LangGraph graph of yours: my_graph.py, beside this file, is a start",
        "  #   uses: my_graph:graph",
        f"  #   model: {_quoted(model)}",
        f"  #   inputs: {{text: {_quoted(proposal.text[0])}}}",
        f"  #   outputs: {{{_free('reply', proposal.columns)}: reply}}",
        f"  #   output: {{{_free('reply', proposal.columns)}: str}}",
        "sink:",
        "  path: output           # a folder, or s3://bucket/prefix",
        "limits:",
        "  rows_in_flight: 64     # calls at once",
        "",
    ]
    return "\n".join(lines)


def _types(proposal: Proposal) -> list[str]:
    """Return `columns:` for dates in an unusual format; where two formats fit, the reader must choose."""
    lines = []
    for column, formats in proposal.formats.items():
        kind = "datetime" if "%H" in formats[0] else "date"
        text = f"    {_quoted(column)}: {{type: {kind}, format: {_quoted(formats[0])}}}"
        lines.append(text if len(formats) == 1 else f"  # {text.strip()}   # or {' or '.join(formats[1:])}?")
    if not lines:
        return []
    any_type = any(not line.startswith("  #") for line in lines)
    return [
        "  columns:               # types that are given rather than inferred" if any_type else "  # columns:",
        *lines,
    ]


def _outputs(proposal: Proposal) -> dict[str, str]:
    """Return outputs that fit any text of that length, or any record; the reader adds others."""
    if proposal.whole:
        return {"kind": _KIND, "summary": _SUMMARY}
    return {"topic": _TOPIC, "summary": _SUMMARY} if proposal.characters >= _LONG else {"topic": _TOPIC}


def _label(column: str, proposal: Proposal) -> str:
    """Return the column's name as a label, for values that are not sentences."""
    plain = re.sub(r"[{}%#]|\s+", " ", column).strip()
    return f"{plain}: " if proposal.whole else ""


def _free(name: str, columns: list[str]) -> str:
    """Return a name for an output that hides no column of the input."""
    while name in columns:
        name = f"llm_{name}"
    return name


def _reference(column: str) -> str:
    return column if column.isidentifier() and column.isascii() else f"row[{column!r}]"


def _quoted(value: str) -> str:
    """Return a YAML scalar that reads back as this text."""
    return str(yaml.safe_dump(value, default_flow_style=True, width=10_000, allow_unicode=True)).splitlines()[0]
