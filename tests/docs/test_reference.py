"""What `make docs` generates is current, and nothing on the pages points outside of the repository."""

import re

from tests.docs.pages import name_of, pages, text_of
from tests.docs.reference import files


def test_what_is_generated_is_current() -> None:
    """After a change of the spec's models, of options or of commands: `make docs`."""
    stale = [path.name for path, text in files().items() if path.read_text(encoding="utf-8") != text]
    assert stale == []


def test_pages_point_at_nothing_that_a_reader_has_not() -> None:
    outside = re.compile(r"\.\./shared|design\.md|house\.md|\bthe design\b", re.I)
    assert [name_of(page) for page in pages() if outside.search(text_of(page))] == []
