"""Price tiers: `standard`; `flex`, slower; `batch`, by provider batch jobs."""

from typing import Literal

Tier = Literal["standard", "flex", "batch"]
TIERS: tuple[Tier, ...] = ("standard", "flex", "batch")
