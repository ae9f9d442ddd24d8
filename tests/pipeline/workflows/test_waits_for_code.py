"""A partition whose worker has other code waits for one with the planned code, but for no cancelled run."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from typing import Any

import pytest
from temporalio.client import Client
from temporalio.contrib.pydantic import pydantic_data_converter

from tests.harness.servers import TemporalServer
from tests.pipeline.fakes import Fakes, at_work, beat_until, ended, failed, planned, until

A = "day=2026-11-01"


@pytest.fixture
async def client(temporal_server: TemporalServer) -> Client:
    return await Client.connect(temporal_server.address, data_converter=pydantic_data_converter)


def refused() -> Exception:
    return failed("CodeMismatch", "the code of stage 's' here is not the planned one")


@pytest.mark.parametrize("step", ["open", "enrich_batch"])
async def test_a_cancel_that_comes_as_an_activity_is_refused_ends_the_wait(client: Client, step: str) -> None:
    async def work(request: Any, nth: int) -> None:
        if nth == 1:
            with suppress(asyncio.CancelledError):
                await beat_until(asyncio.Event())
        raise refused()

    fakes = Fakes([planned(A)], on={step: work})
    async with at_work(client, fakes) as bench:
        run = await bench.start()
        await until(lambda: fakes.running[step] > 0)
        await run.cancel()
        async with asyncio.timeout(20):
            result = await ended(run)
    assert (result.state, result.totals.cancelled) == ("cancelled", 1)
    (close,) = fakes.of("close", A)
    assert (close.outcome, bool(close.fence)) == ("cancelled", True)


async def test_a_publication_that_waits_for_its_code_has_not_begun_and_is_cancelled(client: Client) -> None:
    async def refuse(request: Any, nth: int) -> None:
        raise refused()

    fakes = Fakes([planned(A)], on={"publish": refuse})
    async with at_work(client, fakes) as bench:
        run = await bench.start()
        await until(lambda: len(fakes.of("publish")) > 1)
        await run.cancel()
        async with asyncio.timeout(20):
            result = await ended(run)
    assert (result.state, result.totals.cancelled) == ("cancelled", 1)
    assert [bool(said.fence) for said in fakes.of("close", A)] == [True]
