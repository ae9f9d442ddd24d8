"""What metrics cost: the CPU of runs without them, and with a scrape every 5 s, in turns; and of the hooks alone."""

import os
import socket
import statistics
import tempfile
import threading
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from pipeline.telemetry.metrics.recorder import Recorder
from tests.bench.pipelines import Ran, run, write_spec, write_table
from tests.harness.model_server import ModelServer

ROWS, LATENCY_MS, IN_FLIGHT, TIMES, EVERY_S = 6_000, 20, 256, 4, 5.0
_EVENTS = 100_000


@contextmanager
def scraping(port: int) -> Iterator[list[int]]:
    """Scrape until the block ends; the list gets the bytes of each answer."""
    sizes: list[int] = []
    over = threading.Event()

    def scrape() -> None:
        while not over.wait(EVERY_S):
            with suppress(OSError), urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=5) as answer:
                sizes.append(len(answer.read()))

    thread = threading.Thread(target=scrape, daemon=True)
    thread.start()
    try:
        yield sizes
    finally:
        over.set()
        thread.join()


def one(server: ModelServer, *, measured: bool) -> tuple[Ran, list[int]]:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        port = int(found.getsockname()[1])
    with tempfile.TemporaryDirectory() as name, scraping(port) as sizes:
        folder = Path(name)
        write_table(folder / "t.csv", ROWS)
        write_spec(folder, "openai:test-model")
        with (folder / "tandem.yaml").open("a") as spec:
            spec.write(f"limits: {{rows_in_flight: {IN_FLIGHT}}}\n")
        flags = ("--metrics", f"127.0.0.1:{port}") if measured else ()
        ran = run(folder, "--processes", "2", *flags, env=server.env())
    return ran, sizes


def hooks_us() -> float:
    """CPU of everything that a row with one call reports, in microseconds."""
    recorder, usage, journal = Recorder(), {"input": 100, "output": 20}, object.__new__(Recorder)
    began = time.process_time()
    for number in range(_EVENTS):
        recorder.limit_waited(0.0)
        recorder.call_answered("openai:test-model", usage, 0.001, "default")
        recorder.rows_done("triage", 1)
        if number % 50 == 0:
            recorder.flush_began(journal)
            recorder.flush_ended(journal)
    return (time.process_time() - began) / _EVENTS * 1e6


def main() -> str:
    cpu: dict[bool, list[float]] = {False: [], True: []}
    scrapes: list[int] = []
    with ModelServer.start(latency_ms=LATENCY_MS) as server:
        for turn in range(2 * TIMES):
            measured = turn % 2 == 1
            server.reset()
            server.script({"latency_ms": LATENCY_MS})
            ran, sizes = one(server, measured=measured)
            cpu[measured].append(ran.cpu_s / ROWS * 1000)
            scrapes += sizes
    without, with_them = (statistics.median(cpu[measured]) for measured in (False, True))
    hooks = hooks_us()
    return (
        f"without {without:.2f} ms CPU a row ({_all(cpu[False])}), with {with_them:.2f} ({_all(cpu[True])}): "
        f"{with_them / without - 1:+.1%}; hooks alone {hooks:.1f} us a row = {hooks / without / 10:.2f} %; "
        f"{len(scrapes)} scrapes of {max(scrapes, default=0) / 1000:.0f} kB (load {os.getloadavg()[0]:.0f})"
    )


def _all(found: list[float]) -> str:
    return " ".join(f"{value:.2f}" for value in found)
