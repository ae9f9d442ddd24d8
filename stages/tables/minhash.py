"""Near-duplicates among texts: signatures by rensa, compared in bands that are sorted here.

rensa's own index of bands takes 3,500 bytes a text, these arrays 640; and a partition may have a million texts.
"""

import re
from collections.abc import Iterator

import numpy as np
import numpy.typing as npt
from rensa import RMinHash

from schemas.errors import PartitionError

PERMUTATIONS = 128
BANDS = 32  # of 4 values each: two texts that share half of their phrases share a band with 87 %, at 0.8 almost always
MAX_TEXTS = 1_000_000  # 640 bytes each
_PHRASE = 3
_SEED = 1
ALGORITHM = f"rensa-{RMinHash.ALGORITHM_VERSION}"  # a part of the stage's fingerprint: other signatures, other groups
_MIX = np.uint64(0x9E3779B97F4A7C15)
WORD = re.compile(r"\w+")


def similar_texts(texts: Iterator[str | None], threshold: float, where: str) -> list[int]:
    """Return for each text the place of the first that it is similar to. Only texts that share a band are compared."""
    first_texts: list[int] = []
    places: list[int] = []
    sketches: list[npt.NDArray[np.uint32]] = []
    for text in texts:
        if text is not None:
            places.append(len(first_texts))
            sketches.append(minhash(text))
        first_texts.append(len(first_texts))
        if len(sketches) > MAX_TEXTS:
            raise PartitionError(
                f"{where}: more than {MAX_TEXTS:,} texts in a partition.", hint="Make partitions smaller."
            )
    if not sketches:
        return first_texts
    signatures = np.stack(sketches)
    sketches.clear()
    groups = _shared_bands(signatures)
    firsts: dict[tuple[int, int], list[int]] = {}
    for index in np.flatnonzero((groups >= 0).any(axis=1)).tolist():
        bands = [(band, int(groups[index, band])) for band in np.flatnonzero(groups[index] >= 0).tolist()]
        for other in sorted({place for band in bands for place in firsts.get(band, ())}):
            if float(np.mean(signatures[other] == signatures[index])) >= threshold:
                first_texts[places[index]] = places[other]
                break
        else:
            for band in bands:
                firsts.setdefault(band, []).append(index)
    return first_texts


def _shared_bands(signatures: npt.NDArray[np.uint32]) -> npt.NDArray[np.int32]:
    """Return per text and band the number of the group of texts that agree in it; -1 for a text that is alone."""
    width = PERMUTATIONS // BANDS
    out = np.empty((len(signatures), BANDS), dtype=np.int32)
    for band in range(BANDS):
        mixed = np.zeros(len(signatures), dtype=np.uint64)
        for column in range(band * width, (band + 1) * width):
            mixed = (mixed * _MIX) ^ signatures[:, column]
        _, group, counts = np.unique(mixed, return_inverse=True, return_counts=True)
        out[:, band] = np.where(counts[group] > 1, group, -1)
    return out


def minhash(text: str) -> npt.NDArray[np.uint32]:
    """Return the signature of the text's phrases; the same in every process."""
    words = [word.casefold() for word in WORD.findall(text)]
    phrases = [" ".join(words[start : start + _PHRASE]) for start in range(max(1, len(words) - _PHRASE + 1))]
    sketch = RMinHash(num_perm=PERMUTATIONS, seed=_SEED)
    sketch.update([phrase.encode("utf-8", "replace") for phrase in phrases])
    return np.array(sketch.digest(), dtype=np.uint32)
