"""Iteration whose next item is made in a thread while the one before is used: two cores where one would wait."""

from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar, cast

Item = TypeVar("Item")
_END = object()


def read_ahead(items: Iterable[Item]) -> Iterator[Item]:
    """Yield the items in their order, one of them ahead. Raises what making an item raises, in its place."""
    source = iter(items)
    with ThreadPoolExecutor(1, thread_name_prefix="tandem-ahead") as thread:
        following = thread.submit(next, source, _END)
        while (item := following.result()) is not _END:
            following = thread.submit(next, source, _END)
            yield cast(Item, item)
