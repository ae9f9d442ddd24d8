"""Files of a job at its provider: what was sent ahead, and results. They are deleted once its answers are in journals.

A file that cannot be deleted harms nothing: it is named in the log, and the provider deletes it in time.
"""

import asyncio
import logging
from collections.abc import Iterator

from pipeline.limits.job_budget import job_names
from pipeline.provider_jobs.base import JobClient
from pipeline.provider_jobs.requests import Pool
from pipeline.stores import Store
from pipeline.stores.documents import read_document
from schemas import ids
from schemas.errors import FatalModelError, ModelError
from schemas.jobs import Claim

log = logging.getLogger("tandem.jobs")


async def delete_files(pool: Pool, job: str, client: JobClient) -> None:
    """Delete the files of a job that was collected, once. Raises StoreError, Damaged."""
    if await asyncio.to_thread(pool.store.head, ids.job_files_deleted(pool.run, pool.name, job)) is not None:
        return
    files = dict.fromkeys(await asyncio.to_thread(lambda: list(_sent(pool, job))))
    done = await asyncio.to_thread(pool.submitted, job)
    left = []
    try:
        if done is not None and done.id:
            status = await client.status(done.id)
            files |= dict.fromkeys([*status.inputs, *status.files.values()])
    except (ModelError, FatalModelError) as exc:
        left.append(f"those of {done.id if done else job} ({exc})")
    for file in files:
        try:
            await client.withdraw(file)
        except (ModelError, FatalModelError) as exc:
            left.append(f"{file} ({exc})")
    if left:
        log.warning("files of provider job %s could not be deleted: %s", job, "; ".join(left))
    else:
        key = ids.job_files_deleted(pool.run, pool.name, job)
        await asyncio.to_thread(pool.store.put_absent, key, b"{}")


def _sent(pool: Pool, job: str) -> Iterator[str]:
    """Yield the files that were sent ahead for a job, those of attempts that came to nothing among them."""
    for info in pool.store.list(ids.job_claims(pool.run, pool.name, job)):
        if not info.key.endswith("-refused.json") and (file := read_document(pool.store, info.key, Claim).file):
            yield file


def left_at_providers(store: Store) -> list[str]:
    """Return the jobs of all runs in a sink of which files may still lie at a provider, by the names that the provider
    gave them, or else by ours. Blocks; raises StoreError, Damaged."""
    found = []
    for run in store.folders(ids.RUNS):
        for name, job in job_names(store, run):
            pool = Pool(store, run, name)
            if pool.intent(job) is None or store.head(ids.job_files_deleted(run, name, job)) is not None:
                continue
            done = pool.submitted(job)
            found.append(done.id if done is not None and done.id else job)
    return sorted(found)
