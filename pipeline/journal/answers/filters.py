"""Bloom filters: which keys are surely not in a file, in 12 bits a key.

After B. H. Bloom, "Space/Time Trade-offs in Hash Coding with Allowable Errors" (1970), with the positions of a key
derived from two halves of it (A. Kirsch, M. Mitzenmacher, "Less Hashing, Same Performance", 2006). With four positions,
one absent key in 150 passes.
"""

from collections.abc import Iterable
from typing import Any

import numpy as np
import numpy.typing as npt

_BITS = 12
_POSITIONS = 4
_MIX = 0x9E3779B97F4A7C15  # 2^64 / golden ratio: neighbouring keys get distant positions
_MIXED = np.uint64(_MIX)
_MASK = (1 << 64) - 1
Keys = npt.NDArray[np.uint64]


class Filter:
    """A filter for a known number of keys."""

    def __init__(self, size: int) -> None:
        self._bits = np.zeros(max(64, size * _BITS // 8 + 1), dtype=np.uint8)
        self._raw = memoryview(self._bits)  # type: ignore[arg-type]  # an array has a buffer

    @classmethod
    def of(cls, size: int, parts: Iterable[Keys]) -> "Filter":
        """Make the filter of keys that come in parts, `size` of them together."""
        made = cls(size)
        for part in parts:
            for places in made._places(part):
                np.bitwise_or.at(made._bits, places >> np.uint64(3), _bit(places))
        return made

    def may_have(self, keys: Keys) -> npt.NDArray[np.bool_]:
        """Return False for each key that is surely absent."""
        found = np.ones(len(keys), dtype=np.bool_)
        for places in self._places(keys):
            found &= (self._bits[places >> np.uint64(3)] & _bit(places)) != 0
        return found

    def may_have_one(self, key: int) -> bool:
        """Return False if this key is surely absent: without NumPy, which takes ten times as long for one."""
        size = len(self._raw) * 8
        mixed = key * _MIX & _MASK
        step = mixed >> 32 | 1
        for number in range(_POSITIONS):
            place = (mixed + number * step & _MASK) % size
            if not self._raw[place >> 3] >> (place & 7) & 1:
                return False
        return True

    @property
    def bytes(self) -> int:
        return int(self._bits.nbytes)

    def _places(self, keys: Keys) -> Iterable[Keys]:
        size = np.uint64(len(self._bits) * 8)
        mixed = keys * _MIXED
        step = (mixed >> np.uint64(32)) | np.uint64(1)
        for number in range(_POSITIONS):
            yield (mixed + np.uint64(number) * step) % size


def _bit(places: Any) -> npt.NDArray[np.uint8]:
    bits: npt.NDArray[np.uint8] = np.left_shift(np.uint8(1), (places & np.uint64(7)).astype(np.uint8))
    return bits
