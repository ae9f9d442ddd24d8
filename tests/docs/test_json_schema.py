"""The spec's JSON Schema accepts what loading accepts, the short forms too, and underlines what loading refuses."""

import json
from collections.abc import Iterator
from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest
from jsonschema import Draft202012Validator
from pydantic import BaseModel

from pipeline.cli.commands.work.init import init_command, schema_file
from pipeline.cli.screen.console import Screen
from schemas.errors import SpecError
from schemas.json_schema import spec_schema
from schemas.spec.document import load_document, parse_document
from schemas.spec.loading import spec_from_mapping
from schemas.spec.sections import Spec
from schemas.spec_help import KEYS, SECTIONS
from stages.options import OPTIONS
from stages.registry import BUILT_IN
from tests.cli.support import tandem
from tests.docs.pages import ROOT, code_blocks, pages

SCHEMA = spec_schema(OPTIONS)
EDITOR = Draft202012Validator(SCHEMA)
SPECS = sorted([*ROOT.glob("tests/examples/*/tandem.yaml"), ROOT / "pipeline" / "demo" / "tandem.yaml"])

MINIMAL: dict[str, Any] = {
    "name": "x",
    "source": {"path": "x.csv"},
    "stages": [{"name": "s", "uses": "sql", "query": "SELECT * FROM rows"}],
    "sink": {"path": "out"},
}
ASKING: dict[str, Any] = {"name": "a", "uses": "extract", "model": "openai:x", "prompt": "p", "output": {"o": "str"}}

# What is put over MINIMAL (or, a stage's keys, over ASKING), in every form that loading accepts.
GOOD = [
    "source: {path: x, key: id}",
    "source: {path: x, columns: {a: date, b: {type: datetime, format: '%d'}}, nulls: [], delimiter: ';'}",
    "source: {path: x, format: null}",
    "partition: {by: time, column: day, every: week, zone: Europe/Paris, nulls: own}",
    "partition: {by: rows, rows: 5}",
    "partition: {by: files, column: null}",
    "sink: {path: x, keep_superseded: 0, provenance: null}",
    "sink: {path: x, keep_superseded: '0', format: iceberg, table: a.b}",
    "sink: {path: x, keep_superseded: 1.5h, provenance: none}",
    "limits: {max_reject_rate: 1, max_cost_usd: 25, call_timeout: 500ms, batch_rows: null}",
    "limits: {max_memory: 1.5 gib}",
    "limits: {max_memory: null}",
    "prices: {openai:x: {input: 1, output: 2.5, cached_input: null}}",
    "journal: {flush: 2 s, strict: true, keep: 4w}",
    "checks: [{name: c, sql: a > 1}]",
    "schedule: null",
    "schedule: {cron: '0 3 * * *', overlap: buffer_one}",
    "notify: [{on: [failed], webhook: '${URL}'}, {on: [review, budget], command: [mail, me]}]",
]
GOOD_STAGES = [
    "model: {name: openai:x, params: {temperature: 0}}",
    "model: {main: openai:x}",
    "model: {main: {name: openai:x, params: {}}}",
    "prompt: {file: prompt.md}\nsystem: {file: prompt.md}",
    "when_empty: null\non_reject: null",
    "when_empty: reject\non_reject: 'null'",
    "output: module:Class",
    "output: {a: 'str?', b: 'list[ list[int]? ]', c: {type: 'list[str]', max_length: 3}, d: {fields: {e: date?}}}",
    "output: {a: {type: enum, values: [1, true, x]}, b: {type: 'enum?', values: [x]}, c: {type: list, items: str}}",
    "output: {a: {type: float, ge: 0, lt: 1.5, description: null, optional: true}, b: {type: str, pattern: '^x'}}",
    "with: null",
    "with: {confidence: sure, ask_below: 0.5}\noutput: {o: str, sure: float}",
    "uses: module.sub:graph\nwith: {}\ntools: [a.b:c]\ncontext: {x: [1]}\ninputs: {a: b}\noutputs: {o: p}",
    "uses: cascade\nmodel: {main: openai:x, cheap: openai:y}",
    "uses: summarize\nmodel: {main: openai:x, notes: openai:y}\nwith: {chunk_tokens: 100}",
    "uses: judge\nwith: {rubric: good}",
    "uses: agent\ntools: [a:b]\nwith: {tool_timeout: 10s}",
]
BAD = [
    "name: Not A Name",
    "nam: x",
    "source: {}",
    "source: {path: x, format: excel}",
    "source: {path: x, delimiter: ';;'}",
    "source: {path: x, columns: {a: text}}",
    "partition: {by: time}",
    "partition: {by: rows, column: x}",
    "partition: {by: rows, rows: 0}",
    "stages: []",
    "sink: {path: x, keep_superseded: 15}",
    "sink: {path: x, keep_superseded: 15 minutes}",
    "sink: {path: x, table: x}",
    "limits: {rows_in_flight: '64'}",
    "limits: {max_reject_rate: 2}",
    "limits: {max_cost: 2}",
    "prices: {openai:x: {input: 1}}",
    "checks: [{name: c, sql: a, severity: error}]",
    "schedule: {zone: UTC}",
    "notify: [{on: [], webhook: x}]",
    "notify: [{on: [failed]}]",
    "notify: [{on: [failed], webhook: x, command: [y]}]",
    "notify: [{on: [finished], webhook: x}]",
]
BAD_STAGES = [
    "name: 1st",
    "model: gpt-5",
    "model: {name: gpt-5}",
    "model: {main: openai:x, cheap: openai:y}",
    "prompt: {path: x}",
    "prompt: 3",
    "when_empty: skip",
    "output: {}\nuses: sql",
    "output: Class",
    "output: {a: text}",
    "output: {a: {type: enum}}",
    "output: {a: {type: list}}",
    "output: {a: {description: x}}",
    "tools: [search]",
    "option: {}",
    "uses: cascade",
    "uses: agent",
]


def problems(data: Any) -> list[str]:
    return [f"{error.json_path}: {error.message}" for error in EDITOR.iter_errors(data)]


def loads(data: dict[str, Any], folder: Path) -> bool:
    try:
        spec_from_mapping(data, base=folder)
    except SpecError:
        return False
    return True


def with_top(text: str) -> dict[str, Any]:
    return {**MINIMAL, **parse_document(text).data}


def with_stage(text: str) -> dict[str, Any]:
    return {**MINIMAL, "stages": [{**ASKING, **parse_document(text).data}]}


CASES_GOOD = [*map(with_top, GOOD), *map(with_stage, GOOD_STAGES)]
CASES_BAD = [*map(with_top, BAD), *map(with_stage, BAD_STAGES)]


def test_it_is_a_schema() -> None:
    Draft202012Validator.check_schema(SCHEMA)
    assert SCHEMA["$schema"] == "https://json-schema.org/draft/2020-12/schema"


@pytest.mark.parametrize("path", SPECS, ids=lambda path: str(path.relative_to(ROOT)))
def test_it_accepts_every_spec_of_the_repository(path: Path) -> None:
    assert problems(load_document(path).data) == []


def test_it_accepts_every_spec_of_the_documentation() -> None:
    """Those that are whole."""
    shown = [block.text for page in pages() for block in code_blocks(page) if block.language == "yaml"]
    whole = [text for text in shown if {"name", "source", "stages", "sink"} <= set(parse_document(text).data)]
    assert len(whole) >= 3
    assert [problem for text in whole for problem in problems(parse_document(text).data)] == []


@pytest.mark.parametrize("data", CASES_GOOD, ids=[*GOOD, *GOOD_STAGES])
def test_it_accepts_the_short_forms(data: dict[str, Any], tmp_path: Path) -> None:
    (tmp_path / "prompt.md").write_text("x", encoding="utf-8")
    assert loads(data, tmp_path)
    assert problems(data) == []


@pytest.mark.parametrize("data", CASES_BAD, ids=[*BAD, *BAD_STAGES])
def test_it_refuses_what_loading_refuses(data: dict[str, Any], tmp_path: Path) -> None:
    assert not loads(data, tmp_path)
    assert problems(data)


def test_options_are_refused_as_check_refuses_them() -> None:
    for text in ("with: {ask: 0.5}", "uses: judge", "uses: judge\nwith: {}", "uses: translate\nwith: {to: 3}"):
        assert problems(with_stage(text)), text
    assert problems({**MINIMAL, "stages": [{"name": "s", "uses": "extrakt"}]})


def leaves(value: Any, here: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """The path of everything in a document, branches too."""
    if here:
        yield here
    for key, item in value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ():
        yield from leaves(item, (*here, key))


def replaced(data: Any, path: tuple[Any, ...], value: Any) -> Any:
    copy = deepcopy(data)
    at = copy
    for part in path[:-1]:
        at = at[part]
    at[path[-1]] = value
    return copy


def changes(data: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """A spec with one of its values replaced by each of a dozen others."""
    others: tuple[Any, ...] = (None, True, 0, 7, 0.5, "", "x", "15m", "str", "a:b", [], ["x"], {}, {"x": "a:b"})
    for path in leaves(data):
        if "with" in path:
            continue  # looked at when stages are built, not when a spec is loaded
        for other in others:
            if path[-1] == "uses" and other in ("x", "15m", "str"):
                continue  # loads, but no such stage exists
            yield replaced(data, path, other)


def test_whatever_loads_is_accepted(tmp_path: Path) -> None:
    """Whatever value of a good spec is changed: what loading takes, the schema takes; of what loading refuses, it finds
    nine in ten."""
    (tmp_path / "prompt.md").write_text("x", encoding="utf-8")
    good = [*CASES_GOOD, *(load_document(path).data for path in SPECS)]
    distinct = {json.dumps(changed): changed for data in good for changed in changes(data)}.values()
    wrong: list[Any] = []
    refused = found = 0
    for changed in distinct:
        accepted = EDITOR.is_valid(changed)
        if loads(changed, tmp_path):
            wrong += [] if accepted else [(changed, problems(changed))]
        else:
            refused, found = refused + 1, found + (not accepted)
    assert wrong == []
    assert refused > 1_000
    assert found / refused > 0.9


def test_every_key_has_its_sentence() -> None:
    """And no sentence is left of a key that is gone."""
    models = {name: set(schema["properties"]) for name, schema in Spec.model_json_schema()["$defs"].items()}
    models["Spec"] = set(Spec.model_fields)
    models["Stage"] = models["Stage"] - {"output_class", "options"} | {"with", "reasoning", "verbosity"}
    fallbacks = {"fallback_after", "fallback_on"}
    models["ModelChoice"] -= {"others", *fallbacks}
    models["Fallbacks"] = {"try", *fallbacks}
    assert {name: set(keys) for name, keys in KEYS.items()} == models
    assert set(SECTIONS) == set(models)


def test_every_option_has_its_sentence() -> None:
    assert set(OPTIONS) == set(BUILT_IN)
    silent = [
        f"{name}.{key}"
        for name, schema in SCHEMA["$defs"].items()
        for key, value in schema.get("properties", {}).items()
        if "description" not in value
    ]
    assert silent == []


def test_defaults_are_written_as_in_a_spec() -> None:
    """A duration as `15m`; each default is one that the schema itself accepts."""
    assert SCHEMA["$defs"]["Journal"]["properties"]["keep"]["default"] == "90d"
    for name, schema in SCHEMA["$defs"].items():
        for key, value in schema.get("properties", {}).items():
            if "default" in value:
                own = Draft202012Validator({**value, "$defs": SCHEMA["$defs"]})
                assert own.is_valid(value["default"]), f"{name}.{key}"


def test_the_command_prints_it(tmp_path: Path) -> None:
    assert tandem("schema", cwd=tmp_path).ok().json == json.loads(json.dumps(SCHEMA))


def test_init_writes_it_where_its_spec_says(tmp_path: Path) -> None:
    """An editor with the YAML language server completes and checks a new spec without a network."""
    init_command(tmp_path / "mine", None, None, Screen(quiet=True))
    spec = tmp_path / "mine" / "tandem.yaml"
    first = spec.read_text(encoding="utf-8").splitlines()[0]
    assert first == "# yaml-language-server: $schema=.tandem/tandem.schema.json"
    assert json.loads(schema_file(spec.parent).read_text(encoding="utf-8")) == json.loads(json.dumps(SCHEMA))
    assert problems(load_document(spec).data) == []


def test_models_of_options_have_names_of_their_own() -> None:
    """They share one list of definitions with the sections of the spec."""
    names = [model.__name__ for model in OPTIONS.values()]
    sections: set[type[BaseModel] | str] = set(Spec.model_json_schema()["$defs"])
    assert len(set(names)) == len(set(OPTIONS.values()))
    assert sections.isdisjoint(names)
