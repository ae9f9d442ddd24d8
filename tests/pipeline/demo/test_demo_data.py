"""The bundled demo: what `tandem demo` reads is what this repository can write again."""

import csv
from collections import Counter
from datetime import date, datetime, timedelta

import pytest
import yaml

from pipeline.demo import make_tickets

SPEC = make_tickets.PATH.with_name("tandem.yaml")


@pytest.fixture(scope="module")
def rows() -> list[dict[str, str]]:
    with make_tickets.PATH.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def test_the_file_is_what_the_script_writes() -> None:
    assert make_tickets.as_csv(make_tickets.tickets()) == make_tickets.PATH.read_bytes()
    assert make_tickets.PATH.stat().st_size < 600_000


def test_two_thousand_tickets_with_their_own_ids_over_seven_days(rows: list[dict[str, str]]) -> None:
    assert [row["ticket_id"] for row in rows] == [f"T-{number:06d}" for number in range(1, 2001)]
    times = [datetime.fromisoformat(row["created_at"]) for row in rows]
    assert times == sorted(times)
    assert {at.date() for at in times} == {date(2026, 11, 2) + timedelta(days=day) for day in range(7)}
    assert {row["plan"] for row in rows} == {"free", "pro", "enterprise"}


def test_the_data_is_as_untidy_as_real_mail(rows: list[dict[str, str]]) -> None:
    said = Counter((row["subject"], row["body"]) for row in rows)
    assert 140 <= len(rows) - len(said) <= 170
    assert 5 <= sum(not row["body"] for row in rows) <= 20
    assert any(not row["subject"] and not row["body"] for row in rows)
    for sign in (",", '"', "\n", "ü"):
        assert any(sign in row["body"] for row in rows)
    assert sum(not row["customer"].isascii() for row in rows) > 100


def test_the_spec_names_columns_that_exist(rows: list[dict[str, str]]) -> None:
    spec = yaml.safe_load(SPEC.read_text(encoding="utf-8"))
    assert set(spec) == {"name", "source", "partition", "stages", "sink"}
    assert spec["name"] == "demo-tickets"
    assert spec["source"] == {"path": make_tickets.PATH.name, "key": ["ticket_id"]}
    assert spec["partition"] == {"by": "time", "column": "created_at", "every": "day"}
    (stage,) = spec["stages"]
    assert (stage["name"], stage["uses"], stage["model"]) == ("triage", "extract", "offline:lexical")
    assert set(stage["output"]) == {"category", "urgency", "summary", "tags"}
    assert not set(stage["output"]) & set(rows[0])
    assert all(f"{{{{ {column} }}}}" in stage["prompt"] for column in ("subject", "body"))
