"""A child's side of rates: it leases its part of the command's share from the supervisor."""

from pipeline.limits.lease_keeper import LeaseKeeper, SharedLimits
from pipeline.processes.channel import Channel, ChannelClosed
from schemas.messages.limits import Lease, LeaseRequest

_AGAIN_S, _SOON_S = 0.25, 0.05


class ChannelLeases(LeaseKeeper):
    """Requests of shares over the channel to the supervisor."""

    def __init__(self, channel: Channel, limits: SharedLimits) -> None:
        super().__init__(limits, again_s=_AGAIN_S, soon_s=_SOON_S)
        self._channel = channel

    async def _update(self, key: str, request: LeaseRequest) -> Lease:
        try:
            answer = await self._channel.request("lease", {"key": key, "request": request.model_dump()})
        except ChannelClosed:
            raise TimeoutError from None
        if "failed" in answer.data:
            raise TimeoutError
        return Lease.model_validate(answer.data)
