"""What a screen sees: results on stdout, everything else on stderr; with --json one document and nothing but it."""

import sys
import time
from typing import Any

from rich.console import Console

from pipeline.reports import dumps
from schemas.errors import TandemError

out = Console(soft_wrap=True, highlight=False)
err = Console(stderr=True, soft_wrap=True, highlight=False)


class Screen:
    """How loud a command is. `live`: a person watches in a terminal."""

    def __init__(self, *, json: bool = False, quiet: bool = False) -> None:
        self.json = json
        self.quiet = quiet

    @property
    def live(self) -> bool:
        return sys.stderr.isatty() and not self.quiet and not self.json

    def say(self, text: str, *, style: str | None = None) -> None:
        """Progress and notes."""
        if not self.quiet:
            err.print(text, style=style, markup=False)

    def result(self, text: str) -> None:
        """A line of the result; left out where a JSON document is the result."""
        if not self.json:
            out.print(text, markup=False)

    def document(self, value: Any) -> None:
        print(dumps(value))


def print_error(exc: TandemError, *, as_json: bool) -> None:
    """The fact and the next step."""
    if as_json:
        print(dumps({"error": {"code": exc.code, "message": exc.message, "hint": exc.hint}}))
        return
    err.print(f"Error: {exc.message}", style="red", markup=False)
    if exc.hint:
        err.print(f"  → {exc.hint}", markup=False)


def money(usd: float) -> str:
    return f"{usd:,.2f} USD" if usd >= 1 else f"{usd:.4f} USD" if usd else "0 USD"


def lasting(seconds: float) -> str:
    if seconds < 60:
        return f"{seconds:.0f} s"
    return f"{int(seconds // 60)} min {int(seconds % 60)} s" if seconds < 3600 else f"{seconds / 3600:.1f} h"


def now() -> float:
    return time.monotonic()
