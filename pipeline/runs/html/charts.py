"""Bar charts of a report as plain numbers: the bars, and the ticks of both axes. A template draws them.

┌ unit ───────────────┐
│ top tick ┬─────────  │   plot area: LEFT..WIDTH-RIGHT by TOP..BASE, in units of the SVG's view box
│        0 ┴──────────  │
│          first … last │
└──────────────────────┘
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

WIDTH, HEIGHT = 640, 190
LEFT, RIGHT, TOP, BASE = 64, 12, 24, 160
_WIDEST = 80.0
_LONGEST_LABEL = 18
_SMALLEST = 1e-5  # labels have six places


@dataclass(frozen=True, slots=True)
class Bar:
    """A value's rectangle. `words` is its tooltip."""

    x: float
    y: float
    width: float
    height: float
    words: str


@dataclass(frozen=True, slots=True)
class Tick:
    """A label of an axis: `position` is x or y. `anchor`: start, middle or end, as in SVG."""

    position: float
    label: str
    anchor: str = "end"


@dataclass(frozen=True, slots=True)
class Chart:
    """`kind` is the class that colours the bars; `unit` heads the vertical axis; `legend` says what a bar is."""

    title: str
    kind: str
    unit: str
    legend: str
    bars: tuple[Bar, ...]
    across: tuple[Tick, ...]
    up: tuple[Tick, ...]
    WIDTH: ClassVar[int] = WIDTH
    HEIGHT: ClassVar[int] = HEIGHT
    LEFT: ClassVar[int] = LEFT
    RIGHT: ClassVar[int] = RIGHT
    TOP: ClassVar[int] = TOP
    BASE: ClassVar[int] = BASE


def chart(
    title: str,
    values: Sequence[tuple[float, str]],
    labels: Sequence[tuple[float, str]],
    *,
    kind: str = "",
    unit: str = "",
    legend: str = "",
) -> Chart:
    """`values`: height and tooltip of each bar. `labels`: share of the horizontal axis (0 left, 1 right) and text."""
    most = max((value for value, _ in values), default=0.0)
    heights = _ticks(most)
    top = heights[-1]
    slot = (WIDTH - RIGHT - LEFT) / max(len(values), 1)
    width = min(slot, _WIDEST)
    first = LEFT + (slot - width) / 2
    bars = tuple(_bar(first + index * slot, width, value / top, words) for index, (value, words) in enumerate(values))
    up = tuple(Tick(round(BASE - height / top * (BASE - TOP), 2), _number(height)) for height in heights)
    return Chart(title, kind, unit, legend, bars, tuple(_across(share, text) for share, text in labels), up)


def _bar(x: float, width: float, share: float, words: str) -> Bar:
    height = max(share * (BASE - TOP), 1.0) if share else 0.0
    return Bar(round(x, 2), round(BASE - height, 2), round(max(width - 1, 0.5), 2), round(height, 2), words)


def _across(share: float, text: str) -> Tick:
    label = text if len(text) <= _LONGEST_LABEL or share in (0, 1) else f"{text[: _LONGEST_LABEL - 1]}…"
    anchor = "start" if share == 0 else "end" if share == 1 else "middle"
    return Tick(round(LEFT + share * (WIDTH - RIGHT - LEFT), 2), label, anchor)


def _ticks(most: float) -> list[float]:
    """0 and up to four round steps, the last not below `most`."""
    if most < _SMALLEST:
        return [0.0, 1.0]
    power: float = 10.0 ** math.floor(math.log10(most))
    steps = [size * power for size in (0.25, 0.5, 1.0, 2.0, 2.5, 5.0)]
    if float(most).is_integer():  # things that are counted have no halves
        steps = [step for step in steps if step.is_integer()]
    step = next(step for step in steps if most / step <= 4)
    return [index * step for index in range(math.ceil(most / step - 1e-9) + 1)]


def _number(value: float) -> str:
    return f"{value:,.6f}".rstrip("0").rstrip(".")
