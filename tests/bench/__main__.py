"""`python -m tests.bench [NAME …]`: run the benchmarks and print one line of numbers each."""

import compileall
import sys
import time
from pathlib import Path

from tests.bench import (
    answers,
    catalogue,
    cost,
    filtered,
    killed,
    limits,
    memory,
    metrics,
    objects,
    page,
    partitions,
    peers,
    processes,
    publish,
    queues,
    requests,
    reuse,
    startup,
    throughput,
    traces,
    transport,
    unchanged,
    watched,
    wide,
)

ROOT = Path(__file__).parents[2]
BENCHMARKS = {
    "throughput": throughput.main,
    "peers": peers.main,
    "transport": transport.main,
    "requests": requests.main,
    "reuse": reuse.main,
    "unchanged": unchanged.main,
    "filtered": filtered.main,
    "memory": memory.main,
    "metrics": metrics.main,
    "objects": objects.main,
    "traces": traces.main,
    "page": page.main,
    "watched": watched.main,
    "catalogue": catalogue.main,
    "cost": cost.main,
    "answers": answers.main,
    "killed": killed.main,
    "processes": processes.main,
    "publish": publish.main,
    "partitions": partitions.main,
    "startup": startup.main,
    "wide": wide.main,
    "limits": limits.main,
    "queues": queues.main,
}


def main(names: list[str]) -> None:
    for room in ("pipeline", "stages", "schemas"):  # as `pip install` does: a third of a second of each command
        compileall.compile_dir(ROOT / room, quiet=1)
    for name in names or list(BENCHMARKS):
        began = time.monotonic()
        print(f"{name}: {BENCHMARKS[name]()}  [{time.monotonic() - began:.0f} s]", flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])
