"""Ends of child processes, and the failing of the activities they were running."""

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

from pipeline.workflows.policies import WORKER_LOST

log = logging.getLogger("tandem.processes")
_AGAIN = timedelta(milliseconds=50)  # the work is not at fault, and another worker is available
_SENT_BY_OTHERS = (signal.SIGKILL, signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGQUIT)
_ANSWER_WITHIN = timedelta(seconds=5)


@dataclass(frozen=True)
class Death:
    """The end of a child. `status`: of `os.waitstatus_to_exitcode`, None if there was no child. `ready`: it had begun
    to work; `leaving`: it had finished its work. `out_of_memory`: the kernel killed a process of this container
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
        """True if the process or its code caused its end, not an operator or a machine that is shut down. A process
        that kills itself by SIGKILL looks like the latter, and counts as such."""
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
    def kind(self) -> str:
        """The kind of end, for counting: one of few words (`pipeline.telemetry.metrics.catalogue.DEATHS`)."""
        if self.status is None:
            return "not_started"
        if self.stuck:
            return "stuck"
        if self.status == -signal.SIGKILL and self.out_of_memory:
            return "out_of_memory"
        if self.status >= 0:
            return "exited"
        return "killed" if -self.status in _SENT_BY_OTHERS else "crashed"

    @property
    def cause(self) -> str:
        """The cause in words; empty if it ended as it should."""
        if self.status is None:
            return "could not be started"
        if self.stuck:
            return "stood still in C code, and was killed"
        if self.status == -signal.SIGKILL and self.out_of_memory:
            return "was killed because memory ran out"
        if self.status == 0:
            return "" if self.leaving else "ended with 0 before it was stopped"
        return f"was killed by {signal_name(-self.status)}" if self.status < 0 else f"ended with {self.status}"


def signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"


async def fail_activities(client: Client, death: Death) -> None:
    """Fail the activities of a dead child, so that they are done again at once."""
    for activity in death.activities:
        request = RespondActivityTaskFailedRequest(
            namespace=client.namespace,
            task_token=base64.b64decode(activity["token"]),
            failure=lost_worker(f"the worker process {death.cause or 'ended'}"),
            identity=client.service_client.config.identity,
        )
        with contextlib.suppress(RPCError):  # it had just ended, or its time is up anyhow
            await client.workflow_service.respond_activity_task_failed(request, timeout=_ANSWER_WITHIN)


def lost_worker(reason: str) -> Failure:
    """Return the failure of an activity whose worker is gone: tried again at once."""
    delay = Duration()
    delay.FromTimedelta(_AGAIN)
    info = ApplicationFailureInfo(type=WORKER_LOST, next_retry_delay=delay)
    return Failure(message=reason, source="tandem", application_failure_info=info)
