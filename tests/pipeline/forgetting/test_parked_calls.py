"""Rows that are forgotten leave nothing in what is kept of provider jobs, and the rest of their jobs goes on."""

from __future__ import annotations

import pyarrow as pa
import pytest

from pipeline.forgetting.identities import Identities
from pipeline.forgetting.parked_calls import remove_parked
from pipeline.provider_jobs.collection import collect, refused_calls
from pipeline.provider_jobs.forming import form_jobs
from pipeline.stores.memory import MemoryStore
from stages.models.wires.http import close_session
from tests.harness.model_server import ModelServer
from tests.pipeline.provider_jobs.support import OPENAI, POOL, RUN, calls, over, park, some, through


@pytest.fixture(autouse=True)
async def _sessions() -> object:
    yield
    await close_session()


def everything(store: MemoryStore) -> bytes:
    found = b""
    for info in store.list("_tandem/runs/"):
        content = store.get(info.key)
        packed = info.key.endswith(".zst")
        found += pa.CompressedInputStream(pa.BufferReader(content), "zstd").read() if packed else content
    return found


async def test_a_row_that_waits_for_a_job_is_not_sent_any_more(model_server: ModelServer) -> None:
    """Nothing of it is left, and the other rows of its job are answered."""
    store, model, client = MemoryStore(), OPENAI.model(model_server), OPENAI.client(model_server)
    parked = some(model, OPENAI, range(3))
    key = park(store, "day=1", 0, parked)
    (job,) = form_jobs(store, RUN, POOL, [key], client=client, closing=True).jobs
    assert b"Say 1." in everything(store)
    remove_parked(store, Identities(frozenset((parked[1].row,))))
    assert b"Say 1." not in everything(store)
    assert parked[1].row.encode() not in everything(store)
    await over(store, job, client)
    end = await collect(store, RUN, POOL, job, client, OPENAI.backend())
    assert (end.answered, end.given_back) == (2, 0)
    assert {record.id for record in calls(store, "day=1")} == {parked[0].row, parked[2].row}
    assert model_server.jobs()["submitted"] == 2


async def test_a_refusal_that_repeats_the_row_is_removed(model_server: ModelServer) -> None:
    """That of another row stays."""
    store, model, client = MemoryStore(), OPENAI.model(model_server), OPENAI.client(model_server)
    model_server.script({"rules": [{"match": "*", "action": "error", "status": 400}]})
    parked = some(model, OPENAI, range(2))
    await through(store, [park(store, "day=1", 0, parked)], client, OPENAI.backend())
    assert len(refused_calls(store, RUN, "day=1")) == 2
    remove_parked(store, Identities(frozenset((parked[1].row,))))
    assert list(refused_calls(store, RUN, "day=1")) == [(parked[0].request, 0)]
