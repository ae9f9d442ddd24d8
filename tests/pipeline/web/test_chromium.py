"""The page in Debian's Chromium: nothing fails, nothing is fetched from elsewhere, nothing in the data runs, axe finds
no serious fault; then a person's work: questions by keyboard, a retry, the run live, the next generation."""

from __future__ import annotations

import contextlib
import fcntl
import os
import re
import shutil
import uuid
from collections.abc import Iterator
from importlib.resources import files
from pathlib import Path
from typing import Any

import pytest
import yaml
from playwright.sync_api import Browser, Page, sync_playwright

from pipeline.stores import open_store
from tests.cli.support import Project, eventually
from tests.harness.model_server import ModelServer
from tests.harness.servers import SeaweedS3, free_ports
from tests.pipeline.web import dataset

pytestmark = pytest.mark.timeout(900)
_PAGES = (
    "partitions", "partition?key=day=2026-11-01", "rows", "rows?changed=1", "rows?find=sensor&sort=amount&down=1",
    "rows?column=nothing&value=1", "runs", "runs/second", "rejects", "review", "spend", "schedules",
)  # fmt: skip
_OF_THE_SPEC = ("partitions", "review")  # which is known of one of both datasets; a question is shown to one at a time
_SERIOUS = ("serious", "critical")


def _absent(what: str, how: str) -> None:
    (pytest.fail if "CI" in os.environ else pytest.skip)(f"no {what} here; {how}")


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    found = next((path for name in ("chromium", "chromium-browser") if (path := shutil.which(name))), None)
    if found is None:
        _absent("Chromium", "on Debian: apt-get install chromium")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=found, args=["--no-sandbox", "--disable-dev-shm-usage"])
        yield browser
        browser.close()


@pytest.fixture
def project(tmp_path: Path, tmp_path_factory: pytest.TempPathFactory) -> Project:
    """A copy of the dataset, which the first of all test processes makes."""
    shared = tmp_path_factory.getbasetemp().parent / "page-dataset"
    with (tmp_path_factory.getbasetemp().parent / "page-dataset.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not (shared / "made").exists():
            shutil.rmtree(shared, ignore_errors=True)
            shared.mkdir()
            with ModelServer.start() as server:
                dataset.make(shared, server)
            (shared / "made").touch()
    for name in ("out", "tandem.yaml", "tickets.parquet"):
        (shutil.copytree if (shared / name).is_dir() else shutil.copy)(shared / name, tmp_path / name)
    return Project(tmp_path)


@contextlib.contextmanager
def served(project: Project, *command: str, **env: str) -> Iterator[str]:
    """The page's address, with its token, while a command serves it."""
    with project.start(*command, **env) as started:
        eventually(lambda: "token=" in started.out or started.process.poll() is not None, "the URL")
        found = re.search(r"http://\S+token=\S+", started.out)
        assert found is not None, (started.out, started.err)
        yield found[0]


class Watched:
    """A browser's page, with all that it fetched and all that went wrong on it."""

    def __init__(self, browser: Browser, address: str, **options: Any) -> None:
        self.base = address.split("/?")[0]
        self.page: Page = browser.new_context(**options).new_page()
        self.wrong: list[str] = []
        self.fetched: list[str] = []
        self.page.on("console", lambda message: self._said(message.type, message.text))
        self.page.on("pageerror", lambda error: self.wrong.append(str(error)))
        self.page.on("request", lambda request: self.fetched.append(request.url))
        self.page.on("dialog", lambda dialog: dialog.accept())
        self.page.goto(address)

    def _said(self, kind: str, text: str) -> None:
        if kind == "error" and "400 (Bad Request)" not in text:  # of the one page that is to be refused
            self.wrong.append(text)

    def open(self, path: str) -> str:
        self.page.goto(f"{self.base}/{path}")
        return self.page.inner_text("main")

    def check(self) -> None:
        assert self.wrong == []
        assert [url for url in self.fetched if not url.startswith(f"{self.base}/")] == []
        assert self.page.evaluate("window.hacked") is None


def faults(watched: Watched) -> list[str]:
    """What axe calls serious or worse on the page that is open."""
    watched.page.evaluate(
        files("axe_playwright_python").joinpath("axe.min.js").read_text()
    )  # not as a script of the page, which its policy forbids
    found = watched.page.evaluate("axe.run(document, {resultTypes: ['violations']})")
    return [
        f"{one['id']}: {one['nodes'][0]['html'][:160]}" for one in found["violations"] if one["impact"] in _SERIOUS
    ]  # fmt: skip


def to_s3(folder: Path, uri: str) -> None:
    """Copy a sink, object by object."""
    target = open_store(uri)
    for path in sorted(
        path for path in folder.rglob("*") if path.is_file() and "/tmp/" not in str(path)[len(str(folder)) :]
    ):
        target.put(str(path.relative_to(folder)), path.read_bytes())


def test_every_page_of_a_folder_and_of_s3(
    project: Project, browser: Browser, seaweed: SeaweedS3, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in seaweed.env().items():
        monkeypatch.setenv(name, value)
    bucket = seaweed.bucket(f"page-{uuid.uuid4().hex[:8]}")
    uri = f"s3://{bucket}/tickets"
    to_s3(project.folder / "out", uri)
    found: list[str] = []
    with served(project, "ui", "out", uri, "--no-open", **seaweed.env()) as address:
        watched = Watched(browser, address)
        slugs = sorted(set(re.findall(r'/d/([^/"]+)/partitions', watched.page.content())))
        assert len(slugs) == 2
        texts: dict[str, dict[str, str]] = {slug: {} for slug in slugs}
        for slug in slugs:
            for path in _PAGES:
                text = watched.open(f"d/{slug}/{path}")
                if path not in _OF_THE_SPEC:
                    texts[slug][path] = text.replace(uri, "SINK").replace(str(project.folder / "out"), "SINK")
                watched.check()
                if slug == slugs[0]:
                    found += [f"{path}: {fault}" for fault in faults(watched)]
        assert texts[slugs[0]] == texts[slugs[1]], "a dataset in S3 looks like one in a folder"
        check_cell(watched, slugs[0])
        phone = Watched(browser, address, viewport={"width": 390, "height": 844}, color_scheme="dark")
        for path in ("partitions", "rows?changed=1", "runs/second", "review", "spend"):
            phone.open(f"d/{slugs[0]}/{path}")
            assert not phone.page.evaluate("document.documentElement.scrollWidth > innerWidth"), path
            found += [f"dark {path}: {fault}" for fault in faults(phone)]
        phone.check()
    assert found == []


def check_cell(watched: Watched, slug: str) -> None:
    """Each text of the corpus is on the page as it is in the data, and the cell leads to the calls behind it."""
    watched.open(f"d/{slug}/rows?find=T021")
    watched.page.click("td.out a >> nth=1")
    text = watched.page.inner_text("main")
    assert dataset.CORPUS[0] in text, "the model's answer"
    assert dataset.COLUMN in text, "the name of a column"
    assert "You triage support tickets. Be brief." in text
    assert "ticket 21:" in text
    assert "answered by test-model" in text
    watched.check()
    watched.open(f"d/{slug}/row?partition=day=2026-11-01&run=first&row={_row_of(watched)}")
    assert "This is generation 1, an earlier one." in watched.page.inner_text("main")
    watched.page.click("text=See the latest")
    assert "an earlier one" not in watched.page.inner_text("main")
    changed = watched.open(f"d/{slug}/rows?changed=1")
    assert "Columns that differ: category, summary, letters." in changed
    assert "reported by a customer (again)" in changed, "what has changed is not cut off"
    watched.page.click("tr:has-text('T012') a[href*='column=letters']")
    assert "length(summary) AS letters" in watched.page.inner_text("main")
    watched.check()


def _row_of(watched: Watched) -> str:
    """The identity of the row whose cell is open."""
    return str(re.findall(r"[?&]row=([0-9a-f]+)", watched.page.url)[0])


def test_a_person_answers_retries_and_sees_the_next_generation(
    project: Project, browser: Browser, model_server: ModelServer
) -> None:
    project.env |= model_server.env()
    model_server.script({"latency_ms": 300, "rules": dataset.script(2, 27)["rules"][1:]})  # ticket 5 is answered now
    (port,) = free_ports(1)
    with served(project, "dev", "--page-port", str(port)) as address:
        watched = Watched(browser, address)
        watched.open("d/tickets/review")
        watched.page.keyboard.press("Enter")
        watched.page.wait_for_selector("text=: confirmed.")
        watched.page.keyboard.press("3")
        watched.page.wait_for_selector('text=: {"category":"other"}.')
        assert "All is answered" in watched.page.inner_text("main")
        asked = project.tandem("review", "ls", "--json").ok().json
        assert [one["answer"] for one in asked] == [{}, {"category": "other"}]

        watched.open("d/tickets/rejects")
        watched.page.click("text=Retry 1")
        watched.page.wait_for_url("**/runs/*", timeout=120_000)
        watched.page.wait_for_selector("text=completed", timeout=120_000)  # sent by the server: nobody loads it again
        assert "rows in\n9" in watched.page.inner_text("main")
        assert "No rows are rejected" in watched.open("d/tickets/rejects")
        generations = watched.open("d/tickets/partition?key=day=2026-11-03")
        assert "GENERATION\n3" in generations.upper()
        assert "T005" in watched.open("d/tickets/rows?partition=day=2026-11-03&changed=1")
        watched.check()


def test_a_run_is_watched_and_a_schedule_fires_at_a_click(
    project: Project, browser: Browser, model_server: ModelServer
) -> None:
    project.env |= model_server.env()
    refused = {"match": "ticket 3:", "action": "error", "status": 400, "body": {"error": {"message": "no"}}}
    model_server.script({"latency_ms": 700, "rules": [refused, *dataset.script(3, 27)["rules"]]})
    spec = yaml.safe_load((project.folder / "tandem.yaml").read_text())
    spec["stages"][0]["system"] = "You triage support tickets. Be kind."
    spec["limits"] |= {"rows_in_flight": 1, "requests_per_minute": 600, "partitions_in_flight": 1}
    spec["schedule"] = {"cron": "0 6 1 1 *", "lookback": "400d"}
    (project.folder / "tandem.yaml").write_text(yaml.safe_dump(spec, sort_keys=False))
    (port,) = free_ports(1)
    with served(project, "dev", "--page-port", str(port)) as address:
        watched = Watched(browser, address)
        project.tandem("schedule", "apply", "--json").ok()
        assert "Not yet." in watched.open("d/tickets/schedules")
        watched.page.click("text=Trigger now")
        watched.page.wait_for_selector("text=fired", timeout=60_000)
        fired = watched.page.locator("section table a")
        eventually(lambda: bool(watched.open("d/tickets/schedules") and fired.count()), "the firing")
        fired.click()
        watched.page.wait_for_url("**/runs/*")
        run = watched.page.url.rpartition("/")[2].partition("?")[0]
        watched.page.wait_for_selector("td:text-is('openai:test-model')", timeout=60_000)
        watched.page.wait_for_selector("text=see them", timeout=60_000)
        assert faults(watched) == []
        assert "running" in watched.open("d/tickets/partitions")
        watched.open(f"d/tickets/runs/{run}")
        watched.page.wait_for_selector("text=completed", timeout=120_000)
        watched.check()
