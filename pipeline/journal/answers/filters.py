"""Bloom filters: which keys are surely not in a file, in 12 bits a key.

After B. H. Bloom, "Space/Time Trade-offs in Hash Coding with Allowable Errors" (1970), with the positions of a key
derived from two halves of it (A. Kirsch, M. Mitzenmacher, "Less Hashing, Same Performance", 2006). With four positions,
one absent key in 150 passes.
"""

from bisect import bisect_right
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

_BITS = 12
_POSITIONS = 4
_MIX = 0x9E3779B97F4A7C15  # 2^64 / golden ratio: neighbouring keys get distant positions
_MIXED = np.uint64(_MIX)
_MASK = (1 << 64) - 1
Keys = npt.NDArray[np.uint64]


def filter_of(keys: Keys) -> bytes:
    """Return the filter of some keys."""
    bits = np.zeros(max(64, len(keys) * _BITS // 8 + 1), dtype=np.uint8)
    for places in _places(keys, np.uint64(len(bits) * 8)):
        np.bitwise_or.at(bits, places >> np.uint64(3), _bit(places))
    return bits.tobytes()


class Filters:
    """The filters of groups of keys: the groups follow each other in the order of keys, and `firsts` are their first
    keys. A key of two groups is found in the later one."""

    def __init__(self, firsts: Keys, filters: Sequence[bytes]) -> None:
        self._firsts = firsts
        self._starts = firsts.tolist()
        self._raw = b"".join(filters)
        self._bits = np.frombuffer(self._raw, dtype=np.uint8)
        self._sizes = np.array([len(one) for one in filters], dtype=np.uint64)
        self._offsets = np.concatenate([np.zeros(1, dtype=np.uint64), np.cumsum(self._sizes)])

    def may_have(self, keys: Keys) -> npt.NDArray[np.bool_]:
        """Return False for each key that is surely absent."""
        if not self._starts:
            return np.zeros(len(keys), dtype=np.bool_)
        groups = np.searchsorted(self._firsts, keys, side="right") - 1
        found: npt.NDArray[np.bool_] = groups >= 0
        groups = np.maximum(groups, 0)
        offsets = self._offsets[groups]
        for places in _places(keys, self._sizes[groups] * np.uint64(8)):
            found &= (self._bits[offsets + (places >> np.uint64(3))] & _bit(places)) != 0
        return found

    def may_have_one(self, key: int) -> bool:
        """Return False if this key is surely absent: without arrays, which take ten times as long for one."""
        group = bisect_right(self._starts, key) - 1
        if group < 0:
            return False
        offset, end = int(self._offsets[group]), int(self._offsets[group + 1])
        size = (end - offset) * 8
        mixed = key * _MIX & _MASK
        step = mixed >> 32 | 1
        for number in range(_POSITIONS):
            place = (mixed + number * step & _MASK) % size
            if not self._raw[offset + (place >> 3)] >> (place & 7) & 1:
                return False
        return True

    @property
    def bytes(self) -> int:
        return len(self._raw)


def _places(keys: Keys, sizes: Any) -> Iterable[Keys]:
    """Yield the places of keys in filters of so many bits."""
    mixed = keys * _MIXED
    step = (mixed >> np.uint64(32)) | np.uint64(1)
    for number in range(_POSITIONS):
        yield (mixed + np.uint64(number) * step) % sizes


def _bit(places: Any) -> npt.NDArray[np.uint8]:
    bits: npt.NDArray[np.uint8] = np.left_shift(np.uint8(1), (places & np.uint64(7)).astype(np.uint8))
    return bits
