"""Calls of our own functions, counted: machines differ, what is done for a row must not creep up unseen."""

from __future__ import annotations

import sys
import threading
from collections.abc import Awaitable, Callable
from pathlib import Path
from types import FrameType
from typing import Any

import pipeline
import schemas
import stages

ROOMS = tuple(str(Path(str(room.__file__)).parent) for room in (pipeline, stages, schemas))


class OwnCalls:
    """Counts calls of Python functions, and resumptions of coroutines, in files whose paths begin so; in this thread,
    and in those that start within the block."""

    def __init__(self, *places: str) -> None:
        self.number = 0
        self._places = places or ROOMS

    def __enter__(self) -> OwnCalls:
        threading.setprofile(self._profile)
        sys.setprofile(self._profile)
        return self

    def __exit__(self, *_: object) -> None:
        sys.setprofile(None)
        threading.setprofile(None)

    def _profile(self, frame: FrameType, event: str, _: Any) -> None:
        self.number += event == "call" and frame.f_code.co_filename.startswith(self._places)


async def calls_a_row(run: Callable[[int], Awaitable[object]], few: int, many: int) -> float:
    """Return what another row takes of `run`, which takes a number of rows: without what a batch takes."""
    counts = []
    for rows in (few, many):
        with OwnCalls() as calls:
            await run(rows)
        counts.append(calls.number)
    return (counts[1] - counts[0]) / (many - few)
