"""A run that nobody watches against the same run with its page open in a browser: seconds, and seconds of CPU of all
its processes; those of the page's own process beside them."""

import http.cookiejar
import statistics
import subprocess
import sys
import tempfile
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil

from tests.bench.pipelines import Ran, run, write_spec, write_table

ROWS, ROUNDS = 20_000, 3


class Page:
    """`tandem ui` over the folder's sink, and a browser's connection to one run of it."""

    def __init__(self, process: psutil.Popen, address: str) -> None:
        self.process = process
        self._base = address.split("?")[0]
        self._opener = urllib.request.build_opener(urllib.request.HTTPCookieProcessor(http.cookiejar.CookieJar()))
        self._opener.open(address).read()
        self.events = 0

    @property
    def cpu_s(self) -> float:
        return float(sum(self.process.cpu_times()[:2]))

    def follow(self, name: str, over: threading.Event) -> None:
        """Read the run's live figures until it has ended."""
        while not over.is_set():
            try:
                with self._opener.open(f"{self._base}d/bench/runs/{name}/live", timeout=60) as stream:
                    for line in stream:
                        self.events += line.startswith(b"event: part")
                        if over.is_set():
                            return
            except (urllib.error.URLError, OSError):
                time.sleep(0.2)  # the run has not begun


@contextmanager
def _page(folder: Path) -> Iterator[Page]:
    command = [sys.executable, "-m", "pipeline.cli", "ui", "out", "--no-open"]
    process = psutil.Popen(command, cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    try:
        yield Page(process, process.stdout.readline().strip())
    finally:
        process.terminate()
        process.wait()


def _run(folder: Path, name: str, page: Page | None) -> Ran:
    over = threading.Event()
    watcher = threading.Thread(target=page.follow, args=(name, over), daemon=True) if page is not None else None
    if watcher is not None:
        watcher.start()
    try:
        return run(folder, "-y", "--name", name, "--reprocess", "all", "--fresh")
    finally:
        over.set()
        if watcher is not None:
            watcher.join()


def main() -> str:
    alone, watched, page_cpu = list[Ran](), list[Ran](), list[float]()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_table(folder / "t.csv", ROWS)
        write_spec(folder, "offline:lexical")
        run(folder, "-y", "--limit-rows", "1")  # the sink is there before its page
        with _page(folder) as page:
            for number in range(ROUNDS):
                alone.append(_run(folder, f"alone-{number}", None))
                before = page.cpu_s
                watched.append(_run(folder, f"watched-{number}", page))
                page_cpu.append(page.cpu_s - before)
            events = page.events
    seconds = [statistics.median(one.wall_s for one in runs) for runs in (alone, watched)]
    cpu = [statistics.median(one.cpu_s for one in runs) for runs in (alone, watched)]
    return (
        f"{ROWS:,} rows, median of {ROUNDS}: {seconds[0]:.1f} s and {cpu[0]:.1f} s of CPU with nobody watching, "
        f"{seconds[1]:.1f} s ({seconds[1] / seconds[0] - 1:+.1%}) and {cpu[1]:.1f} s of CPU "
        f"({cpu[1] / cpu[0] - 1:+.1%}) with the page open, which itself took {statistics.median(page_cpu):.1f} s of "
        f"CPU and sent {events / ROUNDS:.0f} states a run"
    )
