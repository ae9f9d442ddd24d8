"""How a child ended, and what is done about the activities it was at work on."""

import base64
import contextlib
import logging
import signal
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any

from google.protobuf.duration_pb2 import Duration
from temporalio.api.failure.v1 import ApplicationFailureInfo, Failure
from temporalio.api.workflowservice.v1 import RespondActivityTaskFailedRequest
from temporalio.client import Client
from temporalio.service import RPCError

log = logging.getLogger("tandem.processes")
_AGAIN = timedelta(milliseconds=50)  # the work is not at fault, and another worker is there
_SENT_BY_OTHERS = (signal.SIGKILL, signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGQUIT)
_ANSWER_WITHIN = timedelta(seconds=5)


@dataclass(frozen=True)
class Death:
    """`status`: of `os.waitstatus_to_exitcode`, None where there was no child. `ready`: it had begun to work;
    `leaving`: it had done all that it was to do. `out_of_memory`: the kernel killed something in this container
    meanwhile. `stuck`: it had to be killed, as its interpreter stood still."""

    status: int | None
    ready: bool
    leaving: bool = False
    out_of_memory: bool = False
    activities: list[dict[str, Any]] = field(default_factory=list)
    rows: list[dict[str, Any]] = field(default_factory=list)
    stuck: bool = False

    @property
    def own(self) -> bool:
        """Was it the process's own doing, or its code's? Not what an operator or a machine that is taken away sends; a
        process that kills itself by SIGKILL looks like that too, and is taken for it."""
        if self.status is None or self.leaving:
            return False
        if self.stuck:
            return True
        if -self.status in _SENT_BY_OTHERS:
            return self.status == -signal.SIGKILL and self.out_of_memory
        return True

    @property
    def keys(self) -> list[list[str]]:
        """The rows that were in flight."""
        return [row["key"] for row in self.rows]

    @property
    def how(self) -> str:
        """In words; nothing where it ended as it should."""
        if self.status is None:
            return "could not be started"
        if self.stuck:
            return "stood still in C code, and was killed"
        if self.status == -signal.SIGKILL and self.out_of_memory:
            return "was killed because memory ran out"
        if self.status == 0:
            return "" if self.leaving else "ended with 0, unasked"
        return f"was killed by {signal_name(-self.status)}" if self.status < 0 else f"ended with {self.status}"


def signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"


async def fail_activities(client: Client, death: Death) -> None:
    """Have what a dead child was at work on done again at once."""
    for activity in death.activities:
        request = RespondActivityTaskFailedRequest(
            namespace=client.namespace,
            task_token=base64.b64decode(activity["token"]),
            failure=lost_worker(f"the worker process {death.how or 'ended'}"),
            identity=client.service_client.config.identity,
        )
        with contextlib.suppress(RPCError):  # it had just ended, or its time is up anyhow
            await client.workflow_service.respond_activity_task_failed(request, timeout=_ANSWER_WITHIN)


def lost_worker(why: str) -> Failure:
    """The failure of an activity whose worker is gone: tried again at once."""
    again = Duration()
    again.FromTimedelta(_AGAIN)
    info = ApplicationFailureInfo(type="WorkerLost", next_retry_delay=again)
    return Failure(message=why, source="tandem", application_failure_info=info)
