"""Logs as records: with `--log-format json` each line on stderr is one JSON object.

    time, level, message   always
    logger                 of a record that code wrote through Python's logging
    process                "command", "worker 1", …
    stream                 "stdout" or "stderr": somebody printed the line, user code or a C library
    run, partition, batch, attempt, error, …   where they are known

A record names no row, and an exception by its class and place: its message may hold a row's text.
"""

import contextlib
import datetime as dt
import logging
import os
import secrets
import sys
import threading
import traceback
from collections.abc import Callable, Mapping
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any

import orjson

context: ContextVar[Mapping[str, Any]] = ContextVar("tandem_log_context", default={})  # noqa: B039  never changed
_LONGEST_MESSAGE, _MOST_FRAMES = 2_000, 20  # a line has to stay below what a pipe's reader takes as one
_PIECE = 65_536
_END_S = 2.0
# Libraries that log each request at INFO, some with its address.
_TALKATIVE = ("httpx", "httpcore", "openai", "anthropic", "google_genai", "botocore", "urllib3", "aiohttp", "langsmith")


def record(level: str, message: str, **fields: Any) -> bytes:
    """Return one line, without its end."""
    time = dt.datetime.now(dt.UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
    known = {name: value for name, value in fields.items() if value not in (None, "")}
    return orjson.dumps({"time": time, "level": level, "message": message[:_LONGEST_MESSAGE], **known}, default=str)


def quiet_libraries() -> None:
    """Let libraries that log every request log warnings only: no line per row at INFO."""
    for name in _TALKATIVE:
        logging.getLogger(name).setLevel(logging.WARNING)


class RecordHandler(logging.Handler):
    """Writes records of Python's logging. `write` gets a line; `fields`, as they are then, are in each."""

    def __init__(self, write: Callable[[bytes], None], fields: Mapping[str, Any]) -> None:
        super().__init__()
        self._write = write
        self._fields = fields

    def emit(self, entry: logging.LogRecord) -> None:
        try:
            message = entry.getMessage()
            if entry.name == "asyncio":  # the lines after the first hold the exception's message
                message = message.partition("\n")[0]
            known = {"logger": entry.name, **self._fields, **context.get(), "error": error_of(entry.exc_info)}
            self._write(record(entry.levelname.lower(), message, **known))
        except Exception:  # noqa: BLE001  as Python's own handlers: a log entry must not break the work
            self.handleError(entry)


class SafeFormatter(logging.Formatter):
    """The form for a person; of an exception its class and place, as in records."""

    def formatException(self, ei: Any) -> str:  # noqa: N802  the name is logging's
        found = error_of(ei)
        return "" if found is None else "\n".join((*(f"  {place}" for place in found["traceback"]), found["type"]))


def error_of(info: Any) -> dict[str, Any] | None:
    """Return an exception's class and its places in code, the innermost last; without its message."""
    if not info or info[1] is None:
        return None
    error: BaseException = info[1]
    frames = traceback.extract_tb(error.__traceback__)[-_MOST_FRAMES:]
    places = [f"{os.path.basename(frame.filename)}:{frame.lineno} in {frame.name}" for frame in frames]
    cause = error.__cause__ or error.__context__
    found = {"type": type(error).__name__, "traceback": places}
    return {**found, "cause": type(cause).__name__} if cause is not None else found


# The command's own stderr -----------------------------------------------------------------------------------------


@dataclass
class RecordStream:
    """This process's stderr as records. What is printed to it, by anybody, becomes records too."""

    mark: str = field(default_factory=lambda: f"\x1e{secrets.token_hex(8)} ")  # before records of child processes
    _printed: int = -1
    _original: int = -1
    _thread: threading.Thread | None = None
    fields: dict[str, Any] = field(default_factory=lambda: {"process": "command"})  # of all records
    _rest: bytes = b""
    _lock: threading.Lock = field(default_factory=threading.Lock)
    _ended: threading.Event = field(default_factory=threading.Event)

    def take_over(self) -> None:
        """Turn stderr into a pipe; nothing is read from it before `read`, as processes may be forked until then."""
        self._original = os.dup(2)
        os.set_inheritable(self._original, False)
        self._printed, write = os.pipe()
        os.dup2(write, 2)
        os.close(write)
        sys.stderr.reconfigure(line_buffering=True)  # type: ignore[union-attr]

    def read(self) -> None:
        """Read what is printed, from now on."""
        self._thread = threading.Thread(target=self._read, name="tandem-stderr", daemon=True)
        self._thread.start()

    def about(self, **fields: Any) -> None:
        """Add fields to all records of this process from now on."""
        self.fields.update(fields)

    def emit(self, level: str, message: str, **fields: Any) -> None:
        self.write(record(level, message, **{**self.fields, **fields}))

    def write(self, line: bytes) -> None:
        with self._lock, contextlib.suppress(OSError):  # the reader left: the work goes on
            _write_all(self._original, line + b"\n")

    def child_line(self, process: str, stream: str, line: str) -> None:
        """Write a line of a child: a record of its logging, or something printed."""
        printed, mark, text = line.partition(self.mark)
        if printed or not mark:
            self.emit("info", printed, process=process, stream=stream)
        if mark:
            try:
                found = orjson.loads(text)
            except orjson.JSONDecodeError:  # two processes wrote at once
                self.emit("info", text, process=process, stream=stream)
                return
            self.write(orjson.dumps({**found, **self.fields, "process": process, **found}))

    def end(self) -> None:
        """Write what has been printed so far, and give stderr back."""
        with contextlib.suppress(OSError, ValueError):
            sys.stderr.flush()
        if self._thread is None:
            self.read()
        with contextlib.suppress(OSError):
            os.write(2, f"\n{self.mark}\n".encode())  # others may hold the pipe open, so that it has no end
            self._ended.wait(_END_S)
        os.dup2(self._original, 2)

    def _read(self) -> None:
        with contextlib.suppress(OSError):
            while piece := os.read(self._printed, _PIECE):
                self._printed_piece(piece)

    def _printed_piece(self, piece: bytes) -> None:
        *lines, self._rest = (self._rest + piece).split(b"\n")
        for line in lines:
            text = line.decode("utf-8", "replace").rstrip("\r")
            if text == self.mark:
                self._ended.set()
            elif text:
                self.emit("info", text, stream="stderr")


def _write_all(descriptor: int, data: bytes) -> None:
    while data:
        data = data[os.write(descriptor, data) :]


records: RecordStream | None = None  # of this command; None: its logs have the form for a person


def begin() -> None:
    """Let this command write records, before it prints anything."""
    global records  # noqa: PLW0603  one a process
    records = RecordStream()
    records.take_over()


def configure(level: int) -> None:
    """Configure Python's logging of this command, in the chosen form."""
    quiet_libraries()
    if records is None:
        handler: logging.Handler = logging.StreamHandler()
        handler.setFormatter(SafeFormatter("%(asctime)s %(name)s %(message)s"))
    else:
        records.read()
        handler = RecordHandler(records.write, records.fields)
        logging.captureWarnings(True)
    logging.basicConfig(level=level, handlers=[handler])


def configure_child(level: int, mark: str | None) -> None:
    """Configure Python's logging of a worker process, whose supervisor reads its stderr. `mark`: before records; None:
    the form for a person."""
    quiet_libraries()
    if mark is None:
        handler: logging.Handler = logging.StreamHandler()
        handler.setFormatter(SafeFormatter("%(asctime)s %(name)s %(message)s"))
    else:
        start = mark.encode()
        handler = RecordHandler(lambda line: _write_all(2, start + line + b"\n"), {})
        logging.captureWarnings(True)
    logging.basicConfig(level=level, handlers=[handler], force=True)
