"""What lasts is set apart from collections, and what was set apart and has become garbage is freed the next time."""

import gc
import weakref
from collections.abc import Iterator

import pytest

from pipeline import heap


class Node:
    def __init__(self) -> None:
        self.itself = self  # so that only a collection frees it


@pytest.fixture(autouse=True)
def _as_before() -> Iterator[None]:
    yield
    gc.unfreeze()


def test_what_is_there_is_looked_at_no_more() -> None:
    heap.settle()
    assert gc.get_freeze_count() > 10_000
    assert len(gc.get_objects(generation=2)) < gc.get_freeze_count() / 10


def test_what_becomes_garbage_after_it_was_set_apart_is_freed_by_the_next() -> None:
    node = Node()
    seen = weakref.ref(node)
    heap.settle()
    del node
    gc.collect()
    assert seen() is not None
    heap.settle()
    assert seen() is None
