"""The identities of millions of rows compared in bounded memory: eight bytes of each, on this machine's disk."""

from collections.abc import Iterable
from pathlib import Path

import numpy as np
import numpy.typing as npt

Numbers = npt.NDArray[np.uint64]
_BITS = 6  # of a number, which choose its bucket: one of ten million numbers takes a megabyte
_HELD = 250_000


class IdentityNumbers:
    """Numbers made of digests, each as often as it was added, in files of a local folder."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._held: list[Numbers] = []
        self._rows = 0
        folder.mkdir()

    @classmethod
    def of(cls, folder: Path, numbers: Iterable[Numbers]) -> "IdentityNumbers":
        found = cls(folder)
        for some in numbers:
            found.add(some)
        return found

    def add(self, numbers: Numbers) -> None:
        self._held.append(numbers)
        self._rows += len(numbers)
        if self._rows >= _HELD:
            self._spill()

    def _spill(self) -> None:
        if not self._held:
            return
        numbers = np.sort(np.concatenate(self._held))
        self._held, self._rows = [], 0
        edges = np.searchsorted(numbers, np.arange(1, 1 << _BITS, dtype=np.uint64) << np.uint64(64 - _BITS))
        for bucket, part in enumerate(np.split(numbers, edges)):
            if len(part):
                with (self._folder / f"{bucket}").open("ab") as out:
                    part.tofile(out)

    def _bucket(self, number: int) -> Numbers:
        path = self._folder / f"{number}"
        return np.sort(np.fromfile(path, np.uint64)) if path.exists() else np.empty(0, np.uint64)

    def repeated(self) -> Numbers:
        """Return the numbers that were added more than once."""
        self._spill()
        found = [np.empty(0, np.uint64)]
        for number in range(1 << _BITS):
            bucket = self._bucket(number)
            found.append(np.unique(bucket[1:][bucket[1:] == bucket[:-1]]))
        return np.concatenate(found)

    def missing_from(self, other: "IdentityNumbers") -> int:
        """Count the numbers that the other has less often, each as often as it is missing."""
        self._spill()
        other._spill()
        missing = 0
        for number in range(1 << _BITS):
            mine, counts = np.unique(self._bucket(number), return_counts=True)
            theirs = other._bucket(number)
            there = np.searchsorted(theirs, mine, "right") - np.searchsorted(theirs, mine, "left")
            missing += int(np.clip(counts - there, 0, None).sum())
        return missing
