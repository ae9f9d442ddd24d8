"""What `init` proposes, from how distinct and how long values are."""

from __future__ import annotations

from pathlib import Path
from typing import Any, cast

import polars as pl
import yaml

from pipeline.cli.commands.work.init import render
from pipeline.sources.profile import Proposal, propose
from schemas.spec.document import parse_document
from schemas.spec.loading import spec_from


def proposed(folder: Path, frame: pl.DataFrame) -> Proposal:
    frame.write_csv(folder / "table.csv")
    return propose(folder / "table.csv")


def spec_of(folder: Path, proposal: Proposal) -> dict[str, object]:
    """As it is written, which has to be a spec."""
    written = render(folder, folder / "table.csv", proposal, "offline:lexical")
    spec_from(parse_document(written), base=folder)
    said: dict[str, object] = yaml.safe_load(written)
    return said


def test_a_column_of_one_value_is_not_in_the_prompt(tmp_path: Path) -> None:
    rows = [{"id": n, "Country": "United Kingdom of Great Britain", "text": f"I ordered {n} of them and got none."}
            for n in range(30)]  # fmt: skip
    found = proposed(tmp_path, pl.DataFrame(rows))
    assert (found.key, found.text, found.whole, found.constant) == ("id", ["text"], False, ("Country",))


def test_a_table_without_text_offers_the_record_as_a_whole(tmp_path: Path) -> None:
    """Numbers, codes, names and labels are no text, nor are sentences that come again and again."""
    labels = ["waiting for an answer of the customer", "closed without an answer"]
    frame = pl.DataFrame(
        [
            {"id": n, "city": f"Town {n % 7}", "code": f"X-{n:05}", "state": labels[n % 2], "Country": "UK"}
            | {f"n{at}": n * at for at in range(1, 15)}
            for n in range(60)
        ]
    )
    found = proposed(tmp_path, frame)
    assert (found.whole, found.constant) == (True, ("Country",))
    assert found.text == [name for name in frame.columns if name not in ("id", "Country")]
    (stage,) = cast(list[dict[str, Any]], spec_of(tmp_path, found)["stages"])
    assert "city: {{ city }}\ncode: {{ code }}\n" in stage["prompt"]
    assert list(stage["output"]) == ["kind", "summary"]


def test_what_is_proposed_for_a_text_fits_its_length_and_guesses_no_sentiment(tmp_path: Path) -> None:
    short = proposed(tmp_path, pl.DataFrame({"id": range(20), "note": [f"call number {n} back" for n in range(20)]}))
    assert list(spec_of(tmp_path, short)["stages"][0]["output"]) == ["topic"]  # type: ignore[index]
    text = "A long letter about a thing that was ordered, came late and was broken; what now? "
    long = proposed(tmp_path, pl.DataFrame({"id": range(20), "note": [f"{text}{n}. {text}" for n in range(20)]}))
    assert list(spec_of(tmp_path, long)["stages"][0]["output"]) == ["topic", "summary"]  # type: ignore[index]


def test_a_date_in_words_is_the_time_column(tmp_path: Path) -> None:
    days = pl.DataFrame(
        {"id": [1, 2], "when": ["Jan 1 2000", "Feb 12 2000"], "body": ["one of these", "of two things"]}
    )
    found = proposed(tmp_path, days)
    assert (found.time, found.formats) == ("when", {"when": ["%B %d %Y"]})
