"""Datasets, partitions, rows, cells: what the pages show is what commands say of the same sink."""

from __future__ import annotations

import datetime as dt
import decimal
import re
from pathlib import Path
from typing import Any
from urllib.parse import quote

import polars as pl
import pytest

from pipeline.outputs import scan
from pipeline.outputs.row_pages import as_text
from tests.formats.kept import Kept, unpack
from tests.pipeline.web.support import reader, site_of, tables_of, text_of

DAY = "day=2026-11-0"


def page(found: Kept, path: str) -> str:
    answer = reader(site_of(found.project.folder, found.sink)).get(path)
    assert answer.status_code == 200, answer.text
    return answer.text


def whole(cell: str) -> int:
    return int(cell.replace(",", ""))


def test_a_dataset_is_summed_as_outputs_ls_and_runs_list_say(tickets: Kept) -> None:
    (_, line), *_ = tables_of(page(tickets, "/"))
    listed, ran = tickets.told["outputs"], tickets.told["runs"]
    published = [one["published"] for one in tickets.told["partitions"] if one["published"] is not None]
    assert whole(line[1]) == sum(one["rows"] for one in published)
    assert line[2].startswith(str(len(listed)))
    assert whole(line[3]) == sum(one["rejected"] for one in published)
    assert whole(line[4]) == sum(one["pending"] for one in published)
    assert ran[0]["run"] in line[5]
    assert float(line[7]) == pytest.approx(sum(run["usage"]["cost_usd"] for run in ran), abs=1e-6)


def test_partitions_are_those_of_partitions_list(tickets: Kept) -> None:
    (_, *lines), *_ = tables_of(page(tickets, "/d/tickets/partitions"))
    told = {one["partition"]: one for one in tickets.told["partitions"] if one["published"] or one["last_attempt"]}
    assert [line[0] for line in lines] == sorted(told)
    for line in lines:
        published = told[line[0]]["published"] or {"rows": 0, "rejected": 0, "pending": 0, "generation": None}
        assert [whole(cell) for cell in line[2:5]] == [published[name] for name in ("rows", "rejected", "pending")]
        assert line[6] == str(published["generation"] or "–")
        attempt = told[line[0]]["last_attempt"]
        assert attempt is None or line[8].startswith(attempt["outcome"])


def test_a_partition_has_its_generations(tickets: Kept) -> None:
    text = page(tickets, f"/d/tickets/partition?key={DAY}1")
    generations = next(tables_of(text))[1:]
    assert [line[0] for line in generations] == ["4", "3", "2", "1"]
    file = next(one for one in tickets.told["files"] if one["partition"] == f"{DAY}1")
    assert Path(file["path"]).name in text


def test_rows_are_the_published_ones_in_order(tickets: Kept) -> None:
    shown = next(tables_of(page(tickets, "/d/tickets/rows")))
    rows = scan.scan(tickets.sink).collect()
    head = [cell.split()[0] for cell in shown[0]]
    assert head[1:] == [*sorted(rows.columns, key=lambda name: head.index(name))]
    assert [line[head.index("id")] for line in shown[1:]] == [str(value) for value in rows["id"]]
    assert {line[head.index("mood")] for line in shown[1:]} == set(rows["mood"])


@pytest.mark.parametrize(
    ("query", "kept"),
    [
        ("column=mood&operator=is&value=bad", pl.col("mood") == "bad"),
        ("column=mood&operator=not&value=bad", pl.col("mood") != "bad"),
        ("column=urgency&operator=least&value=3", pl.col("urgency") >= 3),
        ("column=urgency&operator=most&value=2", pl.col("urgency") <= 2),
        ("find=NUMBER%203", pl.col("body").str.contains("number 3")),
        (f"partition={DAY}2", pl.col("day") == pl.date(2026, 11, 2)),
        ("column=created_at&operator=least&value=2026-11-03", pl.col("created_at") >= pl.datetime(2026, 11, 3)),
    ],
)  # fmt: skip
def test_filters_keep_what_polars_keeps(tickets: Kept, query: str, kept: pl.Expr) -> None:
    found = list(tables_of(page(tickets, f"/d/tickets/rows?{query}")))
    expected = scan.scan(tickets.sink).filter(kept).collect()["id"].to_list()
    if not expected:
        assert not found
        return
    head = [cell.split()[0] for cell in found[0][0]]
    assert [line[head.index("id")] for line in found[0][1:]] == list(map(str, expected))


def test_rows_are_sorted_over_all_partitions(tickets: Kept) -> None:
    shown = next(tables_of(page(tickets, "/d/tickets/rows?sort=id&down=1")))
    head = [cell.split()[0] for cell in shown[0]]
    ids = [int(line[head.index("id")]) for line in shown[1:]]
    assert ids == sorted(ids, reverse=True)


def test_what_cannot_be_done_is_a_sentence(tickets: Kept) -> None:
    client = reader(site_of(tickets.project.folder, tickets.sink))
    for path, sentence in {
        "/d/tickets/rows?sort=nothing": "There is no column 'nothing'.",
        "/d/tickets/rows?column=urgency&operator=least&value=much": "'much' cannot be compared with 'urgency'",
        "/d/tickets/rows?column=urgency&operator=like&value=1": "'like' is no condition.",
        "/d/tickets/rows?partition=day=1999-01-01": "no such partition is published",
        "/d/tickets/partition?key=none": "no such partition",
        f"/d/tickets/row?partition={DAY}1&row=none": "has no row 'none'",
    }.items():
        answer = client.get(path)
        assert (answer.status_code, sentence in text_of(answer.text)) == (400, True), (path, answer.text)
    assert client.get("/d/nothing/rows").status_code == 404


def _cell(found: Kept, rows: str, column: str) -> str:
    """The page of the first cell of a column of some rows."""
    links = re.findall(r'href="(/d/[^"]*/row\?[^"]*)"', page(found, rows))
    link = next(
        one for one in links if f"column={quote(column)}&amp;" in one or one.endswith(f"column={quote(column)}")
    )
    return page(found, link.replace("&amp;", "&"))


def test_a_cell_names_its_stage_and_the_generation_before(tickets: Kept) -> None:
    text = text_of(_cell(tickets, f"/d/tickets/rows?partition={DAY}1", "mood"))
    assert "Written by the stage triage (extract)" in text
    assert "openai:test-model" in text
    assert re.search(r"Generation \d, before", text)
    assert "The request is not kept" in text  # of calls that were made before requests were kept


def test_a_cell_of_the_source_says_so(tickets: Kept) -> None:
    text = text_of(_cell(tickets, f"/d/tickets/rows?partition={DAY}1", "body"))
    assert "A column of the source, passed through." in text
    assert "No model was asked for this cell." in text


def test_rows_of_a_stage_over_tables_have_no_calls(reviews: Kept) -> None:
    listed = page(reviews, "/d/reviews/rows")
    assert "sentiment" in listed
    text = text_of(_cell(reviews, "/d/reviews/rows", "words"))
    assert "Written by the stage count (counting:graph)" in text


@pytest.mark.parametrize("name", ["tickets", "reviews", "lake"])
def test_every_page_opens_on_every_kept_sink(name: str, tmp_path: Path) -> None:
    found = unpack(name, tmp_path)
    client = reader(site_of(tmp_path, found.sink))
    slug = re.findall(r'href="/d/([^/"]+)/partitions"', client.get("/").text)[0]
    for path in ("partitions", "rows", "rows?changed=1", "runs", "rejects", "review", "spend", "schedules"):
        answer = client.get(f"/d/{slug}/{path}")
        assert answer.status_code == 200, (path, text_of(answer.text))
    for kind in ("row", "partition", "runs"):
        links = re.findall(rf'href="(/d/{slug}/{kind}[?/][^"]+)"', client.get(f"/d/{slug}/rows").text)
        links += re.findall(rf'href="(/d/{slug}/{kind}[?/][^"]+)"', client.get(f"/d/{slug}/{kind}").text)
        for link in links[:6]:
            answer = client.get(link.replace("&amp;", "&"))
            assert answer.status_code == 200, (link, text_of(answer.text))


def test_values_of_every_type_are_text_that_can_be_found() -> None:
    values = {
        "list": ([[1, 2], None], "[1,2]"),
        "texts": ([["a"], None], '["a"]'),
        "deep": ([[["q"]], None], '[["q"]]'),
        "struct": ([{"p": [1]}, None], '{"p":[1]}'),
        "structs": ([[{"x": 1}], None], '[{"x":1}]'),
        "flag": ([True, None], "true"),
        "date": ([dt.date(2026, 1, 1), None], "2026-01-01"),
        "time": ([dt.datetime(2026, 1, 1, 5, tzinfo=dt.UTC), None], "2026-01-01 05:00:00"),
        "span": ([dt.timedelta(seconds=3), None], "PT3S"),
        "bytes": ([b"ab", None], "6162"),
        "money": ([decimal.Decimal("1.50"), None], "1.50"),
        "real": ([0.5, None], "0.5"),
    }
    frame = pl.DataFrame({name: column for name, (column, _) in values.items()}, strict=False)
    for name, (_, text) in values.items():
        assert frame.select(as_text(name, frame.schema[name])).to_series().to_list() == [text, None], name


def test_an_empty_folder_says_what_to_do_next(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TANDEM_HOME", str(tmp_path / ".home"))
    text = text_of(reader(site_of(tmp_path)).get("/").text)
    assert "No dataset yet" in text
    assert "tandem demo" in text


def test_a_damaged_dataset_does_not_hide_the_others(tickets: Kept, reviews: Kept, tmp_path: Path) -> None:
    import shutil

    broken = tmp_path / "out"
    shutil.copytree(reviews.sink, broken)
    for commit in broken.glob("_tandem/commits/*/*.json"):
        commit.write_text("{")
    shutil.rmtree(broken / "_tandem" / "catalogue")
    answer = reader(site_of(tmp_path, tickets.sink, broken)).get("/")
    assert answer.status_code == 200
    assert "is damaged" in answer.text
    assert "/d/tickets/partitions" in answer.text


def test_the_map_has_a_square_for_each_of_many_partitions() -> None:
    from pipeline.planning.partition_status import PartitionStatus
    from pipeline.web.facts.partitions import map_of

    def status(key: str) -> Any:
        return PartitionStatus(key, None, 0, None, due=False, gone=False, reason="")

    days = map_of([status(f"day=2026-{month:02d}-{day:02d}") for month in range(1, 13) for day in range(1, 29)])
    assert len(set(days.cells)) == 12 * 28
    assert [label.text for label in days.labels] == ["2026"]
    hours = map_of([status(f"hour=2026-11-0{day}T{hour:02d}Z") for day in (1, 2) for hour in range(24)])
    assert len(set(hours.cells)) == 48
    many = map_of([status(f"file={number}") for number in range(10_000)])
    assert len(set(many.cells)) == 10_000
    assert sum(layer.path.count("M") for layer in many.layers) == 10_000
    odd = map_of([status(f"day=2026-02-{day}") for day in ("30", "31")])
    assert len(set(odd.cells)) == 2
