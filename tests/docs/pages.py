"""The pages of the documentation and what they show: README.md and everything under docs/.

A comment above a block says what the test does with it: `run` (shell), `python`, `write FILE`, and `shows`, the output
of the block before. In a `shows` block `…` stands for anything, within a line or as lines of its own. Blocks without
such a comment are not run: their commands are parsed, their specs loaded, their Python compiled.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parent.parent.parent
_BLOCK = re.compile(
    r"^(?:<!-- (?P<kind>run|python|shows|write)(?: (?P<file>\S+))? -->\n)?```(?P<language>\w+)\n(?P<text>.*?)^```$",
    re.M | re.S,
)
_HEADING = re.compile(r"^#{1,6} +(.+?)\s*$", re.M)
_FENCED = re.compile(r"^```.*?^```$", re.M | re.S)
_PLACE = re.compile(r'<a id="([^"]+)"></a>')
_LINK = re.compile(r"\]\((?!\w+:)([^)\s]*)\)")


@dataclass(frozen=True)
class Block:
    """A fenced block. `kind` is empty where the block only illustrates."""

    kind: str
    file: str
    language: str
    text: str


def pages() -> list[Path]:
    """README.md first, then docs/ in the order of its paths."""
    return [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]


def text_of(page: Path) -> str:
    return page.read_text(encoding="utf-8")


def name_of(page: Path) -> str:
    return str(page.relative_to(ROOT))


def code_blocks(page: Path) -> Iterator[Block]:
    """All fenced blocks of a page, in order."""
    for found in _BLOCK.finditer(text_of(page)):
        yield Block(found["kind"] or "", found["file"] or "", found["language"], found["text"])


def links(page: Path) -> list[str]:
    """The targets of links within the repository."""
    return _LINK.findall(_FENCED.sub("", text_of(page)))


def anchors(page: Path) -> set[str]:
    """What `#…` may name on a page: its headings, as GitHub writes them, and places with an id."""
    text = _FENCED.sub("", text_of(page))
    plain = (re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", heading) for heading in _HEADING.findall(text))
    headings = {re.sub(r"[^\w\- ]", "", heading.lower()).strip().replace(" ", "-") for heading in plain}
    return headings | set(_PLACE.findall(text))
