"""What the model server is told to do: rules, limits and latency, decided without any I/O."""

from __future__ import annotations

import hashlib
import math
from collections import Counter
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

Action = Literal[
    "error",  # status and an OpenAI-style error body with `code`, or `body` (or `body_base64`) as it stands
    "hang",  # no answer until the client goes away
    "reset",  # the TCP connection is reset
    "malformed",  # HTTP 200 with half of a JSON body
    "bad_json",  # valid HTTP, but the message's content is not JSON
    "wrong_schema",  # JSON content whose every property has the wrong type
    "length",  # finish_reason "length", content cut in half
    "oversized",  # `mb` megabytes of content
    "empty_choices",
    "refusal",
    "wrong_content_type",  # HTTP 200, text/html
    "text",  # `text` as the content
    "answers_as",  # an ordinary answer, from the model that `text` names
    "obey",  # calls what a `[[call: {"name": …, "arguments": …}]]` names, in a user message that ends the conversation
    "tool_calls",  # `tool_calls`, while the conversation ends with a user message, or has fewer than `turns` of them
]

STATUS_OF_CODE = {
    "insufficient_quota": 429,
    "rate_limit_exceeded": 429,
    "context_length_exceeded": 400,
    "content_filter": 400,
    "invalid_api_key": 401,
    "permission_denied": 403,
    "model_not_found": 404,
    "overloaded": 529,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Rule:
    """One fault or fixed answer. `match` is a part of the last user message, or "*"; `sends` one of its parameters.

    `times` counts requests over the whole server, or of one content when `per` is "content". `rate` draws by content:
    one content is hit always or never; with `draw: "request"` each repetition of a content draws again.
    """

    match: str = "*"
    sends: str | None = None
    times: int | None = None
    per: Literal["server", "content"] = "server"
    rate: float | None = None
    draw: Literal["content", "request"] = "content"
    seed: int = 0
    action: Action = "error"
    status: int | None = None
    code: str | None = None
    headers: Mapping[str, str] = field(default_factory=dict)
    body: Any = None
    body_base64: str | None = None
    text: str = ""
    tool_calls: list[dict[str, Any]] = field(default_factory=list)
    turns: int = 1
    mb: int = 50
    latency_ms: float | None = None

    @property
    def error_status(self) -> int:
        return self.status or STATUS_OF_CODE.get(self.code or "", 500)


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """Enforced by token buckets that hold `burst_s` seconds of the rate; above them the answer is a 429."""

    requests_per_minute: float | None = None
    tokens_per_minute: float | None = None
    max_concurrency: int | None = None
    burst_s: float = 1.0


@dataclass(frozen=True, slots=True, kw_only=True)
class JobScript:
    """Batch jobs. A job waits `queue_s` and runs `run_s`. The first `cut_reply` creations lose their reply. Results are
    shuffled, the first `missing` of them left out, `unknown` strangers added; `error_rate` of the lines, drawn by
    custom id, get `error_status`. A job with `refuse_line` in a line is refused, as is one above a maximum or, together
    with those that are out, above `enqueued_tokens`. With `expire_share` a job expires when that share is answered.
    Every request about jobs with `refuse_key` is refused. A file is taken in for `file_s` after it was sent.
    With `fail` a job fails at its end, without a reason. With `keep_files` no file can be deleted."""

    queue_s: float = 0.0
    run_s: float = 0.0
    cut_reply: int = 0
    shuffle: bool = False
    missing: int = 0
    unknown: int = 0
    error_rate: float = 0.0
    error_status: int = 500
    refuse_line: str = ""
    max_requests: int = 10**9
    max_bytes: int = 10**12
    enqueued_tokens: int | None = None
    expire_share: float | None = None
    refuse_key: str = ""
    file_s: float = 0.0
    fail: bool = False
    keep_files: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Script:
    """`latency_ms` and up to `jitter_ms` more, drawn by content, before each answer that no limit refused. `caches`:
    marked prefixes of prompts are written to a cache, and read from it by calls that begin after an answer. `slots`: so
    many calls are worked on at once, the others wait for their turn and are refused nothing; with more than `crowd` in
    flight, each takes twice as long. With a `spread`, latency is log-normal with a mean of `latency_ms`, by content.
    """

    latency_ms: float = 0.0
    jitter_ms: float = 0.0
    rules: tuple[Rule, ...] = ()
    limits: Limits = Limits()
    jobs: JobScript = JobScript()
    caches: bool = False
    slots: int | None = None
    crowd: int | None = None
    spread: float = 0.0

    @classmethod
    def parse(cls, data: Mapping[str, Any]) -> Script:
        """Unknown keys raise TypeError."""
        rules = tuple(Rule(**rule) for rule in data.get("rules", ()))
        parts = {"limits": Limits(**data.get("limits", {})), "jobs": JobScript(**data.get("jobs", {}))}
        return cls(**{**data, "rules": rules, **parts})


class Rules:
    """Chooses the first rule that matches a request, and counts how often each was used."""

    def __init__(self, rules: tuple[Rule, ...]) -> None:
        self._rules = rules
        self._used: Counter[tuple[int, str]] = Counter()

    def choose(
        self, message: str, digest: str, repetition: int, ends_with_user: bool, turns: int = 0,
        sent: Collection[str] = (),
    ) -> Rule | None:  # fmt: skip
        for index, rule in enumerate(self._rules):
            if rule.match != "*" and rule.match not in message:
                continue
            if rule.sends is not None and rule.sends not in sent:
                continue
            if rule.action == "tool_calls" and not (ends_with_user or turns < rule.turns):
                continue
            key = (index, digest if rule.per == "content" else "")
            if rule.times is not None and self._used[key] >= rule.times:
                continue
            drawn = digest if rule.draw == "content" else f"{digest}:{repetition}"
            if rule.rate is not None and share(f"{rule.seed}:{drawn}") >= rule.rate:
                continue
            if rule.times is not None:
                self._used[key] += 1
            return rule
        return None


class Bucket:
    """A token bucket. An amount above its capacity passes when it is full, and leaves a debt."""

    def __init__(self, per_minute: float, burst_s: float, now: float) -> None:
        self._per_s = per_minute / 60
        self._capacity = max(1.0, self._per_s * burst_s)
        self._level = self._capacity
        self._at = now

    def wait_s(self, amount: float, now: float) -> float:
        """Seconds until `amount` fits; 0 when it does."""
        self._level = min(self._capacity, self._level + (now - self._at) * self._per_s)
        self._at = now
        missing = min(amount, self._capacity) - self._level
        return missing / self._per_s if missing > 1e-9 else 0.0

    def take(self, amount: float) -> None:
        self._level -= amount


class Gate:
    """Admits requests within `Limits`. Prompt tokens are taken at admission, completion tokens when answered."""

    def __init__(self, limits: Limits, now: float) -> None:
        self._max_concurrency = limits.max_concurrency or math.inf
        rates = (limits.requests_per_minute, limits.tokens_per_minute)
        self._requests, self._tokens = (None if r is None else Bucket(r, limits.burst_s, now) for r in rates)

    def refuse(self, in_flight: int, tokens: int, now: float) -> int | None:
        """Seconds for Retry-After (at least 1), or None when the request is admitted."""
        wait = 1.0 if in_flight > self._max_concurrency else 0.0
        if self._requests is not None:
            wait = max(wait, self._requests.wait_s(1, now))
        if self._tokens is not None:
            wait = max(wait, self._tokens.wait_s(tokens, now))
        if wait > 0:
            return math.ceil(wait)
        if self._requests is not None:
            self._requests.take(1)
        self.spend(tokens)
        return None

    def spend(self, tokens: int) -> None:
        if self._tokens is not None:
            self._tokens.take(tokens)


def share(text: str) -> float:
    """A number in [0, 1) that depends on nothing but `text`."""
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "big") / 2**64
