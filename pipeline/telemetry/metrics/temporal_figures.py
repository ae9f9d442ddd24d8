"""The metrics of Temporal's SDK in one process. Its meter can only be read from a buffer, which is emptied with each
report into the figures beside it."""

from collections.abc import Iterable, Mapping
from typing import Any

from temporalio.runtime import (
    BUFFERED_METRIC_KIND_COUNTER,
    BUFFERED_METRIC_KIND_GAUGE,
    MetricBuffer,
    MetricBufferDurationFormat,
)

from pipeline.telemetry.metrics import recorder
from pipeline.telemetry.metrics.recorder import Gauge, Recorder

_ROOM = 100_000  # updates; some ten for each workflow task and activity, and it is emptied every second
_OURS = "service_name"  # on every metric, always the same


class TemporalFigures:
    """Reads one buffer, and records what it finds. A metric of seconds gets their name."""

    def __init__(self, into: Recorder) -> None:
        self.buffer = MetricBuffer(_ROOM, duration_format=MetricBufferDurationFormat.SECONDS)
        self._recorder = into
        self._gauges: dict[tuple[str, tuple[tuple[str, str], ...]], Gauge] = {}
        into.gauges.append(self._read)

    def _read(self) -> Iterable[Gauge]:
        try:
            updates = self.buffer.retrieve_updates()
        except RuntimeError:  # no runtime uses it, as nothing has connected so far
            return ()
        for update in updates:
            self._record(update.metric, update.value, update.attributes)
        return tuple(self._gauges.values())

    def _record(self, metric: Any, value: float, attributes: Mapping[str, Any]) -> None:
        labels = {name: str(label) for name, label in sorted(attributes.items()) if name != _OURS}
        if metric.kind == BUFFERED_METRIC_KIND_COUNTER:
            self._recorder.count(f"{metric.name}_total", labels, value)
        elif metric.kind == BUFFERED_METRIC_KIND_GAUGE:
            self._gauges[metric.name, tuple(labels.items())] = metric.name, labels, value
        else:
            unit = {"s": "_seconds"}.get(metric.unit or "", "")
            self._recorder.observe(f"{metric.name}{unit}", labels, value)


def buffer_of_process() -> MetricBuffer | None:
    """Return a buffer for the SDK's runtime of this process; None if nothing is recorded."""
    return None if recorder.current is None else TemporalFigures(recorder.current).buffer
