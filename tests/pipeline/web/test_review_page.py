"""The review queue: questions one by one, one reviewer each, and answers as `tandem review answer` takes them."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from pipeline.review.answering import open_questions
from pipeline.review.claims import Claims
from pipeline.review.questions import read_answers
from pipeline.stores import open_store
from pipeline.web.site import Site
from tests.formats.kept import Kept
from tests.pipeline.web.support import form_of, reader, site_of, text_of
from tests.pipeline.web.test_run_pages import HERE

PAGE, ANSWER = "/d/tickets/review", "/d/tickets/review/answer"


@pytest.fixture
def site(tickets: Kept, tmp_path: Path) -> Site:
    """A sink of one's own, as answers are written into it."""
    shutil.copytree(tickets.sink, tmp_path / "out")
    return site_of(tmp_path, tmp_path / "out")


def waiting(site: Site) -> list[str]:
    store = site.dataset("tickets").store
    return [question.id for question in open_questions(store) if question.answer is None]


def test_the_first_open_question_is_shown_with_its_row(tickets: Kept, site: Site) -> None:
    told = [one for one in tickets.told["questions"] if not one["answered"]]
    shown = reader(site).get(PAGE).text
    assert form_of(shown, ANSWER)["question"] == told[0]["id"]
    text = text_of(shown)
    assert f"{len(told)} to answer, {len(tickets.told['questions']) - len(told)} answered" in text
    for value in told[0]["row"].values():
        assert str(value)[:40] in text


def test_an_answer_is_kept_with_the_name_of_the_person(site: Site) -> None:
    site = site_of(site.folder, *site.sinks, reviewer_header="x-user", allowed=frozenset({"data.example"}))
    client = reader(site)
    first = waiting(site)[0]
    fields = {**form_of(client.get(PAGE).text, ANSWER), "answer": "keep it"}
    assert fields["question"] == first
    answered = client.post(ANSWER, data=fields, headers={**HERE, "x-user": "ada"})
    assert "keep it" in text_of(answered.text)
    assert first not in waiting(site)
    store = site.dataset("tickets").store
    records = [record for record in read_answers(store, fields["partition"]) if record.answer == '"keep it"']
    assert [record.by for record in records] == ["ada"]


def test_an_empty_answer_is_refused(site: Site) -> None:
    client = reader(site)
    fields = {**form_of(client.get(PAGE).text, ANSWER), "answer": ""}
    refused = client.post(ANSWER, data=fields, headers=HERE)
    assert "The answer is empty." in text_of(refused.text)
    assert fields["question"] in waiting(site)


def test_two_reviewers_are_shown_two_questions(site: Site) -> None:
    ada, bob = reader(site), reader(site)
    of_ada = form_of(ada.get(PAGE).text, ANSWER)["question"]
    of_bob = form_of(bob.get(PAGE).text, ANSWER)["question"]
    assert of_ada != of_bob
    assert form_of(ada.get(PAGE).text, ANSWER)["question"] == of_ada, "a page that is loaded again shows the same"
    assert "1 shown to others" in text_of(ada.get(PAGE).text)


def test_a_skipped_question_comes_back_after_the_others(site: Site) -> None:
    client = reader(site)
    order, after = [], ""
    for _ in range(len(waiting(site)) + 1):
        order.append(form_of(client.get(f"{PAGE}?after={after}").text, ANSWER)["question"])
        after = order[-1]
    assert order[:-1] == waiting(site)
    assert order[-1] == order[0]


def test_a_question_has_an_address(site: Site) -> None:
    last = waiting(site)[-1]
    assert form_of(reader(site).get(f"{PAGE}?question={last}").text, ANSWER)["question"] == last


def test_all_answered_says_what_publishes_them(site: Site) -> None:
    client = reader(site)
    for _ in waiting(site):
        client.post(ANSWER, data={**form_of(client.get(PAGE).text, ANSWER), "answer": "yes"}, headers=HERE)
    text = text_of(client.get(PAGE).text)
    assert "All is answered" in text
    assert "tandem run" in text


def test_no_question_is_said_so(reviews: Kept) -> None:
    client = reader(site_of(reviews.project.folder, reviews.sink))
    assert "No row waits for an answer" in text_of(client.get("/d/reviews/review").text)


def test_a_claim_ends_by_an_answer_or_by_time() -> None:
    now = 0.0
    claims = Claims(lambda: now)
    assert claims.claim(["a", "b"], "ada") == "a"
    assert claims.claim(["a", "b"], "bob") == "b"
    assert claims.claim(["a", "b"], "eve") is None
    claims.release("a")
    assert claims.claim(["a", "b"], "eve") == "a"
    now = 1_000.0
    assert claims.claim(["b"], "eve") == "b"
    assert claims.of_others("ada") == 1


def test_answers_of_earlier_versions_have_no_name(tickets: Kept) -> None:
    store = open_store(str(tickets.sink))
    found = [record for partition in ("day=2026-11-01", "day=2026-11-02") for record in read_answers(store, partition)]
    assert {record.by for record in found} <= {None}
