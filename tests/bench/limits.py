"""Limits that a provider does not name, in virtual time: what the limiter gets of them from ten seconds or thirty calls
on, and how often it is refused. `CELLS=600/min` takes the cells with that in their name."""

import os
from concurrent.futures import ProcessPoolExecutor

from tests.stages.limits.hidden import grid, measure


def main() -> str:
    cells = [cell for cell in grid() if os.environ.get("CELLS", "") in str(cell)]
    missed = 0
    with ProcessPoolExecutor() as processes:
        for cell, shares in zip(cells, processes.map(measure, cells), strict=True):
            holds = all(share.holds for share in shares)
            missed += not holds
            print(f"  {'' if holds else 'MISSED '}{cell}: {'; then '.join(map(str, shares))}", flush=True)
    return f"{len(cells) - missed} of {len(cells)} cells hold"
