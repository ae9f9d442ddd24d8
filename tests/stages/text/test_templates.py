"""Prompts are strict, sandboxed, and say what they read before any row is rendered."""

import datetime as dt
from typing import Any

import pytest

from schemas.errors import RowError, SpecError
from stages.text.templates import Template, is_blank

COLUMNS = frozenset(("subject", "body", "Order ID", "tags"))


def template(text: str) -> Template:
    return Template(text, where="stage x: prompt")


def test_an_unknown_column_is_refused_by_name_and_the_known_ones_are_listed() -> None:
    with pytest.raises(SpecError, match=r"reads 'bdy', which is no column here.*body") as caught:
        template("{{ subject }} {{ bdy }}").reads(COLUMNS)
    assert "Order ID" in str(caught.value)


@pytest.mark.parametrize(
    ("text", "reads"),
    [
        ("plain", set()),
        ("{{ subject }}{# {{ body }} #}", {"subject"}),
        ('{{ row["Order ID"] }}', {"Order ID"}),
        ("{{ row.body }}", {"body"}),
        ("{% for tag in tags %}{{ tag }}{{ loop.index }}{% endfor %}", {"tags"}),
        ("{% set x = body %}{{ x }}", {"body"}),
        ("{% for name, value in row.items() %}{{ name }}{% endfor %}", set(COLUMNS)),
        ('{{ row.get("body") }}', set(COLUMNS)),
        ("{% if subject %}{{ body }}{% endif %}", {"subject", "body"}),
    ],
)
def test_what_a_template_reads_is_known_before_any_row(text: str, reads: set[str]) -> None:
    assert template(text).reads(COLUMNS) == reads


def test_a_real_column_called_row_wins_over_the_variable() -> None:
    prompt = template("{{ row }}")
    assert prompt.reads(frozenset(("row", "body"))) == {"row"}
    assert prompt.render({"row": "third"}) == "third"


@pytest.mark.parametrize(
    ("text", "row", "rendered"),
    [
        ("a{{ body }}b", {"body": None}, "ab"),
        ("{{ body | trim | upper }}", {"body": None}, ""),
        ("{{ body ~ '!' }}", {"body": None}, "!"),
        ("{{ body or 'none given' }}", {"body": None}, "none given"),
        ("{% if body is none %}null{% endif %}", {"body": None}, "null"),
        ("{% if body is not none %}there{% endif %}", {"body": ""}, "there"),
        ("{% if body == none %}null{% endif %}", {"body": None}, "null"),
        ("{% for t in tags %}{{ t }}{% endfor %}", {"tags": None}, ""),
        ("{{ tags[1] }}", {"tags": ["a", None]}, ""),
    ],
)
def test_null_renders_as_nothing_through_filters_too_and_is_still_none(
    text: str, row: dict[str, object], rendered: str
) -> None:
    assert template(text).render(row) == rendered


def test_a_column_whose_name_is_no_identifier_is_read_through_row() -> None:
    assert template('{{ row["Order ID"] }}').render({"Order ID": 7}) == "7"


def test_loops_conditions_and_filters_work() -> None:
    text = "{{ subject | lower }}:{% for t in tags %}{{ t }}{{ ',' if not loop.last }}{% endfor %}"
    assert template(text).render({"subject": "ABC", "tags": ["x", "y"]}) == "abc:x,y"
    assert template("{{ day }}").render({"day": dt.date(2026, 11, 1)}) == "2026-11-01"


@pytest.mark.parametrize(
    "text",
    [
        "{{ body.__class__ }}",
        "{{ body.__class__.__mro__[1].__subclasses__() }}",
        "{{ ''.__class__ }}",
        "{{ body | attr('__class__') }}",
        "{{ tags.append('x') }}",
        "{{ '{0.__class__}'.format(body) }}",
    ],
)
def test_the_sandbox_lets_no_attribute_escape(text: str) -> None:
    with pytest.raises(RowError) as caught:
        template(text).render({"body": "b", "tags": ["a"]})
    assert caught.value.kind == "template"


def test_an_expression_that_fails_on_a_row_rejects_that_row() -> None:
    prompt = template("{{ 10 // level }}")
    assert prompt.render({"level": 5}) == "2"
    for level in (0, None, "x"):
        with pytest.raises(RowError):
            prompt.render({"level": level})


@pytest.mark.parametrize("text", ["{{ body", "{% if body %}", "{{ body | nosuchfilter }}", "{% for %}"])
def test_a_syntax_error_names_the_line(text: str) -> None:
    with pytest.raises(SpecError, match=r"stage x: prompt: line 2 of the template"):
        template(f"first\n{text}")


@pytest.mark.parametrize("text", ["{% include 'x' %}", "{% import 'x' as y %}", "{% extends 'x' %}"])
def test_other_templates_are_refused_at_check(text: str) -> None:
    with pytest.raises(SpecError, match="cannot include"):
        template(text)


def test_globals_of_jinja_are_no_hidden_names() -> None:
    with pytest.raises(SpecError, match="'lipsum'"):
        template("{{ lipsum() }}").reads(COLUMNS)


def test_blank_is_null_or_white_space() -> None:
    assert is_blank(None)
    assert is_blank(" \n\t")
    assert not is_blank("x")
    assert not is_blank(0)


@pytest.mark.parametrize(
    ("template", "row", "text"),
    [
        ("{{ s.x }}", {"s": None}, ""),
        ("{{ s['x'] }}", {"s": None}, ""),
        ("{{ s.x.y | trim }}|", {"s": None}, "|"),
        ("{{ s.x.y }}", {"s": {"x": None}}, ""),
        ("{{ s.x.y }}", {"s": {"x": {"y": 1}}}, "1"),
        ("{{ s.title | upper }}", {"s": None}, ""),  # `title` is a method of every text
        ("{{ s.x or 'none' }}", {"s": None}, "none"),
        ("{% if s.x is none %}none{% endif %}", {"s": None}, "none"),
        ("{% for a in s.items() %}{{ a }}{% endfor %}", {"s": None}, ""),
        ("{% for a in s.parts %}{{ a }}{% endfor %}", {"s": None}, ""),
        ("{{ s.parts[0].x }}", {"s": None}, ""),
        ("{{ s.upper() }}", {"s": None}, ""),
        ("{{ row.s.x }}", {"s": None}, ""),
    ],
)
def test_what_a_null_holds_is_null(template: str, row: dict[str, Any], text: str) -> None:
    assert Template(template, where="stage a: prompt").render(row) == text


def test_the_class_of_a_null_is_not_to_be_had() -> None:
    with pytest.raises(RowError):
        Template("{{ s.__class__.x }}", where="stage a: prompt").render({"s": None})
