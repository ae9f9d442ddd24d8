"""Near-duplicates among vectors, by their cosine."""

from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from schemas.errors import PartitionError

MAX_VECTORS = 50_000


@dataclass
class Vectors:
    """The first vectors of all groups, as one matrix of unit vectors that grows by doubling."""

    threshold: float
    where: str
    places: list[int] = field(default_factory=list)
    units: npt.NDArray[np.float32] | None = None

    def first_similar(self, place: int, value: npt.NDArray[np.float64]) -> int:
        """Return the earlier place that this vector is similar to, or its own, and remember it."""
        length = float(np.linalg.norm(value))
        if not length or not np.isfinite(length):
            return place
        unit = (value / length).astype(np.float32)
        known = len(self.places)
        if self.units is None:
            self.units = np.empty((64, unit.size), dtype=np.float32)
        if unit.size != self.units.shape[1]:
            raise PartitionError(
                f"{self.where}: vectors of {unit.size} and of {self.units.shape[1]} numbers cannot be compared.",
                hint="One model makes vectors of one length.",
            )
        similar = np.flatnonzero(self.units[:known] @ unit >= self.threshold - 1e-6)
        if similar.size:
            return self.places[int(similar[0])]
        if known == MAX_VECTORS:
            raise PartitionError(
                f"{self.where}: more than {MAX_VECTORS:,} different vectors in a partition.",
                hint="Make partitions smaller, or compare texts: with: {on: [column]}.",
            )
        if known == len(self.units):
            self.units = np.concatenate([self.units, np.empty_like(self.units)])
        self.units[known] = unit
        self.places.append(place)
        return place
