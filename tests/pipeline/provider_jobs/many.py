"""A process that asks very many requests in jobs, and prints what it took.

python -m tests.pipeline.provider_jobs.many FOLDER SERVER REQUESTS REQUESTS_A_JOB
"""

from __future__ import annotations

import asyncio
import json
import resource
import sys
import time
from pathlib import Path

from pipeline.provider_jobs.collection import collect
from pipeline.provider_jobs.forming import form_jobs
from pipeline.stores.local import LocalStore
from stages.models.wires.http import close_session
from stages.models.wires.jobs.form import JobLimits
from tests.pipeline.provider_jobs.submitter import Address
from tests.pipeline.provider_jobs.support import OPENAI, POOL, RUN, a_call, over, park, text_of

_A_FILE = 500
_PADDING = "x" * 700


def peak_mb() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


async def main() -> None:
    folder, url, requests, a_job = sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4])
    store, server = LocalStore(Path(folder)), Address(url)
    model, client, backend = OPENAI.model(server), OPENAI.client(server), OPENAI.backend()
    client.limits = JobLimits(a_job, client.limits.bytes)
    keys = []
    for number in range(0, requests, _A_FILE):
        rows = range(number, min(number + _A_FILE, requests))
        parked = [a_call(model, OPENAI, f"{_PADDING} {text_of(row)}", str(row)) for row in rows]
        keys.append(park(store, f"day={number // _A_FILE % 20}", number // _A_FILE, parked))
    begun, answered, peaks = time.monotonic(), 0, [peak_mb()]
    jobs = form_jobs(store, RUN, POOL, keys, client=client, closing=True).jobs
    for job in jobs:
        peaks.append(peak_mb())
        await over(store, job, client)
        answered += (await collect(store, RUN, POOL, job, client, backend)).answered
    peaks.append(peak_mb())
    await close_session()
    seconds = time.monotonic() - begun
    print(json.dumps({"jobs": len(jobs), "answered": answered, "peaks_mb": peaks, "seconds": seconds}))


if __name__ == "__main__":
    asyncio.run(main())
