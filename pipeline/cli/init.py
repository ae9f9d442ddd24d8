"""`tandem init`: a small commented pipeline that runs as it is, for the reader's own table or a bundled sample."""

import os
import re
import shlex
import shutil
from dataclasses import dataclass
from importlib.resources import as_file, files
from pathlib import Path

import polars as pl
import yaml

from pipeline.cli.console import Screen, counted
from pipeline.cli.environment import command
from pipeline.sources.listing import list_source
from pipeline.sources.split import snapshot_of
from pipeline.stores import MemoryStore
from schemas.errors import SourceError, UsageError
from schemas.ids import PIPELINE_NAME
from schemas.json_schema import schema_text
from schemas.spec import ModelChoice, Sink, Source, Spec, Stage
from stages.options import OPTIONS

_SAMPLE_ROWS = 20_000
_OPENAI = "openai:gpt-5-mini"
_OFFLINE = "offline:lexical"
_GRAPH = "my_graph.py"
_SCHEMA = ".tandem/tandem.schema.json"  # beside the spec and relative to it, so that editors need no network


# How people write days, and what their clocks add; ISO needs no telling.
_DAYS = ("%d/%m/%Y", "%m/%d/%Y", "%d.%m.%Y", "%d-%m-%Y", "%Y/%m/%d", "%d/%m/%y", "%m/%d/%y", "%d %B %Y", "%d %b %Y")
_CLOCKS = ("", " %H:%M", " %H:%M:%S")
_OUTPUTS = {
    "sentiment": "{type: enum, values: [positive, neutral, negative]}",
    "summary": "{type: str, description: one sentence}",
}


@dataclass(frozen=True)
class Proposal:
    """What a table's columns suggest. `formats`: columns of dates written as text, and how (several: no telling)."""

    rows: int
    columns: list[str]
    key: str | None
    time: str | None
    nulls: bool
    formats: dict[str, list[str]]
    text: list[str]
    encoding: str | None


def init_command(folder: Path, from_file: Path | None, model: str | None, screen: Screen) -> int:
    """Write `tandem.yaml` into a folder. Raises UsageError where there is one already."""
    target = folder / "tandem.yaml"
    if target.exists():
        raise UsageError(f"{target} is there already.", hint="Name another folder, or edit that file.")
    if model is not None:
        _check_model(model)
    chosen = model or (_OPENAI if os.environ.get("OPENAI_API_KEY") else _OFFLINE)
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
    screen.say(f"Wrote {target} for {from_file} ({counted(proposal.rows, 'row')}):")
    screen.say(f"  key: {proposal.key or 'none found; rows are known by their content'}")
    screen.say(f"  partitions: {f'a day, by {proposal.time}' if proposal.time else 'one'}")
    screen.say(f"  prompt: {', '.join(proposal.text)}; model: {chosen}")
    screen.say("Look it over, then:")
    for verb in ("check", "try", "run"):
        screen.result(f"  {command()} {verb} {shlex.quote(str(target))}")
    return 0


def schema_file(folder: Path) -> Path:
    """The JSON Schema that the first line of the spec names to editors."""
    return folder / _SCHEMA


def _check_model(model: str) -> None:
    try:
        ModelChoice(name=model)
    except ValueError:
        raise UsageError(f"--model {model}: not provider:name.", hint="For example openai:gpt-5-mini.") from None


def propose(path: Path) -> Proposal:
    """Key, time column and text columns of a table, by what its values are. Raises SourceError."""
    rows, encoding = _read(path)
    if not rows.width:
        raise SourceError(f"{path}: no columns.")
    unique = [
        n for n in rows.columns if rows[n].null_count() == 0 and rows.height and rows[n].n_unique() == rows.height
    ]
    ids = _keys(rows, unique)
    formats = {n: found for n in rows.columns if rows[n].dtype == pl.String and (found := _formats(rows[n]))}
    times = [n for n in rows.columns if rows[n].dtype == pl.Date or isinstance(rows[n].dtype, pl.Datetime)]
    times += [n for n, found in formats.items() if len(found) == 1]
    time = min(times, key=lambda n: rows[n].null_count(), default=None)
    lengths = {
        n: float(rows[n].str.len_chars().mean() or 0)  # type: ignore[arg-type]
        for n in rows.columns
        if rows[n].dtype == pl.String and n not in ids and n not in formats
    }
    longest = sorted(lengths, key=lambda n: -lengths[n])[:2]
    text = [n for n in rows.columns if n in longest and (lengths[n] >= 8 or len(longest) == 1)] or rows.columns[:1]
    nulls = time is not None and rows[time].null_count() > 0
    return Proposal(rows.height, rows.columns, ids[0] if ids else None, time, nulls, formats, text, encoding)


def _keys(rows: pl.DataFrame, unique: list[str]) -> list[str]:
    """Of the columns without a repetition, those that name a row: by their own name, or by being codes (numbers, short
    texts without blanks) in the first column."""
    named = [n for n in unique if n.lower().endswith(("id", "key", "number", "nr", "ref", "code", "uuid", "sku"))]
    first = rows.columns[0]
    if named or first not in unique:
        return named
    values = rows[first]
    texts = values.dtype == pl.String and not values.str.contains(r"\s|^.{40,}$").any()
    return [first] if texts or values.dtype.is_integer() else []


def _formats(values: pl.Series) -> list[str]:
    """The ways of writing dates that fit every value that is there."""
    there = values.drop_nulls().head(_SAMPLE_ROWS)
    if not there.len() or not there.str.contains(r"^\d{1,4}[-/. ]\w").all():
        return []
    ways = (day + clock for clock in _CLOCKS for day in _DAYS)
    return [way for way in ways if there.str.to_datetime(way, strict=False, time_unit="us").null_count() == 0]


def _read(path: Path) -> tuple[pl.DataFrame, str | None]:
    """The table, read as a run would read it; a wrong encoding is guessed once."""
    try:
        return _table(path, None), None
    except SourceError as exc:
        marker = "source.encoding: "
        if marker not in exc.hint:
            raise
        encoding = exc.hint.split(marker, 1)[1].split(" ", 1)[0]
        return _table(path, encoding), encoding


def _table(path: Path, encoding: str | None) -> pl.DataFrame:
    source = Source(path=str(path.absolute()), encoding=encoding)
    list_source(source, path.parent)
    stage = Stage(name="x", uses="sql", query="SELECT * FROM rows")
    spec = Spec(name="init", source=source, stages=[stage], sink=Sink(path="memory"))
    snapshot = snapshot_of(spec, path.absolute().parent, MemoryStore("init"), pinned={})
    entry = snapshot.entry(snapshot.partitions[0])
    ranges, room = [], _SAMPLE_ROWS
    for found in entry.ranges:
        ranges.append(found.model_copy(update={"rows": min(found.rows, room)}))
        room -= ranges[-1].rows
    return snapshot.read(entry.partition, ranges)


def render(folder: Path, path: Path, proposal: Proposal, model: str) -> str:
    """The YAML, commented for somebody who sees such a file for the first time."""
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
    prompt = [f"      {'{{ ' + _reference(column) + ' }}'}" for column in proposal.text]
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
        *(f"      {_free(name, proposal.columns)}: {kind}" for name, kind in _OUTPUTS.items()),
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
    """Dates that are written in a way of their own; where two ways fit, the reader must choose."""
    lines = []
    for column, ways in proposal.formats.items():
        kind = "datetime" if "%H" in ways[0] else "date"
        said = f"    {_quoted(column)}: {{type: {kind}, format: {_quoted(ways[0])}}}"
        lines.append(said if len(ways) == 1 else f"  # {said.strip()}   # or {' or '.join(ways[1:])}?")
    if not lines:
        return []
    told = any(not line.startswith("  #") for line in lines)
    return ["  columns:               # types that are given rather than inferred" if told else "  # columns:", *lines]


def _free(name: str, columns: list[str]) -> str:
    """An output may not hide a column of the input."""
    while name in columns:
        name = f"llm_{name}"
    return name


def _reference(column: str) -> str:
    return column if column.isidentifier() and column.isascii() else f"row[{column!r}]"


def _quoted(value: str) -> str:
    """A YAML scalar that reads back as this text."""
    return str(yaml.safe_dump(value, default_flow_style=True, width=10_000, allow_unicode=True)).splitlines()[0]
