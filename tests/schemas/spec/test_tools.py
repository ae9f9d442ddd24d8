"""References to tools in a spec, and the servers that it declares."""

from typing import Any

import pytest

from schemas.errors import SpecError
from schemas.json_schema import spec_schema
from schemas.spec.document import parse_document
from schemas.spec.loading import spec_from_mapping
from schemas.spec.sections import Spec

AGENT: dict[str, Any] = {
    "name": "a", "uses": "agent", "model": "openai:gpt-5", "prompt": "{{ text }}", "output": {"word": "str"},
    "tools": ["mcp:files"],
}  # fmt: skip
FILES: dict[str, Any] = {"files": {"command": ["serve", "--all"]}}


def spec(tmp_path: Any, stage: dict[str, Any], **top: Any) -> Spec:
    data = {"name": "t", "source": {"path": "a.csv"}, "stages": [stage], "sink": {"path": "out"}, **top}
    return spec_from_mapping(data, base=tmp_path)


def test_a_server_is_a_command_or_a_url(tmp_path: Any) -> None:
    files = {"command": "serve 'a file' --all", "env": {"TOKEN": "${FILES_TOKEN}"}}
    web = {"url": "https://h/mcp", "headers": {"Authorization": "Bearer ${T}"}}
    found = spec(tmp_path, AGENT, mcp={"files": files, "web": web})
    assert found.mcp["files"].command == ["serve", "a file", "--all"]
    assert [server.transport for server in found.mcp.values()] == ["stdio", "streamable HTTP"]
    assert Spec.model_validate_json(found.model_dump_json()) == found


REFUSED: list[tuple[dict[str, Any], dict[str, Any], str]] = [
    ({}, {}, "stage a: tools: mcp:files is no server of the spec (it declares none): add mcp: {files: {command: […]}}"),
    ({}, {"mcp": {"other": FILES["files"]}}, "(it declares other)"),
    ({"tools": ["mcp:a b"]}, {}, "'mcp:a b' is not mcp:NAME"),
    ({"tools": ["provider:web_fetch"]}, {}, "'provider:web_fetch' is no tool that providers run: provider:web_search"),
    ({"tools": ["file.py"]}, {}, "'file.py' is not module:attribute, provider:NAME or mcp:NAME"),
    ({}, {"mcp": {"files": {}}}, "either command: [program, argument, …], or url: https://…"),
    ({}, {"mcp": {"files": {"url": "https://h", "env": {"A": "b"}}}}, "env belongs to command"),
    ({}, {"mcp": {"files": {"command": ["x"], "headers": {"A": "b"}}}}, "headers belongs to url"),
    ({}, {"mcp": {"a b": {"command": ["x"]}}}, "'a b': a server's name is letters"),
    ({}, {"mcp": {"files": {"command": ["x"], "env": {"API_KEY": "abc"}}}}, "files.env.API_KEY looks like a secret"),
    ({}, {"mcp": {"files": {"url": "https://h", "headers": {"Authorization": "Bearer abc"}}}}, "looks like a secret"),
    ({"uses": "mcp:graph", "tools": []}, {}, "'mcp:graph': mcp: is reserved for the tools of MCP servers; rename"),
    ({"uses": "provider:graph", "tools": []}, {}, "provider: is reserved for tools that a provider runs"),
    ({"output": "mcp:Answer"}, {"mcp": FILES}, "'mcp:Answer': mcp: is reserved"),
    ({"uses": "extract"}, {"mcp": FILES}, "tools: mcp:files goes with uses: agent; uses: extract takes tools that the"),
    ({"uses": "research"}, {"mcp": FILES}, "uses: research takes functions of yours"),
    ({"uses": "extract", "tools": ["m:f"]}, {}, "tools: m:f goes with uses: agent or research"),
    ({"uses": "summarize", "tools": ["provider:web_search"]}, {}, "tools belongs to uses: extract or classify"),
    ({"uses": "m:graph"}, {"mcp": FILES}, "tools: mcp:files goes with uses: agent: a graph of yours opens a session"),
    ({"uses": "m:graph", "tools": ["provider:web_search"]}, {}, "model.bind_tools"),
    ({"uses": "m:graph", "tools": [], "citations": "c"}, {}, "citations belongs to built-in graphs"),
    ({"citations": "c"}, {"mcp": FILES}, "citations needs tools: [provider:web_search]"),
]  # fmt: skip


@pytest.mark.parametrize(("stage", "top", "sentence"), REFUSED)
def test_what_a_stage_cannot_take_is_refused_by_name(
    tmp_path: Any, stage: dict[str, Any], top: dict[str, Any], sentence: str
) -> None:
    with pytest.raises(SpecError) as caught:
        spec(tmp_path, {**AGENT, **stage}, **top)
    assert sentence in caught.value.message


def test_editors_know_servers_and_references() -> None:
    import jsonschema

    text = """
name: t
source: {path: a.csv}
stages:
  - {name: a, uses: agent, model: "x:y", prompt: p, output: {a: str}, tools: ["mcp:my-files", "provider:web_search"]}
sink: {path: out}
mcp: {my-files: {command: serve --all}, web: {url: "https://h"}}
"""
    jsonschema.validate(parse_document(text).data, spec_schema())
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(parse_document(text.replace("command: serve --all", "env: {}")).data, spec_schema())
