"""A call under `tier: batch`: its answer is known, or it waits for a provider batch job."""

import asyncio

from schemas.parked import ParkedCall
from stages.journal.records import CallKey
from stages.limits.budget import Amount
from stages.limits.prices import tier_price
from stages.models.backend import Backend
from stages.models.known_calls import find_answer
from stages.models.request import ModelRequest
from stages.models.row.parking import JobBody, thread_of_call
from stages.models.row.scope import RowScope


async def known_or_parked(
    scope: RowScope, backend: Backend, request: ModelRequest, key: CallKey, body: JobBody
) -> None:
    """Return once the call may be looked up or made: its answer is known, an equal call is being made live, or no job
    answered it in time. Else it is noted, and this never returns. Raises RowError for a call that a job refused."""
    parking = scope.parking
    if parking is None or not backend.pool or backend.no_calls:
        return
    if scope.closed and not thread_of_call.get():
        # The row is over, and its code goes on all the same; an error at once could make it turn for ever.
        await asyncio.get_running_loop().create_future()
    parking.asked.add(key)
    with parking.working():
        known = await find_answer(scope, backend, request, key)
    capped = scope.own_digest(request.capped or request.digest)
    if known is not None or scope.closed or (capped, key[1]) in scope.in_flight or not parking.must_park(key):
        return
    limited = scope.budget is not None and scope.budget.limited
    cap = request.cap or backend.cap
    sent_cap = backend.default_cap if cap is None and limited and backend.capped is not None else None
    # Also without a budget: one may be set while the call waits, or its job is out.
    most = _most(backend, request, cap or backend.default_cap)
    text = request.text if scope.journal.keeps_requests else None
    call = ParkedCall(
        request=key[0],
        ordinal=key[1],
        capped=capped,
        row=scope.id,
        stage=parking.stage,
        model=backend.name,
        pool=backend.pool,
        body=body(sent_cap),
        common=text.common.decode() if text is not None else "",
        messages=text.messages.decode() if text is not None else "",
        cap=cap or sent_cap,
        most_nano_usd=most.nanos,
        most_tokens=most.tokens,
        print=parking.print,
        size=request.size,
        media=request.media,
        images=request.images,
        wave=parking.wave,
    )
    await parking.park(call)


def _most(backend: Backend, request: ModelRequest, cap: int) -> Amount:
    price = tier_price(backend.price, "batch")
    return backend.most_of(
        request.size, cap, marked=request.marked, images=request.images, searches=request.searches, price=price
    )
