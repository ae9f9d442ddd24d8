"""README.md and docs/ are true: what they show runs as written and says what they promise; specs load, links lead
somewhere, commands and variables are those of the code.

A page that shows commands says in a comment where it starts: `<!-- starts: published -->` in the folder `mine` of the
tutorial after its twenty more rows, `new` in the same folder before its first run; without one, in an empty folder.
"""

import csv
import datetime as dt
import io
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from pipeline.consume import files
from pipeline.settings import Settings
from schemas.spec.document import parse_document
from schemas.spec.loading import load_spec, spec_from_mapping
from tests.docs.commands import complaint_about, shown_in
from tests.docs.pages import ROOT, Block, anchors, code_blocks, links, name_of, pages, text_of

README = ROOT / "README.md"
TUTORIAL = ROOT / "docs" / "tutorial.md"
ENVIRONMENT = ROOT / "docs" / "reference" / "environment.md"
PAGES = pages()
RUNNING = [page for page in PAGES if any(block.kind in ("run", "python") for block in code_blocks(page))]
# Other Markdown files, whose links are looked at and whose commands are parsed.
BESIDE = [
    ROOT / "CONTRIBUTING.md",
    ROOT / "CHANGELOG.md",
    ROOT / "infra" / "README.md",
    ROOT / "tests/examples/README.md",
]
_NEXT = "--- next block ---"
_TEXTS = (
    "Lovely café, friendly staff, will come back",
    "Broken on arrival, I want a refund",
    "Great value and fast delivery, very happy",
    "Awful noise and a bad smell, never again",
    "Opened at nine, closed at six",
    "Terrible service – the crêpe was cold",
    "Excellent rösti, best breakfast in town",
)
_NAMES = ("Béatrice", "Chloé", "Émile", "François", "Håkan", "Inés", "Jürgen", "Lucía")


def reviews(first: int, count: int, *, header: bool) -> bytes:
    """Rows as an office program exports them: dd/mm/yyyy, blanks, CRLF, cp1252."""
    text = io.StringIO(newline="")
    table = csv.writer(text, lineterminator="\r\n")
    if header:
        table.writerow(["review_id", "visited", "customer", "text", "stars"])
    for at in range(first, first + count):
        day = dt.date(2026, 8, 3) + dt.timedelta(days=at * 80 // 300)
        said = "" if at % 23 == 5 else f"{_TEXTS[at % 7]}. Order {1000 + at % 290}."
        table.writerow([f"R{at:04d}", f"{day:%d/%m/%Y}", _NAMES[at % 8], said, "" if at % 17 == 0 else 1 + at % 5])
    return text.getvalue().encode("cp1252")


# Running ------------------------------------------------------------------------------------------------------------


def assert_shows(promised: str, output: str, block: str) -> None:
    """Each promised piece is there, in order."""
    at = 0
    for line in promised.splitlines():
        for piece in filter(None, (part.strip() for part in line.split("…"))):
            found = output.find(piece, at)
            assert found >= 0, (
                f"the page promises {line!r} of\n{block}\nbut after what it showed before there was\n{output[at:]}"
            )
            at = found + len(piece)


def environment() -> dict[str, str]:
    """A newcomer's: no keys, nothing configured, this environment's commands first on PATH."""
    ours = ("TANDEM_", "TEMPORAL_", "AWS_", "OPENAI_")
    inherited = {name: value for name, value in os.environ.items() if not name.startswith(ours)}
    return {**inherited, "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}", "COLUMNS": "160"}


def said_by(command: list[str], folder: Path) -> str:
    """What a command says to a pipe, both streams. It must end with 0."""
    done = subprocess.run(
        command, cwd=folder, env=environment(), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=540
    )
    assert done.returncode == 0, f"{command[-1]}\nended with {done.returncode}:\n{done.stdout}"
    return done.stdout


def run_page(page: Path, folder: Path) -> int:
    """Run a page's blocks in order, its Python in one process at the end. Returns how many Python blocks it has."""
    last, output = "", ""
    snippets: list[str] = []
    promises: dict[int, str] = {}
    for block in code_blocks(page):
        if block.kind == "run":
            last, output = block.text, said_by(["bash", "-euo", "pipefail", "-c", block.text], folder)
        elif block.kind == "write":
            (folder / block.file).write_text(block.text, encoding="utf-8")
        elif block.kind == "python":
            last = ""
            snippets.append(block.text)
        elif block.kind == "shows" and last:
            assert_shows(block.text, output, last)
        elif block.kind == "shows":
            promises[len(snippets) - 1] = block.text
    if snippets:
        said = said_by([sys.executable, "-c", f"\nprint({_NEXT!r})\n".join(snippets)], folder).split(_NEXT)
        assert len(said) == len(snippets)
        for at, promised in promises.items():
            assert_shows(promised, said[at], snippets[at])
    return len(snippets)


def tutorial_spec() -> str:
    (spec,) = (block.text for block in code_blocks(TUTORIAL) if block.kind == "write")
    return spec


@pytest.fixture(scope="session")
def published(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tutorial's folder after its twenty more rows: 320 rows in three partitions. Pages get a copy."""
    folder = tmp_path_factory.mktemp("tutorial")
    unpublished(folder)
    said_by(["tandem", "run", "-q"], folder / "mine")
    shutil.rmtree(folder / "mine" / ".tandem")  # what the embedded server keeps is a folder's own
    return folder


def unpublished(folder: Path) -> None:
    """The same before its first run."""
    (folder / "mine").mkdir()
    (folder / "mine" / "tandem.yaml").write_text(tutorial_spec(), encoding="utf-8")
    (folder / "reviews.csv").write_bytes(reviews(0, 300, header=True) + reviews(300, 20, header=False))


@pytest.mark.timeout(900)
def test_the_tutorial_runs_as_written(tmp_path: Path) -> None:
    """On 300 rows with dates as text, blanks and an odd encoding; then 20 more rows, another prompt, and readers."""
    (tmp_path / "reviews.csv").write_bytes(reviews(0, 300, header=True))
    (tmp_path / "more.csv").write_bytes(reviews(300, 20, header=False))
    assert run_page(TUTORIAL, tmp_path) >= 2
    assert sum(file.rows for file in files(tmp_path / "mine" / "output")) == 306


@pytest.mark.timeout(900)
@pytest.mark.parametrize("page", [page for page in RUNNING if page != TUTORIAL], ids=name_of)
def test_what_a_page_shows_runs_as_written(page: Path, tmp_path: Path, request: pytest.FixtureRequest) -> None:
    start = re.search(r"^<!-- starts: (new|published) -->$", text_of(page), re.M)
    folder = tmp_path / "here"
    if start is None:
        folder.mkdir()
        run_page(page, folder)
        return
    if start[1] == "published":
        shutil.copytree(request.getfixturevalue("published"), folder)
    else:
        folder.mkdir()
        unpublished(folder)
    run_page(page, folder / "mine")


# Reading ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("page", [*PAGES, *BESIDE], ids=name_of)
def test_links_lead_somewhere(page: Path) -> None:
    """To a file of the repository, and to a heading of it where one is named."""
    broken = []
    for link in links(page):
        name, _, anchor = link.partition("#")
        target = (page.parent / name).resolve() if name else page
        there = target.is_relative_to(ROOT) and target.exists()
        if not there or (anchor and anchor not in anchors(target)):
            broken.append(link)
    assert broken == []


@pytest.mark.parametrize("page", [*PAGES, *BESIDE], ids=name_of)
def test_commands_are_the_code_s(page: Path) -> None:
    """Every `tandem …` in a shell block, run or not, has a name and flags that exist."""
    shown = [words for block in code_blocks(page) if block.language == "sh" for words in shown_in(block.text)]
    assert [wrong for words in shown if (wrong := complaint_about(words)) is not None] == []


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_specs_load_and_python_compiles(page: Path, tmp_path: Path) -> None:
    """A part of a spec is put into the tutorial's; a list of stages takes the place of its stages."""
    whole = parse_document(tutorial_spec()).data
    (tmp_path / "prompts").mkdir()
    (tmp_path / "prompts" / "triage.md").write_text("x", encoding="utf-8")
    for block in code_blocks(page):
        if block.language == "yaml" and not block.file:
            spec_from_mapping({**whole, **parse_document(block.text).data}, base=tmp_path, name=name_of(page))
        elif block.language == "python":
            compile(block.text, name_of(page), "exec")


def test_every_page_is_reached() -> None:
    """From README or from the list of all pages."""
    index = ROOT / "docs" / "README.md"
    reached = {(page.parent / link.partition("#")[0]).resolve() for page in (README, index) for link in links(page)}
    assert [name_of(page) for page in PAGES if page not in (README, index) and page not in reached] == []


def test_the_readme_is_short() -> None:
    assert len(text_of(README).splitlines()) <= 150


def test_the_reference_spec_loads(tmp_path: Path) -> None:
    """Every key of the annotated spec is one that the spec knows, with a value that it takes."""
    (reference,) = (
        block.text
        for block in code_blocks(ROOT / "docs" / "reference" / "spec.md")
        if block.text.startswith("name: support-tickets")
    )
    (tmp_path / "tandem.yaml").write_text(reference, encoding="utf-8")
    assert [stage.uses for stage in load_spec(tmp_path / "tandem.yaml").stages] == ["extract", "sql", "my_graphs:graph"]


def test_every_variable_of_ours_is_listed() -> None:
    """A variable `TANDEM_…` that the code reads is in the table of the environment, and no page names another one."""
    read = {f"TANDEM_{name.upper()}" for name, field in Settings.model_fields.items() if field.validation_alias is None}
    assert set(re.findall(r"\bTANDEM_[A-Z][A-Z_]*[A-Z]\b", text_of(ENVIRONMENT))) == read
    others = {name for page in PAGES for name in re.findall(r"\bTANDEM_[A-Z][A-Z_]*[A-Z]\b", text_of(page))} - read
    assert others == set()


@pytest.mark.parametrize("page", [*PAGES, *BESIDE], ids=name_of)
def test_named_files_are_there(page: Path) -> None:
    """Paths of the repository in backticks lead somewhere."""
    named = re.findall(r"`((?:pipeline|stages|schemas|tests|infra|docs)/[\w/.\-]*)`", text_of(page))
    assert [path for path in named if path != "pipeline/name" and not (ROOT / path).exists()] == []


def test_examples_of_blocks_are_told_apart() -> None:
    """What marks a block is read from the line above it."""
    assert Block("run", "", "sh", "tandem run\ntandem rejects ls\n") in list(code_blocks(README))
