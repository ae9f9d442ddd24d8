"""research: sections searched and written at once; those that fail cost themselves only."""

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest

from schemas.errors import SpecError
from stages.contract import GraphStage
from stages.models.settings.choice import ModelServices
from stages.registry import build_stages
from stages.text.search import Corpus
from tests.harness.model_server import ModelServer
from tests.stages.support import MODEL, TEXT, Segments, a_context, a_spec, answers, enrich, kinds, until

SEARCHED: list[str] = []


def search(query: str) -> str:
    """Look something up."""
    SEARCHED.append(query)
    if "broken" in query:
        raise ConnectionError("no route")
    return "" if "empty" in query else f"Facts about {query}."


def two(query: str, most: int) -> str:
    """A search of two arguments."""
    return query * most


@pytest.fixture(autouse=True)
def _nothing_searched() -> None:
    SEARCHED.clear()


def a_research(base: Path = Path(), *, tools: Any = ("search",), **options: Any) -> GraphStage:
    spec = a_spec(
        {"uses": "research", "model": MODEL, "prompt": "{{ text }}", "output": {"report": "str"},
         "tools": [f"{__name__}:{name}" for name in tools], "with": options},
        rows_in_flight=32,
    )  # fmt: skip
    found = build_stages(spec, TEXT, base=base, services=ModelServices())[0]
    assert isinstance(found, GraphStage)
    return found


def planning(*queries: str) -> dict[str, Any]:
    plan = {"sections": [{"title": f"On {query}", "query": query} for query in queries]}
    return {"match": "<question", "times": 1, "action": "text", "text": json.dumps(plan)}


REPORT = {"match": "<section", "action": "text", "text": '{"report": "all of it"}'}
WRITE = {"match": "<found", "action": "text", "text": '{"text": "a section"}'}


async def test_twenty_sections_of_which_three_fail_make_one_report(server: ModelServer) -> None:
    queries = [f"broken {at}" if at in (3, 9) else "empty" if at == 15 else f"topic {at}" for at in range(20)]
    server.script({"latency_ms": 20, "rules": [planning(*queries), WRITE, REPORT]})
    stage = a_research(sections=20, parallel=5, failed="gone", max_failed=0.2)
    assert answers(await enrich(stage, ["What is there?"])) == [{"report": "all of it", "gone": 3}]
    assert sorted(SEARCHED) == sorted(queries)
    stats = server.stats()
    assert stats.requests == 1 + 17 + 1
    assert 1 < stats.max_in_flight <= 5
    last = server.calls()[-1].message
    assert last.count("<section ") >= 1
    assert "<question " in last


async def test_what_is_missing_is_told_and_too_much_of_it_rejects_the_row(server: ModelServer) -> None:
    server.script({"rules": [planning("lamps", "broken lamps"), WRITE, REPORT]})
    assert kinds(await enrich(a_research(), ["?"])) == ["ok"]
    assert "has to do without: On broken lamps" in server.calls()[-1].message
    server.script({"rules": [planning("lamps", "broken lamps"), WRITE, REPORT]})
    outcome = await enrich(a_research(max_failed=0.4), ["??"])
    assert kinds(outcome) == ["sections_failed"]
    record = outcome.records[0]
    assert record is not None
    assert record.error is not None
    assert record.error["message"] == "1 of 2 sections failed: search: ConnectionError: no route"


async def test_a_section_whose_text_never_fits_is_one_that_failed(server: ModelServer) -> None:
    server.script({"rules": [planning("lamps", "chairs"), {**WRITE, "match": "about chairs"},
                             {"match": "<found", "action": "bad_json"}, {"match": "not valid", "action": "bad_json"},
                             REPORT]})  # fmt: skip
    assert answers(await enrich(a_research(failed="gone"), ["?"])) == [{"report": "all of it", "gone": 1}]


async def test_killed_between_sections_only_the_missing_ones_are_paid(server: ModelServer) -> None:
    queries = [f"topic {at}" for at in range(8)]
    server.script({"rules": [planning(*queries), {"match": "about topic 7", "action": "hang"}, WRITE, REPORT]})
    segments, stage = Segments(), a_research(sections=8)
    doomed = asyncio.create_task(enrich(stage, ["?"], a_context(segments)))
    await until(lambda: server.stats().answered_ok == 8)
    doomed.cancel()
    with pytest.raises(asyncio.CancelledError):
        await doomed
    server.script({"rules": [WRITE, REPORT]})
    assert kinds(await enrich(stage, ["?"], a_context(segments))) == ["ok"]
    assert server.stats().answered_ok == 10
    assert len(SEARCHED) == 8  # a search is journalled, too


# The local corpus --------------------------------------------------------------------------------------------------


def test_the_corpus_ranks_what_is_rare_and_near() -> None:
    files = {"a.md": "The returns policy allows thirty days.\n\n" + "Lamps and chairs. " * 60,
             "b.md": "Lamps are returned within sixty days, batteries never."}  # fmt: skip
    corpus = Corpus(files)
    assert corpus.search("returning batteries", 1)[0].source == "b.md"
    assert corpus.search("the policy", 1)[0].text.startswith("The returns policy")
    assert corpus.search("quantum", 5) == []
    assert corpus.search("lamps", 2) == corpus.search("lamps", 2)


def test_word_endings_and_stop_words_are_those_of_the_language() -> None:
    files = {"a.md": "Die Häuser sind groß.", "b.md": "Das Auto fährt in die Stadt."}
    assert [found.source for found in Corpus(files, "german").search("Haus", 5)] == ["a.md"]
    assert Corpus(files, "german").search("die", 5) == []
    assert Corpus(files, "english").search("Haus", 5) == []


@pytest.mark.parametrize("files", [{}, {"a.md": ""}, {"a.md": "the of and"}])
def test_a_corpus_without_words_finds_nothing(files: dict[str, str]) -> None:
    assert Corpus(files).search("the anything", 5) == []


async def test_a_folder_of_texts_is_searched_and_is_part_of_the_fingerprint(
    server: ModelServer, tmp_path: Path
) -> None:
    (tmp_path / "docs").mkdir()
    (tmp_path / "docs/policy.md").write_text("Parcels are delivered within three days.")
    stage = a_research(tmp_path, tools=(), corpus="docs")
    server.script({"rules": [planning("delivery of parcels", "nothing like it"), WRITE, REPORT]})
    assert kinds(await enrich(stage, ["When?"])) == ["ok"]
    written = [call.message for call in server.calls() if "<found" in call.message]
    assert len(written) == 1
    assert "[docs/policy.md]\nParcels are delivered within three days." in written[0]
    (tmp_path / "docs/other.md").write_text("More.")
    assert a_research(tmp_path, tools=(), corpus="docs").fingerprint != stage.fingerprint


@pytest.mark.parametrize(
    ("given", "sentence"),
    [
        ({"tools": ()}, "needs one search.*corpus"),
        ({"corpus": "docs"}, "needs one search"),
        ({"tools": ("two",)}, "two takes query, most.*one argument"),
        ({"tools": (), "corpus": "nothing"}, "with.corpus = 'nothing' has no text files"),
        ({"tools": (), "corpus": ".", "language": "klingon"}, "with.language = 'klingon' is not known"),
        ({"failed": "report"}, "with.failed = 'report' is declared under output"),
    ],
)
def test_contradictions_are_refused(given: dict[str, Any], sentence: str, tmp_path: Path) -> None:
    with pytest.raises(SpecError, match=sentence):
        a_research(tmp_path, **given)
