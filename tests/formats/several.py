"""Several commands of `tandem` in one process, as each takes seconds to import what it needs: `python several.py`.

Command lines come as JSON on stdin, `[["plan", "--json"], …]`; exit codes and outputs go to stdout. For commands that
only look: one that works may leave something running.
"""

import contextlib
import io
import json
import os
import sys

from pipeline.cli.__main__ import entry


class Ended(BaseException):
    """A command's process would have ended here, with this exit code."""


def ended(code: int) -> None:
    raise Ended(code)


def called(command: list[str]) -> tuple[int, str]:
    sys.argv = ["tandem", *command]
    with contextlib.redirect_stdout(io.StringIO()) as out:
        try:
            entry()
        except Ended as exc:
            return int(exc.args[0]), out.getvalue()
    raise AssertionError(f"{command} did not end as a process does")


if __name__ == "__main__":
    os._exit = ended  # type: ignore[assignment]
    print(json.dumps([called(command) for command in json.load(sys.stdin)]))
