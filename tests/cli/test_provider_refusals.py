"""What a provider does not take, or does not know: one sentence each, by `check` or at the first call, and nothing of
it a traceback."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.cli.support import Project
from tests.harness.model_server import ModelServer

pytestmark = [pytest.mark.commands, pytest.mark.timeout(600)]
MODELS = {
    "openai:gpt-5-mini": "OPENAI_API_KEY", "anthropic:claude-haiku-4-5": "ANTHROPIC_API_KEY",
    "google_genai:gemini-2.5-flash": "GOOGLE_API_KEY",
    "bedrock_converse:us.anthropic.claude-haiku-4-5-20251001-v1:0": "the provider's credentials",
}  # fmt: skip
GRAPH = """\
from langchain_core.messages import HumanMessage
from langgraph.graph import END, START, StateGraph
from typing import TypedDict

class State(TypedDict):
    body: str
    summary: str

def build(model):
    async def look(state):
        content = [{"type": "text", "text": state["body"]},
                   {"type": "image_url", "image_url": {"url": "data:image/png;base64,iVBORw0K"}}]
        return {"summary": str((await model.ainvoke([HumanMessage(content)])).content)}
    graph = StateGraph(State)
    graph.add_node("look", look)
    graph.add_edge(START, "look")
    graph.add_edge("look", END)
    return graph
"""


@pytest.mark.parametrize("model", MODELS)
def test_a_wrong_key_and_an_unknown_model_stop_at_the_first_call(
    tmp_path: Path, model_server: ModelServer, model: str
) -> None:
    project = Project.make(tmp_path, {**model_server.env(), **model_server.other_providers()}, model=model)
    for code, names in (("invalid_api_key", (MODELS[model],)), ("model_not_found", ("Check model: in the spec",))):
        model_server.script({"rules": [{"action": "error", "code": code}]})
        done = project.tandem("run")
        assert done.code == 3, done
        assert "Traceback" not in done.err
        assert all(name in done.err + done.out for name in names), done
        assert project.published() == []


@pytest.mark.parametrize(
    ("stage", "names"),
    [
        ({"params": {"temperature": 0}}, ("takes no temperature = 0", "Take temperature out of params")),
        ({"output": {"kind": {"type": "enum", "values": [f"value {at}" for at in range(1_200)]}}},
         ("1,200 values of enums, and it takes 1,000", "smaller output")),
    ],
    ids=["a refused parameter", "a schema that it cannot express"],
)  # fmt: skip
def test_what_the_provider_is_known_not_to_take_is_said_by_check(
    tmp_path: Path, stage: dict[str, Any], names: tuple[str, ...]
) -> None:
    project = Project.make(tmp_path, {"OPENAI_API_KEY": "sk-test"}, model="openai:gpt-5-mini")
    project.stage.update(stage)
    project.write()
    for command in ("check", "run"):
        done = project.tandem(command)
        assert done.code == 2, done
        assert "Traceback" not in done.err
        assert all(name in done.err for name in names), done


def test_an_image_for_a_model_that_takes_none_is_said_before_it_is_sent(tmp_path: Path) -> None:
    project = Project.make(tmp_path, {"OPENAI_API_KEY": "sk-test"}, model="openai:o3-mini")
    (tmp_path / "looking.py").write_text(GRAPH)
    project.spec["stages"] = [
        {"name": "look", "uses": "looking:build", "model": "openai:o3-mini", "output": {"summary": "str"}}
    ]
    project.write()
    done = project.tandem("run")
    assert done.code == 3, done
    assert "Traceback" not in done.err
    assert "o3-mini takes no images, and a message has one" in done.err + done.out


def test_a_place_or_credentials_of_a_cloud_that_are_missing_are_said_by_check(tmp_path: Path) -> None:
    env = {"NO_GCE_CHECK": "true", "CLOUDSDK_CONFIG": str(tmp_path), "AWS_EC2_METADATA_DISABLED": "true"}
    project = Project.make(tmp_path, env, model="vertex:gemini-2.5-flash")
    place = {"GOOGLE_CLOUD_PROJECT": "p", "GOOGLE_CLOUD_LOCATION": "global"}
    for more, sentence in (({}, "Vertex AI needs a project"), (place, "needs credentials of Google Cloud")):
        project.env = {**env, **more}
        done = project.tandem("check")
        assert (done.code, sentence in done.err) == (2, True), done
        assert "Traceback" not in done.err
