"""Console output: results on stdout, everything else on stderr; with --json stdout is one document."""

import sys
import time
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import orjson
from rich.console import Console

from pipeline.telemetry import logs
from schemas.errors import TandemError

if TYPE_CHECKING:
    from schemas.manifest import BrokenCheck

# A pipe has no width: tables there are as wide as they need to be to keep a cell in one line.
out = Console(soft_wrap=True, highlight=False, emoji=False, width=None if sys.stdout.isatty() else 400)
err = Console(stderr=True, soft_wrap=True, highlight=False, emoji=False)
_UNSEEN = {code: "\N{REPLACEMENT CHARACTER}" for code in (*range(32), *range(127, 160)) if chr(code) not in "\n\t"}


class InterruptedByUser(TandemError):
    """The command ended by Ctrl-C or SIGTERM. The message says what happens to the run."""

    exit_code = 130


def shown(text: str) -> str:
    """Return a text of unknown origin without control characters."""
    return text.translate(_UNSEEN)


class Screen:
    """The output of a command. `live`: a person watches in a terminal. `quiet`: only errors, and JSON if requested."""

    def __init__(self, *, json: bool = False, quiet: bool = False) -> None:
        self.json = json
        self.quiet = quiet

    @property
    def live(self) -> bool:
        return sys.stderr.isatty() and not self.quiet and not self.json and logs.records is None

    def note(self, text: str, *, style: str | None = None, fields: Mapping[str, Any] | None = None) -> None:
        """Print progress and notes, unless quiet. `fields`: of the record, where logs are records; its `message` takes
        the place of the text."""
        if not self.quiet:
            self._log("info", text, fields, style)

    def fault(self, text: str, *, fields: Mapping[str, Any] | None = None) -> None:
        """Print an error of work that goes on, also when quiet."""
        self._log("warning", text, fields)

    def _log(self, level: str, text: str, fields: Mapping[str, Any] | None, style: str | None = None) -> None:
        if logs.records is not None:
            logs.records.emit(level, **{"message": text, **(fields or {})})
        else:
            err.print(shown(text), style=style, markup=False)

    def about(self, run: str) -> None:
        """Name the run that records are about from now on."""
        if logs.records is not None:
            logs.records.about(run=run)

    def result(self, text: str) -> None:
        """Print a line of the result, unless the result is a JSON document."""
        if not self.json and not self.quiet:
            out.print(shown(text), markup=False)

    def table(self, headers: Sequence[str], lines: Sequence[Sequence[object]]) -> None:
        """Print aligned columns, numbers to the right; nothing if there are no lines."""
        if not lines:
            return
        texts = [[f"{cell:,}" if isinstance(cell, int) else str(cell) for cell in line] for line in lines]
        widths = [max(len(header), *(len(text[index]) for text in texts)) for index, header in enumerate(headers)]
        right = [isinstance(cell, int) for cell in lines[0]]
        for cells in [list(headers), *texts]:
            padded = (c.rjust(w) if r else c.ljust(w) for c, w, r in zip(cells, widths, right, strict=True))
            self.result("  ".join(padded).rstrip())

    def document(self, value: Any) -> None:
        print(_dumps(value))

    def documents(self, values: Iterable[Any]) -> None:
        """Print a list as one document. Values become text one by one, as there may be 100,000; nothing is printed
        before all are ready, so that an error never follows half a document."""
        texts = ["  " + _dumps(value).replace("\n", "\n  ") for value in values]
        if not texts:
            print("[]")
            return
        print("[")
        for text in texts[:-1]:
            print(text, end=",\n")
        print(texts[-1], end="\n]\n")


def _dumps(value: Any) -> str:
    return orjson.dumps(value, option=orjson.OPT_INDENT_2).decode()


def print_error(exc: TandemError, *, as_json: bool) -> None:
    """Print the message and the hint of an error."""
    if logs.records is not None:
        logs.records.emit("error", exc.message, code=exc.code, hint=exc.hint)
    if as_json:
        print(_dumps({"error": {"code": exc.code, "message": exc.message, "hint": exc.hint}}))
        return
    if logs.records is not None:
        return
    err.print(shown(f"Error: {exc.message}"), style="red", markup=False)
    if exc.hint:
        err.print(shown(f"  → {exc.hint}"), markup=False)


def failure(partition: str, error: str, message: str) -> str:
    """Return a line with what failed and the reason; messages often begin with the partition themselves."""
    subject = partition or "run"
    return f"✗ {subject}: {error}: {message.removeprefix(f'{subject}: ') or 'no reason was given'}"


def broken(check: "BrokenCheck") -> str:
    """Return a line with a broken check and some of its rows."""
    severity = "" if check.severity == "block" else " (warn)"
    if check.others:
        named = ", ".join(f"{key} (in {other})" for key, other in zip(check.keys, check.others, strict=True))
        return f"check {check.name!r}{severity}: {counted(check.rows, 'key')} in another partition too, such as {named}"
    examples = f", for example {', '.join(check.keys)}" if check.keys else ""
    return f"check {check.name!r}{severity}: {counted(check.rows, 'row')} break it{examples}"


def counted(number: int, word: str) -> str:
    return f"{number:,} {word}" if number == 1 else f"{number:,} {word}s"


def money(usd: float) -> str:
    return f"{usd:,.2f} USD" if usd >= 1 else f"{usd:.4f} USD" if usd else "0 USD"


def duration_text(seconds: float) -> str:
    if seconds < 60:
        return f"{seconds:.1f} s" if seconds < 10 else f"{seconds:.0f} s"
    return f"{int(seconds // 60)} min {int(seconds % 60)} s" if seconds < 3600 else f"{seconds / 3600:.1f} h"


def now() -> float:
    return time.monotonic()
