"""A folder as a store whose process ends before the n-th change: by SIGKILL, or by an exception that nothing catches.

python -m tests.pipeline.forgetting.killed FOLDER N ROW…
"""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable, Iterable
from pathlib import Path

from pipeline.operations.forget import forget, look_for
from pipeline.stores import LocalStore
from schemas.spec.sections import Spec
from tests.pipeline.forgetting.planted import SPEC


class Died(BaseException):
    """The process ends here."""


def die() -> None:
    raise Died


def killed() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


class FatalStore(LocalStore):
    """`at`: the number of the change that does not happen, from 1; 0 for none. A file that is written is complete under
    its temporary name by then."""

    def __init__(self, root: Path, at: int, end: Callable[[], None]) -> None:
        super().__init__(root)
        self.changes = 0
        self._at = at
        self._end = end

    def _change(self) -> None:
        self.changes += 1
        if self.changes == self._at:
            self._end()

    def _place(self, place: Callable[[Path, Path], None], temporary: Path, final: Path) -> None:
        self._change()
        super()._place(place, temporary, final)

    def delete(self, keys: Iterable[str]) -> None:
        for key in keys:
            self._change()
            super().delete([key])


def spec_of(**changed: object) -> Spec:
    return Spec.model_validate({"name": "tests", "sink": {"path": "out"}, **SPEC, **changed})


def main() -> None:
    base, at, *rows = sys.argv[1:]
    store = FatalStore(Path(base) / "out", int(at), killed)
    forget(look_for(spec_of(), Path(base), store, rows))


if __name__ == "__main__":
    main()
