"""The review queue: questions one by one, each shown to one reviewer at a time."""

import getpass
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import orjson
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import Response

from pipeline.operations.answer import checked_answer, notify_waiting, save_answers, waiting_partitions
from pipeline.review.answering import ReviewQuestion, open_questions, refusal, shown
from pipeline.sinks.row_files import row_name
from pipeline.web.access import form_of, is_loopback
from pipeline.web.rendering import plain, pretty
from pipeline.web.site import Shown, Site
from pipeline.web.views.common import back_to, dataset_of, show, site_of
from schemas.errors import UsageError

_LISTED = 200
_KEYS = 9


@dataclass(frozen=True)
class Option:
    """An answer that one key gives. `value` is JSON."""

    key: str
    label: str
    value: str


@dataclass(frozen=True)
class Proposal:
    """What the model proposes, column by column, and why it asks."""

    why: str
    values: tuple[tuple[str, str], ...]


@dataclass(frozen=True)
class QuestionText:
    """A question as it is shown. `text` is what a graph asks; `confirm`: Enter accepts the proposal."""

    question: ReviewQuestion
    name: str
    text: str
    proposal: Proposal | None
    confirm: bool
    options: tuple[Option, ...]
    row: tuple[tuple[str, str], ...]
    schema: str
    answer: str


def review(request: Request) -> Response:
    site, dataset, asked = site_of(request), dataset_of(request), request.query_params
    partition = asked.get("partition", "")
    questions = open_questions(dataset.store, partition or None)
    left = [question for question in questions if question.answer is None]
    current = _current(site, dataset, request, questions, left)
    groups = Counter((question.partition, question.stage) for question in questions)
    missing = Counter((question.partition, question.stage) for question in left)
    return show(
        request, "review", "review", dataset, partition=partition, current=current, left=len(left),
        answered=len(questions) - len(left), others=site.claims.of_others(reviewer_of(request)),
        groups=[(*group, missing[group], count) for group, count in groups.items()],
        questions=[
            (one, row_name(one.key) or one.row_id[:12], shown(one.question, 120), _text(one.answer))
            for one in questions[:_LISTED]
        ],
        more=max(0, len(questions) - _LISTED), wait=all(question.generation is None for question in questions),
    )  # fmt: skip


def reviewer_of(request: Request) -> str:
    """Return what tells reviewers apart: the proxy's name of a person, else the browser's own."""
    access = site_of(request).access
    named = request.headers.get(access.reviewer_header, "") if access.reviewer_header else ""
    return named or request.cookies.get(access.browser_cookie, "")


def name_of(request: Request) -> str:
    """Return the name of the person, from the trusted proxy; on one's own machine that of its user."""
    access = site_of(request).access
    if access.reviewer_header:
        return request.headers.get(access.reviewer_header, "").strip()[:200]
    if not is_loopback(access.host):
        return ""
    try:
        return getpass.getuser()
    except (KeyError, OSError):
        return ""


def _current(
    site: Site, dataset: Shown, request: Request, questions: Sequence[ReviewQuestion], left: Sequence[ReviewQuestion]
) -> QuestionText | None:
    """Return the question of the address, else the next one that nobody else looks at; after a skip, from there on."""
    chosen, after = request.query_params.get("question", ""), request.query_params.get("after", "")
    if chosen:
        return next((described(one) for one in questions if one.id == chosen), None)
    names = [one.id for one in left]
    start = names.index(after) + 1 if after in names else 0
    ordered = [*names[start:], *names[:start]]
    free = site.claims.claim([f"{dataset.slug}/{name}" for name in ordered], reviewer_of(request))
    return next((described(one) for one in left if f"{dataset.slug}/{one.id}" == free), None)


def described(question: ReviewQuestion) -> QuestionText:
    asks, schema = question.question, question.schema
    proposal = _proposal(asks)
    confirm = proposal is not None and refusal(question, {}) is None
    return QuestionText(
        question=question,
        name=row_name(question.key) or question.row_id[:12],
        text="" if proposal is not None else _asked(asks),
        proposal=proposal,
        confirm=confirm,
        options=tuple(_options(schema, proposal)),
        row=tuple((name, plain(value)) for name, value in question.reads.items()),
        schema=pretty(schema) if schema else "",
        answer=_text(question.answer),
    )


def _proposal(asks: Any) -> Proposal | None:
    """Return the proposal of a stage that asks where its model is unsure."""
    if not isinstance(asks, dict) or set(asks) != {"why", "answer"} or not isinstance(asks["answer"], dict):
        return None
    return Proposal(str(asks["why"]), tuple((name, plain(value)) for name, value in asks["answer"].items()))


def _asked(asks: Any) -> str:
    if isinstance(asks, dict) and "ask" in asks:
        rest = {name: value for name, value in asks.items() if name != "ask"}
        return f"{plain(asks['ask'])}" + (f"\n{pretty(rest)}" if rest else "")
    return pretty(asks)


def _options(schema: Any, proposal: Proposal | None) -> list[Option]:
    """Return the answers that can be chosen by a digit: values of an enum, yes and no, or those of the one column that
    has a list of values."""
    if not isinstance(schema, dict):
        return []
    if "enum" in schema:
        return _keyed([(plain(value), value) for value in schema["enum"]])
    if schema.get("type") == "boolean":
        return _keyed([("yes", True), ("no", False)])
    columns = {name: one["enum"] for name, one in (schema.get("properties") or {}).items() if "enum" in one}
    if schema.get("type") == "object" and len(columns) == 1 and not schema.get("required"):
        ((name, values),) = columns.items()
        return _keyed([(f"{name}: {plain(value)}", {name: value}) for value in values])
    return []


def _keyed(values: list[tuple[str, Any]]) -> list[Option]:
    return [
        Option(str(number), label, orjson.dumps(value).decode())
        for number, (label, value) in enumerate(values[:_KEYS], start=1)
    ]


def _text(answer: str | None) -> str:
    return "" if answer is None else shown(orjson.loads(answer), 80)


async def answer(request: Request) -> Response:
    """Take an answer, and go on to the next question. Raises UsageError for one that does not fit."""
    site, dataset = site_of(request), await run_in_threadpool(dataset_of, request)
    fields = await form_of(request, site.access)
    name, partition = fields.get("question", ""), fields.get("partition", "")
    questions = await run_in_threadpool(open_questions, dataset.store, partition or None)
    question = next((one for one in questions if one.id == name), None)
    if question is None:
        raise UsageError("This question is not open any more.", hint="Somebody has answered it, or its row went on.")
    value = checked_answer(question, fields.get("answer", ""), as_text=fields.get("text") == "1", name="The answer")
    await save_answers(dataset.store, [(question, value)], name_of(request))
    waiting = waiting_partitions([(question, value)])
    if waiting:
        await notify_waiting(await site.connection(dataset.base), dataset.store, dataset.pipeline, waiting)
    site.claims.release(f"{dataset.slug}/{question.id}")
    text = f"{row_name(question.key) or question.row_id[:12]}: {shown(value, 80) if value != {} else 'confirmed'}."
    return back_to(site, text, "d", dataset.slug, "review", partition=fields.get("from", ""))
