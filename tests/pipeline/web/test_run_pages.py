"""Runs, rejects, spend, schedules: what the pages show is what commands say of the same sink."""

from __future__ import annotations

from pathlib import Path

import pytest

from pipeline.runs.report import load_report
from pipeline.runs.statistics import document as statistics
from pipeline.runs.statistics.document import ModelUsage, RunStatistics
from pipeline.stores import LocalStore
from schemas import ids
from tests.formats.kept import Kept, unpack
from tests.pipeline.web.support import TOKEN, form_of, reader, site_of, tables_of, text_of
from tests.pipeline.web.test_data_pages import page, whole

HERE = {"origin": "http://127.0.0.1:8420"}


def test_runs_are_those_of_runs_list(tickets: Kept) -> None:
    (_, *lines), *_ = tables_of(page(tickets, "/d/tickets/runs"))
    told = tickets.told["runs"]
    assert [line[0] for line in lines] == [run["run"] for run in told]
    for line, run in zip(lines, told, strict=True):
        partitions, rows = run["partitions"], run["rows"]
        figures = (
            partitions["published"],
            partitions["unchanged"],
            partitions["failed"],
            rows["out"],
            rows["rejected"],
        )
        assert line[1] == run["state"]
        assert tuple(map(whole, line[4:9])) == figures
        assert whole(line[9]) == run["usage"]["calls"]
        assert float(line[10]) == pytest.approx(run["usage"]["cost_usd"], abs=1e-6)


def test_a_run_has_its_report(tickets: Kept) -> None:
    shown = page(tickets, "/d/tickets/runs/first")
    told = tickets.told["run first"]
    text = text_of(shown)
    for figure in (
        f"partitions published {told['partitions']['published']} of {told['partitions']['total']}",
        f"rows in {told['rows']['in']}",
        f"rejected {told['rows']['rejected']}",
        f"calls paid {told['usage']['calls']}",
    ):
        assert figure in text
    assert "/d/tickets/partition?key=" in shown, "partitions lead to their pages"


def test_a_failed_run_says_why(tickets: Kept) -> None:
    failure = tickets.told["run failing"]["failures"][0]
    assert failure["message"][:60] in text_of(page(tickets, "/d/tickets/runs/failing"))


def test_rejects_are_those_of_rejects_ls_and_show(tickets: Kept) -> None:
    listed = list(tables_of(page(tickets, "/d/tickets/rejects")))
    classes: dict[tuple[str, str], int] = {}
    for line in tickets.told["rejects"]:
        classes[line["error"], line["stage"]] = classes.get((line["error"], line["stage"]), 0) + line["rows"]
    assert {(line[0], line[1]): whole(line[2]) for line in listed[0][1:]} == classes
    assert len(listed[1]) - 1 == len(tickets.told["rejected_rows"])
    error = tickets.told["rejects"][0]["error"]
    only = list(tables_of(page(tickets, f"/d/tickets/rejects?error={error}")))[1][1:]
    assert {line[3] for line in only} == {error}
    row = tickets.told["rejected_rows"][0]
    one = text_of(page(tickets, f"/d/tickets/rejects?row={row['row_id']}"))
    assert row["message"] in one
    assert "The request is not kept." in one


def test_a_partition_has_its_own_rejects(tickets: Kept) -> None:
    partition = tickets.told["rejects"][0]["partition"]
    rows = list(tables_of(page(tickets, f"/d/tickets/rejects?partition={partition}")))[1][1:]
    assert {line[1].split()[0] for line in rows} == {partition}


def test_spend_is_the_sum_of_reports(tickets: Kept) -> None:
    days = next(tables_of(page(tickets, "/d/tickets/spend")))[1:]
    ended = [run for run in tickets.told["runs"] if run["finished_at"]]
    assert sum(whole(day[2]) for day in days) == sum(run["usage"]["calls"] for run in ended)
    assert sum(whole(day[3]) for day in days) == sum(run["usage"]["input_tokens"] for run in ended)
    assert sum(float(day[5]) for day in days) == pytest.approx(sum(r["usage"]["cost_usd"] for r in ended), abs=1e-5)
    assert sum(whole(day[6]) for day in days) == sum(run["journal"]["rows_reused"] for run in ended)


def test_models_whose_price_is_unknown_or_nothing_are_there_too(tmp_path: Path) -> None:
    tickets = unpack("tickets", tmp_path)
    store = LocalStore(tickets.sink)
    for run in (one["run"] for one in tickets.told["runs"]):
        report = load_report(store, run)
        if report is None:
            continue
        usage = report.totals.usage.model_copy(update={"calls": 3, "cost_usd": 0.0})
        free = report.model_copy(update={"totals": report.totals.model_copy(update={"usage": usage})})
        store.put(ids.report(run), free.model_dump_json().encode())
    statistics.save(store, "first", RunStatistics(models=(ModelUsage(model="offline:lexical", calls=3),)))
    assert "offline:lexical" in text_of(page(tickets, "/d/tickets/spend"))


def test_without_temporal_the_pages_say_so(tickets: Kept, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TANDEM_HOME", str(tickets.project.folder / "no-home"))
    text = text_of(page(tickets, "/d/tickets/schedules"))
    assert "Temporal cannot be reached from here" in text
    assert "tandem dev" in text


# Acts ----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("act", "fields", "sentence"),
    [
        ("runs/first/pause", {}, "The run 'first' has ended."),
        ("runs/first/set", {}, "No limit was given."),
        ("runs/first/set", {"max_active": "many"}, "max_active many: not a whole number above zero."),
        ("runs/first/set", {"max_cost": "-1"}, "--max-cost -1: not an amount above zero."),
        ("runs/first/resume", {"max_cost": "nan"}, "--max-cost nan: not an amount above zero."),
        ("runs/first/resume", {}, "No worker would do this"),
        ("runs/first/retry", {"only": "all"}, "--only all: not one of failed, cancelled, rejects."),
        ("runs/first/retry", {"only": "failed"}, "No worker would do this"),
        ("runs/nobody/pause", {}, "There is no run 'nobody' here."),
        ("runs/first/explode", {}, "'explode' is nothing that can be done to a run."),
        ("rejects/retry", {}, "No worker would do this"),
        ("schedules/trigger", {}, "Temporal cannot be reached from here."),
        ("review/answer", {"question": "none"}, "This question is not open any more."),
    ],
)  # fmt: skip
def test_what_cannot_be_done_is_refused_with_a_sentence(
    tickets: Kept, monkeypatch: pytest.MonkeyPatch, act: str, fields: dict[str, str], sentence: str
) -> None:
    monkeypatch.setenv("TANDEM_HOME", str(tickets.project.folder / "no-home"))
    site = site_of(tickets.project.folder, tickets.sink)
    answer = reader(site).post(f"/d/tickets/{act}", data={"csrf": site.access.csrf, **fields}, headers=HERE)
    assert answer.status_code in (400, 500)
    assert sentence in text_of(answer.text)


def test_a_run_that_has_ended_is_refused_as_the_command_refuses_it(tickets: Kept, tmp_path: Path) -> None:
    site = site_of(tickets.project.folder, tickets.sink)
    answer = reader(site).post("/d/tickets/runs/first/cancel", data={"csrf": site.access.csrf}, headers=HERE)
    assert "The run 'first' has ended." in text_of(answer.text)


def test_a_page_that_only_shows_changes_nothing(tickets: Kept) -> None:
    site = site_of(tickets.project.folder, tickets.sink, acts=False)
    client = reader(site)
    refused = client.post("/d/tickets/runs/first/pause", data={"csrf": site.access.csrf}, headers=HERE)
    assert refused.status_code == 403
    assert "This page only shows: it changes nothing." in text_of(refused.text)
    assert "read only" in client.get("/").text


@pytest.mark.parametrize("fields", [{}, {"csrf": ""}, {"csrf": TOKEN}, {"csrf": "0" * 64}])
def test_a_form_without_its_token_is_refused(tickets: Kept, fields: dict[str, str]) -> None:
    client = reader(site_of(tickets.project.folder, tickets.sink))
    refused = client.post("/d/tickets/runs/first/pause", data=fields, headers=HERE)
    assert (refused.status_code, "older than it" in refused.text) == (403, True)


def test_a_form_that_is_too_large_is_refused(tickets: Kept) -> None:
    site = site_of(tickets.project.folder, tickets.sink)
    large = {"csrf": site.access.csrf, "reason": "x" * 300_000}
    assert reader(site).post("/d/tickets/runs/first/pause", data=large, headers=HERE).status_code == 413


def test_forms_carry_the_token(tickets: Kept) -> None:
    site = site_of(tickets.project.folder, tickets.sink)
    shown = reader(site).get("/d/tickets/rejects").text
    assert form_of(shown, "/d/tickets/rejects/retry")["csrf"] == site.access.csrf
