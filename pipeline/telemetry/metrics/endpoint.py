"""The endpoint that Prometheus scrapes: the figures of a command, over HTTP, by a thread of its own."""

import contextlib
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any
from wsgiref.simple_server import WSGIServer

from prometheus_client import CollectorRegistry, start_http_server
from prometheus_client.core import Metric, Sample
from prometheus_client.registry import Collector

from pipeline.telemetry.metrics.address import Address
from pipeline.telemetry.metrics.catalogue import BY_NAME, SECONDS
from pipeline.telemetry.metrics.recorder import Series
from pipeline.telemetry.metrics.totals import Reading
from schemas.errors import UsageError


class Endpoint:
    """A server of figures. `url` is the address that it listens on."""

    def __init__(self, server: WSGIServer, thread: threading.Thread, host: str) -> None:
        self._server, self._thread = server, thread
        self.url = f"http://{f'[{host}]' if ':' in host else host}:{server.server_port}/metrics"

    @classmethod
    def open(cls, address: Address, read: Callable[[], Reading]) -> "Endpoint":
        """Serve what `read` returns at each request. Raises UsageError if the address cannot be used."""
        registry = CollectorRegistry(auto_describe=False)
        registry.register(_Figures(read))
        try:
            server, thread = start_http_server(address.port, address.host, registry)
        except OSError as exc:
            raise UsageError(
                f"--metrics {address}: this address cannot be used: {exc.strerror or exc}.",
                hint="Name an address of this machine and a free port, for example --metrics 127.0.0.1:9464",
            ) from exc
        return cls(server, thread, address.host)

    def close(self) -> None:
        """End the server; a request that is being answered is answered."""
        with contextlib.suppress(OSError):
            self._server.shutdown()
            self._server.server_close()
        self._thread.join(1.0)


class _Figures(Collector):
    def __init__(self, read: Callable[[], Reading]) -> None:
        self._read = read

    def collect(self) -> Iterable[Metric]:
        reading = self._read()
        yield from _families("counter", reading.counts, _counter)
        yield from _families("gauge", reading.gauges, _gauge)
        yield from _families("histogram", reading.observed, _histogram)


def _families(
    kind: str, found: Mapping[Series, Any], samples: Callable[[str, dict[str, str], Any], Iterator[Sample]]
) -> Iterator[Metric]:
    families: dict[str, Metric] = {}
    for (name, labels), value in sorted(found.items()):
        if name not in families:
            known = BY_NAME.get(name)
            text = known.help if known is not None else "A metric of Temporal's SDK; see its documentation."
            families[name] = Metric(name.removesuffix("_total") if kind == "counter" else name, text, kind)
        families[name].samples.extend(samples(name, dict(labels), value))
    yield from families.values()


def _counter(name: str, labels: dict[str, str], value: float) -> Iterator[Sample]:
    yield Sample(name, labels, value)


_gauge = _counter


def _histogram(name: str, labels: dict[str, str], buckets: list[float]) -> Iterator[Sample]:
    found = buckets or [0.0] * (len(SECONDS) + 2)
    count = 0.0
    for limit, number in zip((*map(str, SECONDS), "+Inf"), found, strict=False):
        count += number
        yield Sample(f"{name}_bucket", {**labels, "le": limit}, count)
    yield Sample(f"{name}_count", labels, count)
    yield Sample(f"{name}_sum", labels, found[-1])
