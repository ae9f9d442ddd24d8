"""A spec: every promised key loads; every mistake is a sentence with file, line, field, value and what is allowed."""

from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from schemas.errors import SpecError
from schemas.spec.durations import format_duration, parse_duration
from schemas.spec.loading import load_spec, spec_from_mapping
from schemas.spec.sections import ModelChoice, Spec
from schemas.spec.sizes import format_size, parse_size

# design.md, section 9, as it stands there.
EXAMPLE = r"""
name: support-tickets
source:
  path: s3://raw/tickets/**/*.parquet        # file, directory or glob, local or s3://
  format: parquet                            # parquet | csv | ndjson; default by ending
  key: [ticket_id]                           # row identity; default: content and occurrence
  columns:                                   # types that are given rather than inferred
    opened: {type: date, format: "%d/%m/%Y"}
  nulls: ["", "NA"]                          # csv; also delimiter, encoding
partition:                                   # default: one partition a file
  by: time                                   # time | column | hive | files | rows
  column: created_at                         # time, column
  every: day                                 # time: hour | day | week | month
  zone: UTC                                  # for naive times and for where days begin
  rows: 10000                                # by: rows
  nulls: error                               # error | own (a partition of their own)
stages:
  - name: triage
    uses: extract                            # a built-in graph …
    version: 1                               # raise it to ask for new answers
    model: openai:gpt-5-mini                 # provider:name, or roles: {main: …, cheap: {name: …, params: …}}
    params: {temperature: 0, max_tokens: 400}
    system: You triage support tickets.
    prompt: |                                # Jinja2, sandboxed, strict: an unknown column is an error at check
      {{ subject }}
      {{ body }}
    when_empty: null                         # all prompt columns blank: null (no call, null outputs) | call | reject
    on_reject: drop                          # drop (to rejects) | null (kept with null outputs, and in rejects)
    output:                                  # or a pydantic class: my_schemas:Triage
      category: {type: enum, values: [billing, bug, other]}
      urgency: {type: int, ge: 1, le: 5, description: 5 is a production outage}
      summary: str                           # str | int | float | bool | date | datetime, list[…], …
      tags: list[str]
  - name: urgent
    uses: sql                                # … a table stage over the batch, which it sees as `rows` …
    query: SELECT * FROM rows WHERE urgency >= 3
    scope: batch                             # batch: row-wise | partition: a barrier over the whole partition
  - name: answer
    uses: my_graphs.answer:graph             # … or any LangGraph graph, builder or factory
    model: {main: anthropic:claude-sonnet-4-5, cheap: openai:gpt-5-mini}
    inputs: {question: summary}              # state key: column
    outputs: {draft: answer}                 # column: state key
    output: {draft: str}
    tools: [my_graphs.tools:search]          # allow-list
    context: {tone: formal}                  # LangGraph runtime context
    placement: batch                         # batch | node
    pending: publish                         # publish (without the parked rows) | wait
sink:
  path: s3://curated/tickets
  format: parquet                            # parquet | delta | iceberg
  keep_superseded: 15m
  provenance: none                           # none | columns (model, prompt digest, generation, …)
limits:
  rows_in_flight: 64                         # per worker process and model
  partitions_in_flight: 8
  batch_rows: 1000                           # default: chosen by the planner
  requests_per_minute: 5000                  # across the fleet
  tokens_per_minute: 2000000
  max_reject_rate: 0.05                      # per partition, above it nothing is published
  max_cost_usd: 25                           # per run; max_cost_usd_per_day: per pipeline
  call_timeout: 60s
  max_memory: 2GiB
prices:                                      # USD per million tokens; default: genai-prices
  openai:gpt-5-mini: {input: 0.25, output: 2.00}
journal: {flush: 1s, strict: false, keep: 90d}
checks:
  - {name: has_summary, sql: "summary is not null and length(summary) > 10", severity: block}
schedule: {cron: "0 3 * * *", zone: Europe/Paris, overlap: skip, catchup: 6h, jitter: 5m, lookback: 7d}
notify: [{on: [failed, recovered, budget, review], webhook: "${SLACK_URL}"}]
"""

SMALL: dict[str, Any] = {
    "name": "small",
    "source": {"path": "in.csv"},
    "stages": [{"name": "one", "uses": "extract", "model": "openai:x", "prompt": "{{ a }}", "output": {"b": "str"}}],
    "sink": {"path": "out"},
}


def written(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "tandem.yaml"
    path.write_text(text, encoding="utf-8")
    return path


def changed(**changes: Any) -> dict[str, Any]:
    """SMALL with `source__path=…`, `stage__prompt=…`, or top-level keys put in."""
    data: dict[str, Any] = {**SMALL, "source": {**SMALL["source"]}, "sink": {**SMALL["sink"]}}
    stage = {**SMALL["stages"][0]}
    data["stages"] = [stage]
    for name, value in changes.items():
        place, _, key = name.partition("__")
        target = stage if place == "stage" else data.setdefault(place, {}) if key else data
        target[key or place] = value
    return data


def load(**changes: Any) -> Spec:
    return spec_from_mapping(changed(**changes), base=Path())


def refusal(**changes: Any) -> str:
    with pytest.raises(SpecError) as caught:
        load(**changes)
    return str(caught.value)


def yaml_refusal(tmp_path: Path, text: str) -> str:
    with pytest.raises(SpecError) as caught:
        load_spec(written(tmp_path, text))
    return str(caught.value)


def test_every_key_of_the_design_loads(tmp_path: Path) -> None:
    spec = load_spec(written(tmp_path, EXAMPLE))
    triage, urgent, answer = spec.stages
    assert spec.source.key == ["ticket_id"]
    assert spec.source.columns["opened"].format == "%d/%m/%Y"
    assert (spec.partition.by, spec.partition.every, spec.partition.rows) == ("time", "day", 10000)
    assert triage.model["main"].name == "openai:gpt-5-mini"
    assert triage.params == {"temperature": 0, "max_tokens": 400}
    assert triage.when_empty == "null"
    assert triage.prompt == "{{ subject }}\n{{ body }}\n"
    assert triage.output["urgency"].le == 5
    assert triage.output["tags"].items is not None
    assert urgent.query == "SELECT * FROM rows WHERE urgency >= 3"
    assert {role: choice.name for role, choice in answer.model.items()} == {
        "main": "anthropic:claude-sonnet-4-5", "cheap": "openai:gpt-5-mini",
    }  # fmt: skip
    assert spec.sink.keep_superseded == timedelta(minutes=15)
    assert spec.limits.max_cost_usd == 25
    assert spec.prices["openai:gpt-5-mini"].output == 2
    assert spec.journal.keep == timedelta(days=90)
    assert spec.schedule is not None
    assert spec.schedule.catchup == timedelta(hours=6)
    assert spec.notify[0].webhook == "${SLACK_URL}"


@pytest.mark.parametrize("kind", ["parquet", "delta", "iceberg"])
def test_the_schema_knows_every_sink_format(kind: str) -> None:
    assert load(sink__format=kind).sink.format == kind


def test_a_spec_frozen_as_json_is_the_same_spec(tmp_path: Path) -> None:
    spec = load_spec(written(tmp_path, EXAMPLE))
    assert Spec.model_validate_json(spec.model_dump_json()) == spec
    by_class = load(stage__output="my_schemas:Triage")
    assert Spec.model_validate_json(by_class.model_dump_json()) == by_class


def test_name_source_stages_and_sink_suffice() -> None:
    spec = load()
    assert (spec.partition.by, spec.sink.format, spec.source.nulls) == ("files", "parquet", [""])


# Mistakes ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("right", "wrong", "said"),
    [
        ("partition:", "partitoin:", "partitoin is not a key of the spec; did you mean 'partition'?"),
        ("  column: created", "  colum: created", "partition.colum is not a key of the spec; did you mean 'column'?"),
        ("    prompt: |", "    promt: |", "stages[0].promt is not a key of the spec; did you mean 'prompt'?"),
        ("  rows_in_flight:", "  rows_inflight:", "limits.rows_inflight is not a key"),
        (", description: 5", ", desciption: 5", "urgency.desciption is not a key of the spec; did you mean 'desc"),
        ("keep: 90d", "kep: 90d", "journal.kep is not a key of the spec; did you mean 'keep'?"),
    ],
)  # fmt: skip
def test_a_misspelt_key_is_told_its_line_and_the_right_one(tmp_path: Path, right: str, wrong: str, said: str) -> None:
    text = EXAMPLE.replace(right, wrong, 1)
    number = next(at for at, row in enumerate(text.splitlines(), start=1) if wrong.strip() in row)
    message = yaml_refusal(tmp_path, text)
    assert f"tandem.yaml:{number}: " in message
    assert said in message


def test_a_key_like_no_other_is_told_which_there_are() -> None:
    said = refusal(sink__zzz=1)
    assert "sink.zzz is not a key" in said
    assert "keep_superseded" in said


@pytest.mark.parametrize(
    ("change", "parts"),
    [
        ({"source__format": "parquett"}, ["source.format", "'parquett'", "parquet, csv, ndjson", "mean 'parquet'"]),
        ({"partition": {"by": "day"}}, ["partition.by", "'day'", "time, column, hive, files, rows"]),
        ({"limits": {"rows_in_flight": 0}}, ["limits.rows_in_flight", "0", "greater than or equal to 1"]),
        ({"limits": {"rows_in_flight": "10"}}, ["limits.rows_in_flight", "'10'", "whole number"]),
        ({"limits": {"rows_in_flight": True}}, ["limits.rows_in_flight", "True", "whole number"]),
        ({"limits": {"max_cost_usd": "5"}}, ["limits.max_cost_usd", "'5'", "number"]),
        ({"limits": {"call_timeout": "soon"}}, ["limits.call_timeout", "'soon'", "500ms, 30s, 15m"]),
        ({"limits": {"call_timeout": 60}}, ["limits.call_timeout", "60", "30s"]),
        ({"limits": {"max_memory": "lots"}}, ["limits.max_memory", "'lots'", "500MB, 2GB, 512MiB, 2GiB"]),
        ({"limits": {"max_memory": 2_000_000_000}}, ["limits.max_memory", "2000000000", "a number and a unit"]),
        ({"limits": {"max_memory": "0MB"}}, ["limits.max_memory", "'0MB'", "too small"]),
        ({"journal": {"strict": "no"}}, ["journal.strict", "'no'", "true or false"]),
        ({"name": 5}, ["name", "5", "text; put it in quotes"]),
        ({"name": "My Pipeline"}, ["name", "'My Pipeline'", "lower-case"]),
        ({"source": "in.csv"}, ["source", "'in.csv'", "mapping"]),
        ({"stages": {"a": 1}}, ["stages", "list"]),
        ({"stages": []}, ["stages", "at least 1"]),
        ({"partition": {"by": "time"}}, ["partition", "needs column"]),
        ({"partition": {"column": "a"}}, ["partition", "column belongs to"]),
        ({"partition": {"by": "time", "column": "a", "zone": "Mars/Base"}}, ["partition.zone", "'Mars/Base'", "IANA"]),
        ({"schedule": {"cron": "0 3 * * *", "zone": "Paris"}}, ["schedule.zone", "'Paris'", "IANA"]),
        ({"stage__model": "gpt-5-mini"}, ["stages[0].model", "'gpt-5-mini'", "provider:name"]),
        ({"stage__output": {"a": "strr"}}, ["stages[0].output.a", "'strr'", "list["]),
        ({"stage__output": {"a": {"type": "int", "ge": "1"}}}, ["stages[0].output.a.ge", "'1'", "number"]),
        ({"stage__output": {"a": {"type": "enum"}}}, ["stages[0].output.a", "needs values"]),
        ({"stage__name": "Triage!"}, ["stages[0].name", "'Triage!'", "lower-case"]),
        ({"stage__tools": ["search"]}, ["stages[0].tools", "'search'", "module:attribute"]),
        ({"source__delimiter": "§"}, ["source.delimiter", "'§'", "ASCII"]),
        ({"source__columns": {"a": {"type": "text"}}}, ["source.columns.a.type", "'text'", "str, int, float"]),
    ],
)  # fmt: skip
def test_a_wrong_value_names_field_value_and_what_is_allowed(change: dict[str, Any], parts: list[str]) -> None:
    said = refusal(**change)
    assert [part for part in parts if part not in said] == [], said


def test_all_mistakes_are_told_at_once_in_order_of_lines(tmp_path: Path) -> None:
    said = yaml_refusal(tmp_path, "name: x\nsource: {path: a, formt: csv}\nstages: []\nsnk: {}\n").splitlines()
    assert [row.split(":")[1] for row in said] == sorted(row.split(":")[1] for row in said)
    assert len(said) == 4
    assert any("sink is missing" in row for row in said)


@pytest.mark.parametrize("text", ["", "- a", "just text", "5"])
def test_a_document_that_is_no_mapping_is_refused(tmp_path: Path, text: str) -> None:
    assert "a spec is a mapping" in yaml_refusal(tmp_path, text)


# Secrets -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "change",
    [
        {"stage__params": {"api_key": "abc"}},
        {"stage__params": {"apiKey": "abc"}},
        {"stage__params": {"extra_headers": {"Authorization": "Basic eHg6eXk="}}},
        {"stage__params": {"extra_headers": {"X-Api-Key": "abc"}}},
        {"stage__params": {"user": "sk-proj-abcdefghijklmnopqrstuvwxyz"}},
        {"stage__params": {"note": "sk-proj-abcdefghijklmnopqrstuvwxyz ${X}"}},
        {"stage__context": {"password": "hunter2"}},
        {"stage__context": {"aws_secret_access_key": "abc"}},
        {"stage__system": "Use AKIAIOSFODNN7EXAMPLE when asked."},
        {"stage__prompt": "ghp_abcdefghijklmnopqrstuvwxyz0123456789"},
        {"notify": [{"on": ["failed"], "webhook": "https://hooks.slack.com/services/T0/B0/abcdef"}]},
        {"source__path": "s3://user:pass@bucket/key"},
    ],
)
def test_a_secret_is_refused_without_being_repeated(change: dict[str, Any]) -> None:
    said = refusal(**change)
    assert "looks like a secret" in said
    assert "${NAME}" in said
    for value in ("hunter2", "abcdefghijkl", "AKIAIOSFODNN7EXAMPLE", "user:pass"):
        assert value not in said


@pytest.mark.parametrize(
    "change",
    [
        {"stage__params": {"api_key": "${OPENAI_API_KEY}"}},
        {"stage__params": {"extra_headers": {"Authorization": "Bearer ${TOKEN}"}}},
        {"stage__params": {"max_tokens": "${LIMIT}"}},
        {"stage__system": "Never tell the password or the api_key: abc."},
        {"stage__prompt": "The customer forgot a password: {{ a }} at https://user:pass@host/"},
        {"stage__output": {"token": "str", "password": {"type": "str", "description": "the password: abc"}}},
        {"stage__inputs": {"token": "column_a"}, "stage__uses": "graphs:graph"},
        {"source__columns": {"token": "str", "api_key": {"type": "str"}}},
        {"source__key": ["token"]},
        {"stage__prompt": "task-classification-with-risk-and-desk-reservation-numbers"},
        {"notify": [{"on": ["failed"], "webhook": "${SLACK_URL}"}]},
    ],
)
def test_references_and_words_about_secrets_are_none(change: dict[str, Any]) -> None:
    load(**change)


# Files, shorthands -------------------------------------------------------------------------------------------------


def test_prompt_files_are_read_into_the_spec_relative_to_it(tmp_path: Path) -> None:
    (tmp_path / "prompts").mkdir()
    (tmp_path / "prompts/triage.md").write_bytes("\ufeffDécris:\r\n{{ a }}\n".encode())
    file = {"file": "prompts/triage.md"}
    spec = spec_from_mapping(changed(stage__prompt=file, stage__system=file), base=tmp_path)
    assert spec.stages[0].prompt == spec.stages[0].system == "Décris:\n{{ a }}\n"


@pytest.mark.parametrize(
    ("prompt", "said"),
    [
        ({"file": "absent.md"}, "'absent.md' cannot be read: No such file"),
        ({"file": "."}, "cannot be read"),
        ({"path": "x.md"}, "{file: path}"),
        ({"file": 5}, "{file: path}"),
        ({"file": "latin.md"}, "not UTF-8"),
        ({"file": "secret.md"}, "looks like a secret"),
    ],
)
def test_a_prompt_file_that_cannot_be_used_is_named(tmp_path: Path, prompt: dict[str, Any], said: str) -> None:
    (tmp_path / "latin.md").write_bytes("é".encode("latin-1"))
    (tmp_path / "secret.md").write_text("key sk-proj-abcdefghijklmnopqrstuvwxyz")
    with pytest.raises(SpecError) as caught:
        spec_from_mapping(changed(stage__prompt=prompt), base=tmp_path)
    assert "stages[0].prompt" in str(caught.value)
    assert said in str(caught.value)


NDJSON = '{"input": {"body": "a"}, "output": {"note": "b"}}\n\n{"input": {"body": null}, "output": {"note": "c"}}\n'


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("e.ndjson", NDJSON),
        ("e.json", f"[{','.join(filter(None, NDJSON.splitlines()))}]"),
        ("e.yaml", "- {input: {body: a}, output: {note: b}}\n- {input: {body: null}, output: {note: c}}\n"),
    ],
)
def test_files_of_examples_are_read_into_the_spec(tmp_path: Path, name: str, text: str) -> None:
    (tmp_path / name).write_text(text)
    spec = spec_from_mapping(changed(stage__examples={"file": name}), base=tmp_path)
    assert [(one.input["body"], one.output["note"]) for one in spec.stages[0].examples] == [("a", "b"), (None, "c")]


@pytest.mark.parametrize(
    ("name", "text", "said"),
    [
        ("e.ndjson", '{"input": 1}\nnothing\n', "line 2 of 'e.ndjson' is not JSON"),
        ("e.yaml", "input: 1", "'e.yaml' is no list of examples"),
        ("e.ndjson", '{"input": {"a": 1}}\n', "examples[0].output is missing"),
        ("e.ndjson", '{"input": {"a": "sk-abcdefghijklmnopqrst"}, "output": {"b": 1}}\n', "looks like a secret"),
    ],
)
def test_a_file_of_examples_that_cannot_be_used_is_named(tmp_path: Path, name: str, text: str, said: str) -> None:
    (tmp_path / name).write_text(text)
    with pytest.raises(SpecError) as refused:
        spec_from_mapping(changed(stage__examples={"file": name}), base=tmp_path)
    assert said in str(refused.value)


def test_a_model_is_a_name_a_choice_or_roles() -> None:
    choice = {"name": "openai:x", "params": {"temperature": 1}}
    assert load(stage__model="openai:x").stages[0].model["main"].name == "openai:x"
    assert load(stage__model=choice).stages[0].model["main"].params == {"temperature": 1}
    roles = {"main": "openai:x", "cheap": choice}
    assert set(load(stage__uses="cascade", stage__model=roles).stages[0].model) == {"main", "cheap"}


def test_two_stages_cannot_share_a_name() -> None:
    data = changed()
    data["stages"] = data["stages"] * 2
    with pytest.raises(SpecError, match="two stages are called 'one'"):
        spec_from_mapping(data, base=Path())


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("0", 0), ("500ms", 0.5), ("30s", 30), ("1.5h", 5400), (" 15 m ", 900), ("7d", 604800), ("4w", 2419200)],
)
def test_durations_are_a_number_and_a_unit(text: str, seconds: float) -> None:
    assert parse_duration(text) == timedelta(seconds=seconds)
    assert parse_duration(format_duration(parse_duration(text))) == parse_duration(text)


@pytest.mark.parametrize("text", ["", "5", "soon", "-5m", "5 minutes", True, 5, None, "9" * 30 + "d", "1m30s"])
def test_what_is_no_duration_is_refused(text: Any) -> None:
    with pytest.raises(ValueError, match="duration"):
        parse_duration(text)


@pytest.mark.parametrize(
    ("text", "size"),
    [("500MB", 500_000_000), ("2GiB", 2 << 30), (" 1.5 gb ", 1_500_000_000), ("1kB", 1_000), ("0.001 MiB", 1_049)],
)
def test_sizes_are_a_number_and_a_unit(text: str, size: int) -> None:
    assert parse_size(text) == size
    assert parse_size(format_size(size)) == size


@pytest.mark.parametrize(
    "text", ["", "5", "5 B", "much", "-5MB", "1,5GB", True, 5, None, "9" * 400 + "GB", "0GB", "٣GB"]
)
def test_what_is_no_size_is_refused(text: Any) -> None:
    with pytest.raises(ValueError, match="size"):
        parse_size(text)


def test_a_size_is_stored_as_it_is_written() -> None:
    spec = spec_from_mapping(changed(limits={"max_memory": "2048 MiB"}), base=Path())
    assert spec.model_dump(mode="json")["limits"]["max_memory"] == "2GiB"
    assert type(spec).model_validate_json(spec.model_dump_json()) == spec


@pytest.mark.parametrize(("written", "name"), [
    ("google:gemini-2.5-flash", "google_genai:gemini-2.5-flash"), ("gemini:g", "google_genai:g"),
    ("claude:claude-haiku-4-5", "anthropic:claude-haiku-4-5"), ("openai:llama:70b", "openai:llama:70b"),
])  # fmt: skip
def test_a_provider_has_one_name_however_it_is_written(written: str, name: str) -> None:
    assert ModelChoice(name=written).name == name
