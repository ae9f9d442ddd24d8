"""Every example runs as it stands, over a scripted model server; so do the ways in which it goes wrong."""

import asyncio
import json
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from pipeline.api import Result, run
from pipeline.embedded.server import EmbeddedServer
from stages.registry import BUILT_IN
from tests.harness.model_server import ModelServer

HERE = Path(__file__).parent
EXAMPLES = sorted(path.parent.name for path in HERE.glob("*/tandem.yaml"))


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """One embedded server for all examples, which ends with the last of them."""
    folder = tmp_path_factory.mktemp("home")
    server = asyncio.run(EmbeddedServer.join(folder))
    yield folder
    server.leave()


@pytest.fixture(autouse=True)
def _here(home: Path, model_server: ModelServer, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.delenv("TEMPORAL_ADDRESS", raising=False)
    monkeypatch.setenv("TANDEM_HOME", str(home))
    for name, value in model_server.env().items():
        monkeypatch.setenv(name, value)
    before, modules = list(sys.path), set(sys.modules)
    yield
    sys.path[:] = before
    for name in set(sys.modules) - modules:
        if name in ("tools", "answer"):
            del sys.modules[name]


def ran(name: str, tmp_path: Path) -> tuple[Result, list[dict[str, Any]]]:
    folder = tmp_path / name
    shutil.copytree(HERE / name, folder)
    result = run(folder / "tandem.yaml")
    assert result.report["state"] == "completed", result.report
    assert result.frame is not None
    rows = result.report["rows"]
    assert rows["ok"] + rows["rejected"] + rows["filtered"] + rows["pending"] == rows["in"]
    return result, result.frame.collect().to_dicts()


def says(match: str, answer: Any, **rule: Any) -> dict[str, Any]:
    return {"match": match, "action": "text", "text": json.dumps(answer), **rule}


def calls(match: str, name: str, **arguments: Any) -> dict[str, Any]:
    return {"match": match, "action": "tool_calls", "tool_calls": [{"name": name, "arguments": arguments}]}


def test_there_is_an_example_for_each_built_in_stage() -> None:
    used = {line.split("uses:")[1].split("#")[0].strip() for name in EXAMPLES
            for line in (HERE / name / "tandem.yaml").read_text().splitlines() if "uses:" in line}  # fmt: skip
    assert used - {"answer:graph"} == set(BUILT_IN)


def test_classify(model_server: ModelServer, tmp_path: Path) -> None:
    rules = [says("Charged", {"category": "Billing", "sure": 0.9}),
             says("parcel", {"category": "delivery", "sure": 0.8}),
             says("odd", {"category": "bug", "sure": 0.3}), says("Export", {"category": "software", "sure": 1}),
             says("not valid", {"category": "software", "sure": 1})]  # fmt: skip
    model_server.script({"rules": rules})
    result, rows = ran("classify", tmp_path)
    assert {row["id"]: row["category"] for row in rows} == {1: "billing", 2: "delivery", 3: "other"}
    assert (result.report["rows"]["rejected"], result.report["usage"]["calls"]) == (1, 6)


def test_summarize(model_server: ModelServer, tmp_path: Path) -> None:
    final = {"summary": "All goes ahead.", "decisions": ["item 1"]}
    model_server.script(
        {"rules": [says("Short", final), says("<text", {"notes": "goes ahead"}), says("<notes", final)]}
    )
    _, rows = ran("summarize", tmp_path)
    assert [row["summary"] for row in rows] == ["All goes ahead."] * 2
    models = [call.model for call in model_server.calls()]
    assert (models.count("gpt-5"), models.count("gpt-5-mini")) == (2, len(models) - 2)
    assert len(models) > 5


def test_cascade(model_server: ModelServer, tmp_path: Path) -> None:
    rules = [says("certainly", {"stars": 3, "sure": 0.4}), says("friends", {"stars": 11, "sure": 0.9}, times=1),
             says("review", {"stars": 4, "sure": 0.9})]  # fmt: skip
    model_server.script({"rules": rules})
    result, rows = ran("cascade", tmp_path)
    assert {row["id"]: row["model"].removeprefix("openai:") for row in rows} == {
        1: "gpt-5-nano", 2: "gpt-5", 3: "gpt-5-nano", 4: "gpt-5",
    }  # fmt: skip
    assert result.report["usage"]["calls"] == 6
    share = result.report["cascades"]["read"]
    assert (share["rows"], share["escalated"]) == ({"cheap": 2, "main": 2}, 0.5)
    assert share["saving_usd"] > 0


def test_agent(model_server: ModelServer, tmp_path: Path) -> None:
    looping = {**calls("all of my orders", "order", number=1001), "turns": 100}
    rules = [looping, calls("1001", "order", number=1001), calls("4711", "order", number=4711),
             calls("France", "delivery_days", country="FR"), calls("delete", "delete_everything"),
             says("1001", {"reply": "It was sent.", "order_number": 1001}),
             says("*", {"reply": "I cannot tell.", "order_number": None})]  # fmt: skip
    model_server.script({"rules": rules})
    result, rows = ran("agent", tmp_path)
    assert {row["id"]: row["reply"] for row in rows} == {
        1: "It was sent.", 2: "I cannot tell.", 3: "I cannot tell.", 4: "I cannot tell.",
    }  # fmt: skip
    assert result.report["rows"]["rejected"] == 1  # the one that never stopped calling
    assert result.report["usage"]["calls"] == 4 * 2 + 6


def test_judge(model_server: ModelServer, tmp_path: Path) -> None:
    """One reply is good after a revision; of the other the judge is never satisfied, so the best draft is kept."""
    rules = [says('{"reply":"Sorry, ever so sorry!"}', {"score": 0.9, "problems": []}),
             says("<draft", {"score": 0.3, "problems": ["It is too short."]}),
             says("<problems", {"reply": "Sorry, ever so sorry!"}, times=1),
             says("*", {"reply": "Sorry."})]  # fmt: skip
    model_server.script({"rules": rules})
    result, rows = ran("judge", tmp_path)
    assert sorted((row["quality"], row["reply"]) for row in rows) == [(0.3, "Sorry."), (0.9, "Sorry, ever so sorry!")]
    assert result.report["usage"]["calls"] == 4 + 6


def test_translate(model_server: ModelServer, tmp_path: Path) -> None:
    rules = [says("Hello", {"translation": "Hallo, schick es zurück."}, times=1),
             says("must stay", {"translation": "Hallo {name}, schick es zurück: https://example.com/returns."}),
             says("cart", {"translation": "Leg die Lampe in den Warenkorb."})]  # fmt: skip
    model_server.script({"rules": rules})
    result, rows = ran("translate", tmp_path)
    assert {row["page"]: row["german"][:9] for row in rows} == {"returns": "Hallo {na", "cart": "Leg die L"}
    assert result.report["usage"]["calls"] == 3


def test_research(model_server: ModelServer, tmp_path: Path) -> None:
    plan = {
        "sections": [{"title": "Warranty", "query": "warranty of a lamp"}, {"title": "Returns", "query": "returned"}]
    }
    lost = {"sections": [{"title": "Life", "query": "zzz"}, {"title": "Meaning", "query": "qqq"}]}
    rules = [says("meaning of life", lost), says("<found", {"text": "Two years."}),
             says("<section", {"answer": "Two years.", "sources": ["warranty.md"]}),
             says("broke after", plan)]  # fmt: skip
    model_server.script({"rules": rules})
    result, rows = ran("research", tmp_path)
    assert [(row["id"], row["answer"], row["gaps"]) for row in rows] == [(1, "Two years.", 0)]
    assert result.report["rows"]["rejected"] == 1
    assert any("The customer pays the postage" in call.message for call in model_server.calls())


def test_similar(tmp_path: Path) -> None:
    result, rows = ran("similar", tmp_path)
    assert sorted((row["complaints"], row["example"]) for row in rows) == [
        (1, "My password does not work any more."), (3, "The lamp arrived broken."),
    ]  # fmt: skip
    assert (result.report["rows"]["ok"], result.report["rows"]["out"]) == (4, 2)


def test_chunks(tmp_path: Path) -> None:
    result, rows = ran("chunks", tmp_path)
    assert [row["contract"] for row in rows] == ["A", "B"]
    assert all(row["clauses"] >= 2 and 1 <= row["worst"] <= 5 for row in rows)
    assert result.report["rows"] == {**result.report["rows"], "in": 2, "ok": 2, "out": 2}


def test_graph(model_server: ModelServer, tmp_path: Path) -> None:
    rules = [{"match": "friendly", "action": "text", "text": "Soon."}, calls("AGAIN", "View", angry=True, note="late"),
             calls("Look at", "View", angry=False, note="a lamp")]  # fmt: skip
    model_server.script({"rules": rules})
    _, rows = ran("graph", tmp_path)
    assert [(row["reply"], row["tone"]) for row in rows] == [("Soon.", "calm"), ("Soon.", "angry")]
