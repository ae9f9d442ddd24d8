"""Texts that are under way at the same moment go in one request."""

from __future__ import annotations

import asyncio

from hypothesis import given
from hypothesis import strategies as st

from schemas.errors import RowError, TransientModelError
from stages.models.embeddings.shared_requests import MOST_BYTES, MOST_TEXTS, SharedRequests, divided


class Server:
    def __init__(self, *, refuses: str = "", one_at_a_time: bool = False) -> None:
        self.requests: list[list[str]] = []
        self._refuses = refuses
        self._one_at_a_time = one_at_a_time

    async def send(self, texts: list[str]) -> list[str]:
        self.requests.append(texts)
        await asyncio.sleep(0)
        if self._refuses in texts or (self._one_at_a_time and len(texts) > 1):
            raise RowError("no", kind="bad_request")
        return [text.upper() for text in texts]


async def test_each_gets_its_own_result() -> None:
    server = Server()
    shared: SharedRequests[str] = SharedRequests(server.send)
    assert await asyncio.gather(*map(shared.result, "abc")) == ["A", "B", "C"]
    assert await shared.result("d") == "D"
    assert server.requests == [["a", "b", "c"], ["d"]]


async def test_a_request_stays_within_the_limits() -> None:
    server = Server()
    shared: SharedRequests[str] = SharedRequests(server.send)
    texts = [f"{n}" for n in range(MOST_TEXTS + 1)] + ["x" * (MOST_BYTES // 2)] * 3
    await asyncio.gather(*map(shared.result, texts))
    assert len(server.requests[0]) == MOST_TEXTS
    assert all(len(request) <= MOST_TEXTS for request in server.requests)
    assert all(sum(map(len, request)) <= MOST_BYTES for request in server.requests)


async def test_only_the_text_at_fault_is_refused() -> None:
    shared: SharedRequests[str] = SharedRequests(Server(refuses="b").send)
    one, two, three = await asyncio.gather(*map(shared.result, "abc"), return_exceptions=True)
    assert (one, three) == ("A", "C")
    assert isinstance(two, RowError)


async def test_a_server_that_takes_one_at_a_time_is_learned() -> None:
    server = Server(one_at_a_time=True)
    shared: SharedRequests[str] = SharedRequests(server.send)
    for _ in range(3):
        assert await asyncio.gather(*map(shared.result, "ab")) == ["A", "B"]
    assert [len(request) for request in server.requests] == [2, 1, 1, 2, 1, 1, 1, 1]


async def test_a_transient_failure_is_everybodys() -> None:
    async def fails(texts: list[str]) -> list[str]:
        raise TransientModelError("busy")

    shared: SharedRequests[str] = SharedRequests(fails)
    found = await asyncio.gather(*map(shared.result, "ab"), return_exceptions=True)
    assert all(isinstance(one, TransientModelError) for one in found)


async def test_who_is_cancelled_takes_nobody_along() -> None:
    server = Server()
    shared: SharedRequests[str] = SharedRequests(server.send)
    first = asyncio.create_task(shared.result("a"))
    second = asyncio.create_task(shared.result("b"))
    await asyncio.sleep(0)
    first.cancel()
    assert await second == "B"
    assert server.requests == [["b"]]


@given(st.integers(0, 10**6), st.lists(st.integers(0, 1000), min_size=1, max_size=50))
def test_the_parts_add_up(total: int, weights: list[int]) -> None:
    parts = divided(total, weights)
    assert sum(parts) == total if sum(weights) else True
    assert all(part >= 0 for part in parts)


def test_parts_are_by_weight() -> None:
    assert divided(10, [1, 1]) == [5, 5]
    assert divided(3, [5, 5]) == [2, 1]
    assert divided(7, [0, 3]) == [0, 7]
