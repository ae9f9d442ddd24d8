"""Work that imports a user's code, each time in a process of its own: the page stays up for weeks while that code
changes, and a process imports a module once."""

import asyncio
import pickle
import sys
from importlib import import_module
from typing import Any

from schemas.errors import Bug, TandemError, by_code

_FUNCTIONS = "pipeline.web.user_code"
_WITHIN_S = 600.0


async def apart(work: str, *arguments: object) -> Any:
    """Return what a function of `pipeline.web.user_code` returns, called in a new process. Arguments and result are
    pickled. Raises the TandemError that it raised; Bug if the process ended without any."""
    # Without this folder on the path of imports (-P): it is the user's, and may have a pipeline.py.
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-P", "-m", __name__, stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE
    )
    try:
        async with asyncio.timeout(_WITHIN_S):
            answer, _ = await process.communicate(pickle.dumps((work, arguments)))
    except TimeoutError:
        raise TandemError(
            f"This was not done within {_WITHIN_S / 60:.0f} minutes.", hint="Try it by command."
        ) from None
    finally:
        if process.returncode is None:
            process.kill()
    if process.returncode or not answer:
        raise Bug(f"A process of the page ended with {process.returncode}.", hint="Its output is on the page's stderr.")
    error, found = pickle.loads(answer)  # noqa: S301  written below, by our own process
    if error is None:
        return found
    code, message, hint = error
    raise by_code(code)(message, hint=hint)


def _main() -> None:
    """Call what stdin holds, and write what it returned or the error that it raised to stdout."""
    answers, sys.stdout = sys.stdout.buffer, sys.stderr  # what a user's code prints is no answer
    work, arguments = pickle.loads(sys.stdin.buffer.read())  # noqa: S301  written above, by our own process
    error, found = None, None
    try:
        found = getattr(import_module(_FUNCTIONS), work)(*arguments)
    except TandemError as exc:
        error = exc.code, exc.message, exc.hint
    data: Any = error, found
    answers.write(pickle.dumps(data))
    answers.flush()


if __name__ == "__main__":
    _main()
