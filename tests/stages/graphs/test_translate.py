"""translate: any length, the form kept, terms and placeholders checked."""

from typing import Any

import pytest

from schemas.errors import SpecError
from stages.contract import GraphStage
from tests.harness.model_server import ModelServer
from tests.stages.support import MODEL, a_graph_stage, answers, enrich, kinds


def a_translate(output: Any = None, **options: Any) -> GraphStage:
    return a_graph_stage(
        {"uses": "translate", "model": MODEL, "prompt": "{{ text }}", "output": output or {"german": "str"},
         "with": {"to": "German", **options}}
    )  # fmt: skip


def saying(text: str, match: str = "*", **rule: Any) -> dict[str, Any]:
    import json

    return {"match": match, "action": "text", "text": json.dumps({"translation": text}), **rule}


async def test_chunks_are_translated_and_joined_as_they_stood(server: ModelServer) -> None:
    server.script({"rules": [saying("EINS", "One"), saying("ZWEI", "Two"), saying("DREI", "Three")]})
    text = (
        "One is first, and it is here.\n\n\nTwo comes after that, as it has ever done in this house of ours.\n"
        "\tThree is last, and is over now.\n"
    )
    outcome = await enrich(a_translate(chunk_tokens=20), [text])
    found = answers(outcome)[0]
    assert found is not None
    assert found["german"].split() == ["EINS", "ZWEI", "DREI"]
    assert found["german"].startswith("EINS\n\n\nZWEI\n")
    assert found["german"].endswith("DREI\n")


async def test_a_link_or_placeholder_that_is_lost_is_asked_for_again(server: ModelServer) -> None:
    server.script({"rules": [saying("Hallo!", times=1), saying("Hallo {name}, siehe https://example.com/a.")]})
    outcome = await enrich(a_translate(), ["Hello {name}, see https://example.com/a."])
    assert kinds(outcome) == ["ok"]
    assert "these must stay as they are: https://example.com/a, {name}" in server.calls()[1].message


async def test_a_term_of_the_glossary_that_is_never_used_rejects_the_row(server: ModelServer) -> None:
    server.script({"rules": [saying("Die Rechnung ist da.")]})
    stage = a_translate(glossary={"invoice": "Faktura"})
    outcome = await enrich(stage, ["The INVOICE is here.", "The invoices are here."])
    assert kinds(outcome) == ["invalid_answer", "ok"]
    assert "'invoice' must be translated as 'Faktura'" in server.calls()[1].message or server.stats().requests == 4


@pytest.mark.parametrize(
    ("output", "options", "sentence"),
    [
        ({"a": "str", "b": "str"}, {}, "needs one output, of type str"),
        ({"a": "int"}, {}, "needs one output, of type str"),
        (None, {"keep": ["("]}, r"stages\[0\].with.keep.*no regular expression"),
        (None, {"to": ""}, r"stages\[0\].with.to"),
    ],
)
def test_contradictions_are_refused(output: Any, options: dict[str, Any], sentence: str) -> None:
    with pytest.raises(SpecError, match=sentence):
        a_translate(output, **options)
