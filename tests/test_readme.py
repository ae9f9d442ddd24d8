"""README.md is true: its tutorial runs as written, its snippets read what was published, its reference spec loads.

Blocks of README.md say in a comment above them what they are: `run` (shell), `python`, `write FILE`, and `shows`, the
output of the block before. In a `shows` block `…` stands for anything, within a line or as lines of its own.
"""

import csv
import datetime as dt
import io
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from pipeline.consume import files
from schemas.spec.loading import load_spec

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")
_BLOCK = re.compile(
    r"^<!-- (?P<kind>run|python|shows|write)(?: (?P<file>\S+))? -->\n```\w+\n(?P<text>.*?)^```$", re.M | re.S
)
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


@dataclass(frozen=True)
class Block:
    kind: str
    file: str
    text: str


def blocks() -> Iterator[Block]:
    """The marked blocks, in order."""
    for found in _BLOCK.finditer(README):
        yield Block(found["kind"], found["file"] or "", found["text"])


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


def assert_shows(promised: str, output: str, block: str) -> None:
    """Each promised piece is there, in order."""
    at = 0
    for line in promised.splitlines():
        for piece in filter(None, (part.strip() for part in line.split("…"))):
            found = output.find(piece, at)
            assert found >= 0, (
                f"README promises {line!r} of\n{block}\nbut after what it showed before there was\n{output[at:]}"
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
        command, cwd=folder, env=environment(), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=240
    )
    assert done.returncode == 0, f"{command[-1]}\nended with {done.returncode}:\n{done.stdout}"
    return done.stdout


@pytest.mark.timeout(600)
def test_the_tutorial_runs_as_written(tmp_path: Path) -> None:
    """On 300 rows with dates as text, blanks and an odd encoding; then 20 more rows, another prompt, and readers."""
    (tmp_path / "reviews.csv").write_bytes(reviews(0, 300, header=True))
    (tmp_path / "more.csv").write_bytes(reviews(300, 20, header=False))
    last, output = "", ""
    snippets: list[str] = []
    promises: dict[int, str] = {}
    for block in blocks():
        if block.kind == "run":
            last, output = block.text, said_by(["bash", "-euo", "pipefail", "-c", block.text], tmp_path)
        elif block.kind == "write":
            (tmp_path / block.file).write_text(block.text, encoding="utf-8")
        elif block.kind == "python":
            last = ""
            snippets.append(block.text)
        elif last:
            assert_shows(block.text, output, last)
        else:
            promises[len(snippets) - 1] = block.text
    assert sum(file.rows for file in files(tmp_path / "mine" / "output")) == 306
    said = said_by([sys.executable, "-c", f"\nprint({_NEXT!r})\n".join(snippets)], tmp_path).split(_NEXT)
    assert len(said) == len(snippets) >= 8
    for at, promised in promises.items():
        assert_shows(promised, said[at], snippets[at])


def test_the_reference_spec_loads(tmp_path: Path) -> None:
    """Every key of the reference is one that the spec knows, with a value that it takes."""
    (reference,) = re.findall(r"^```yaml\n(name: support-tickets.*?)^```$", README, re.M | re.S)
    (tmp_path / "tandem.yaml").write_text(reference, encoding="utf-8")
    assert [stage.uses for stage in load_spec(tmp_path / "tandem.yaml").stages] == ["extract", "sql", "my_graphs:graph"]


def test_every_variable_of_ours_is_listed() -> None:
    """A variable `TANDEM_…` that the code reads is in README's table, and no other one is."""
    code = [
        path.read_text(encoding="utf-8")
        for room in ("pipeline", "stages", "schemas")
        for path in (ROOT / room).rglob("*.py")
    ]
    read = {name for text in code for name in re.findall(r"\bTANDEM_[A-Z][A-Z_]*[A-Z]\b", text)}
    assert set(re.findall(r"\bTANDEM_[A-Z][A-Z_]*[A-Z]\b", README)) == read


def test_named_files_are_there() -> None:
    """Links, and paths in backticks, lead somewhere."""
    linked = re.findall(r"\]\((?!\w+:)([^)#]+)\)", README)
    named = re.findall(r"`((?:pipeline|stages|schemas|tests|infra)/[\w/.]+\.\w+)`", README)
    assert [path for path in (*linked, *named) if not (ROOT / path).exists()] == []
