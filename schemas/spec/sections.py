"""The sections of the spec, by default the file `tandem.yaml`. Strict: unknown keys are refused, `"10"` is not a
number, and nothing is guessed. `schemas.spec.loading` reads the file and turns validation errors into sentences."""

import re
from datetime import timedelta
from typing import Any, Literal, Self
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from pydantic import Field, SerializerFunctionWrapHandler, field_validator, model_serializer, model_validator

from schemas.ids import PIPELINE_NAME
from schemas.spec.durations import Duration
from schemas.spec.fields import OutputField
from schemas.spec.model_names import model_name, with_one_name
from schemas.spec.portable import with_plain_parameters
from schemas.spec.section import Section
from schemas.spec.sizes import Size
from schemas.spec.tools import MODULE_ATTRIBUTE, SERVER_NAME, McpServer, names_in, reference_fault, reserved_fault
from schemas.spec.uses import complaint
from schemas.tier import Tier

STAGE_NAME = re.compile(r"[a-z][a-z0-9_-]{0,62}\Z")


class ColumnType(Section):
    """A declared type, instead of an inferred one. `format` is strptime's, for date and datetime from text."""

    type: Literal["str", "int", "float", "bool", "date", "datetime"]
    format: str | None = None

    @model_validator(mode="before")
    @classmethod
    def _shorthand(cls, value: Any) -> Any:
        return {"type": value} if isinstance(value, str) else value


class Source(Section):
    path: str = Field(min_length=1)
    format: Literal["parquet", "csv", "ndjson"] | None = None
    key: list[str] = []
    columns: dict[str, ColumnType] = {}
    nulls: list[str] = [""]
    delimiter: str | None = Field(default=None, min_length=1, max_length=1)
    encoding: str | None = None
    settle: Duration | None = Field(
        default=None,
        description="a file is taken once it has stood still for so long; local files that start a run: 10s by default",
    )
    done: str | None = Field(
        default=None, min_length=1, description="name of the marker beside a file that is written to its end, as *.ok"
    )

    @field_validator("done")
    @classmethod
    def _name_of_marker(cls, value: str | None) -> str | None:
        if value is not None and ("/" in value or value == "*" or value.count("*") > 1):
            raise ValueError('a name with at most one * for that of the file, for example "*.ok" or _SUCCESS')
        return value

    @field_validator("delimiter")
    @classmethod
    def _plain_delimiter(cls, value: str | None) -> str | None:
        if value is not None and (not value.isascii() or value in '"\r\n\0'):
            raise ValueError('one ASCII character other than a quote, for example ";" or "\\t"')
        return value

    @field_validator("key", mode="before")
    @classmethod
    def _one_key(cls, value: Any) -> Any:
        return [value] if isinstance(value, str) else value


class Partition(Section):
    by: Literal["time", "column", "hive", "files", "rows"] = "files"
    column: str | None = None
    every: Literal["hour", "day", "week", "month"] = "day"
    zone: str = "UTC"
    rows: int = Field(default=10_000, ge=1)
    files: int = Field(default=1, ge=1, description="files a partition, with by: files")
    nulls: Literal["error", "own"] = "error"
    gone: Literal["keep", "retire"] = "keep"

    @field_validator("zone")
    @classmethod
    def _known_zone(cls, value: str) -> str:
        return _zone(value)

    @model_validator(mode="after")
    def _column_where_needed(self) -> Self:
        if self.by in ("time", "column") and not self.column:
            raise ValueError(f"by: {self.by} needs column: the name of the column")
        if self.by not in ("time", "column") and self.column:
            raise ValueError(f"column belongs to by: time or by: column, not by: {self.by}")
        return self


def _zone(value: str) -> str:
    try:
        ZoneInfo(value)
    except (ZoneInfoNotFoundError, ValueError, OSError):
        raise ValueError("not an IANA time zone; write one like Europe/Paris or UTC") from None
    return value


class Endpoint(Section):
    """An address at which a model answers, and its own key, if it has one."""

    url: str = Field(pattern=r"^(https?://|\$\{)")
    api_key: str | None = None


Fallback = Literal["outage", "refusal", "truncated", "quota"]


class ModelChoice(Section):
    """`provider:name` and the parameters of its calls; the price `tier` of them; `endpoints` that share its calls; and,
    with `others`, the models that are asked in their order when it cannot answer. In a spec that is written
    `{try: [MODEL, …]}`."""

    name: str
    params: dict[str, Any] = {}
    tier: Tier = "standard"
    batch_deployment: str | None = Field(
        default=None, min_length=1, description="the deployment that serves tier: batch, where it is another one"
    )
    endpoints: list[Endpoint] = []
    others: list["ModelChoice"] = []
    fallback_after: Duration = Field(default=timedelta(seconds=30), gt=timedelta(0))
    fallback_on: list[Fallback] = ["outage", "refusal", "truncated", "quota"]

    @model_serializer(mode="wrap")
    def _short(self, dump: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Leave out what says nothing: digests of requests that earlier versions made stay as they were."""
        found: dict[str, Any] = dump(self)
        if self.tier == "standard":
            found.pop("tier", None)
        if self.batch_deployment is None:
            found.pop("batch_deployment", None)
        if not self.endpoints:
            found.pop("endpoints", None)
        if not self.others:
            for name in ("others", "fallback_after", "fallback_on"):
                found.pop(name, None)
        return found

    @model_validator(mode="before")
    @classmethod
    def _tried(cls, value: Any) -> Any:
        """`{try: [first, …others], fallback_…}` as the first with the others."""
        if isinstance(value, str):
            return {"name": value}
        if not isinstance(value, dict) or "try" not in value:
            return value
        models, rest = value["try"], {key: part for key, part in value.items() if key != "try"}
        if stray := sorted(set(rest) - {"fallback_after", "fallback_on"}):
            raise ValueError(f"{stray[0]!r} does not go with try: give it to one of the models in the list")
        if not isinstance(models, list) or not models:
            raise ValueError("try: a list of models, the first choice first")
        first, *others = ({"name": model} if isinstance(model, str) else model for model in models)
        if not isinstance(first, dict) or any(isinstance(model, dict) and "try" in model for model in (first, *others)):
            raise ValueError("try: each is provider:name, or {name, params, tier, endpoints}")
        return {**first, "others": others, **rest}

    @field_validator("name")
    @classmethod
    def _provider_and_name(cls, value: str) -> str:
        return model_name(value)


class Example(Section):
    """A row as a model is shown it, and the answer that it should give."""

    input: dict[str, Any] = Field(min_length=1)
    output: dict[str, Any] = Field(min_length=1)


class Stage(Section):
    name: str
    uses: str = Field(min_length=1)
    version: int = 1
    model: dict[str, ModelChoice] = {}
    params: dict[str, Any] = {}
    system: str | None = None
    prompt: str | None = None
    examples: list[Example] = Field(default=[], max_length=100)
    when_empty: Literal["null", "call", "reject"] = "null"
    on_reject: Literal["drop", "null"] = "drop"
    coerce: Literal["lenient", "strict"] = Field(
        default="lenient", description="strict: an answer that is nearly of the declared types is asked for again"
    )
    output: dict[str, OutputField] = {}
    output_class: str | None = Field(default=None, description="set by `output: module:Class`")
    replace: bool = False
    drop: list[str] = []
    query: str | None = None
    scope: Literal["batch", "partition"] = "batch"
    inputs: dict[str, str] = {}
    outputs: dict[str, str] = {}
    tools: list[str] = []
    citations: str | None = Field(default=None, min_length=1, description="a column for the sources of an answer")
    context: dict[str, Any] = {}
    options: dict[str, Any] = Field(default={}, description="the key `with`: options of a built-in graph")
    max_cell: int = Field(default=1_000_000, ge=1, description="characters of a text that a graph is given")
    over_max_cell: Literal["reject", "truncate"] = "reject"
    placement: Literal["batch", "node"] = "batch"
    pending: Literal["publish", "wait"] = "publish"
    row_timeout: Duration = Field(
        default=timedelta(minutes=10), gt=timedelta(0), description="of a row's own time: waiting does not count"
    )
    cache: Literal["on", "off"] = Field(default="on", description="off: no prompt is written to the provider's cache")
    share: bool = Field(default=True, description="equal rows share one answer")
    blocking: bool = Field(default=False, description="its async nodes block: run them in threads")

    @model_validator(mode="before")
    @classmethod
    def _shorthands(cls, value: Any) -> Any:
        if not isinstance(value, dict):
            return value
        stage = dict(value)
        if "when_empty" in stage and stage["when_empty"] is None:
            stage["when_empty"] = "null"  # the YAML word null is the value null
        if "on_reject" in stage and stage["on_reject"] is None:
            stage["on_reject"] = "null"
        if isinstance(stage.get("output"), str):
            stage["output_class"] = stage.pop("output")
        if "with" in stage:
            stage["options"] = {} if stage["with"] is None else stage["with"]
            del stage["with"]
        stage["model"] = _roles(stage.get("model"))
        return with_plain_parameters(stage)

    @field_validator("name")
    @classmethod
    def _plain_name(cls, value: str) -> str:
        if not STAGE_NAME.match(value):
            raise ValueError("a stage's name is lower-case letters, digits, _ and -, starting with a letter")
        return value

    @field_validator("tools")
    @classmethod
    def _tool_references(cls, value: list[str]) -> list[str]:
        for tool in value:
            if (fault := reference_fault(tool)) is not None:
                raise ValueError(fault)
        return value

    @model_validator(mode="after")
    def _whole(self) -> Self:
        values = {name: getattr(self, name) for name in Stage.model_fields}
        declared = {
            name: value for name, value in values.items() if value not in ("", Stage.model_fields[name].default)
        }
        if (wrong := complaint(self.uses, declared)) is not None:
            raise ValueError(wrong)
        for reference in (self.uses, self.output_class or ""):
            if (fault := reserved_fault(reference)) is not None:
                raise ValueError(fault)
        if self.output_class and not MODULE_ATTRIBUTE.match(self.output_class):
            raise ValueError(f"output: {self.output_class!r} is neither columns nor module:Class")
        return self


_OF_ONE_MODEL = {"name", "params", "tier", "batch_deployment", "endpoints"}


def _roles(model: Any) -> Any:
    """`x:y` | {name: x:y, params: …} | {role: either} as {role: {name, params}}."""
    if model is None:
        return {}
    if isinstance(model, str):
        return {"main": {"name": model}}
    if isinstance(model, dict):
        if isinstance(model.get("name"), str) and set(model) <= _OF_ONE_MODEL:
            return {"main": model}
        if isinstance(model.get("try"), list):
            return {"main": model}
        return {role: {"name": chosen} if isinstance(chosen, str) else chosen for role, chosen in model.items()}
    return model


def superseded_stay(table_format: str) -> timedelta:
    """Return the default of `keep_superseded`. For readers by glob replaced files must disappear at once; readers of an
    earlier version of a table still need them."""
    return timedelta(0) if table_format == "parquet" else timedelta(minutes=15)


class Sink(Section):
    path: str = Field(min_length=1)
    format: Literal["parquet", "delta", "iceberg"] = "parquet"
    table: str | None = Field(default=None, pattern=r"^[A-Za-z0-9_]+(\.[A-Za-z0-9_]+)+$")  # iceberg: namespace.name
    keep_superseded: Duration = Field(
        default_factory=lambda sink: superseded_stay(sink.get("format", "parquet")),
        description="how long replaced files stay in data/; 0s for parquet, 15m for delta and iceberg by default",
    )
    keep_generations: int = Field(default=1, ge=0, le=1000, description="earlier generations kept in _tandem/history/")
    provenance: Literal["none", "columns"] = "none"

    @field_validator("provenance", mode="before")
    @classmethod
    def _none_word(cls, value: Any) -> Any:
        return "none" if value is None else value


class Limits(Section):
    rows_in_flight: int = Field(default=64, ge=1, le=10_000)
    partitions_in_flight: int = Field(default=8, ge=1, le=500)
    batch_rows: int | None = Field(default=None, ge=1, le=1_000_000)
    requests_per_minute: int | None = Field(default=None, ge=1)
    tokens_per_minute: int | None = Field(default=None, ge=1)
    max_reject_rate: float = Field(
        default=0.5, ge=0, le=1, description="half: more rejects than that say that the stage is broken, not the rows"
    )
    max_cost_usd: float | None = Field(default=None, gt=0)
    max_cost_usd_per_day: float | None = Field(default=None, gt=0)
    max_tokens: int | None = Field(default=None, ge=1)
    call_timeout: Duration = timedelta(seconds=60)
    max_memory: Size | None = Field(default=None, description="of a worker process, before it is replaced")
    gather: Duration = Field(
        default=timedelta(minutes=10), description="tier: batch: how long calls wait for others to fill a job"
    )
    deadline: Duration = Field(
        default=timedelta(hours=24), gt=timedelta(0), description="tier: batch: of a job, from its submission"
    )
    after_deadline: Literal["next-job", "standard", "reject"] = Field(
        default="next-job", description="tier: batch: what becomes of calls that no job has answered by then"
    )
    max_waves: int = Field(
        default=12, ge=1, le=100, description="tier: batch: jobs that a row may wait for, one after the other"
    )
    flex_patience: Duration = Field(
        default=timedelta(minutes=15), description="tier: flex: how long to wait while it has no room for a call"
    )


class Price(Section):
    """USD per million tokens; of web searches, per thousand. Cached input, and what is written to the cache, are part
    of the input, and reasoning of the output: without their own price they cost the same as the rest. `image`: USD an
    image of a request, where a provider bills images by number; where it bills them as tokens, they are in the
    input."""

    input: float = Field(ge=0)
    output: float = Field(ge=0)
    cached_input: float | None = Field(default=None, ge=0)
    reasoning: float | None = Field(default=None, ge=0)
    cache_write: float | None = Field(default=None, ge=0)
    cache_write_1h: float | None = Field(default=None, ge=0)
    web_search: float | None = Field(default=None, ge=0)
    image: float | None = Field(default=None, ge=0)


class Journal(Section):
    flush: Duration = timedelta(seconds=1)
    strict: bool = False
    keep: Duration = timedelta(days=90)
    read_from: list[str] = Field(default_factory=list)
    requests: Literal["keep", "digest"] = "keep"


class Check(Section):
    """A condition that is true for every good row, which may use the columns of the output and the keys; or `unique`:
    no key of the source is in two partitions."""

    name: str = Field(min_length=1)
    sql: str | None = Field(default=None, min_length=1)
    unique: Literal["dataset"] | None = None
    severity: Literal["block", "warn"] = "block"

    @model_validator(mode="after")
    def _one_rule(self) -> Self:
        if (self.sql is None) == (self.unique is None):
            raise ValueError("either sql: a condition, or unique: dataset")
        return self


class Schedule(Section):
    cron: str
    zone: str = "UTC"
    overlap: Literal["skip", "buffer_one", "buffer_all", "cancel_other", "terminate_other", "allow_all"] = "skip"
    catchup: Duration = timedelta(hours=6)
    jitter: Duration = timedelta(0)
    lookback: Duration = timedelta(days=7)

    @field_validator("zone")
    @classmethod
    def _known_zone(cls, value: str) -> str:
        return _zone(value)


class Notify(Section):
    on: list[Literal["failed", "recovered", "budget", "review"]]
    webhook: str | None = None
    command: list[str] | None = None

    @model_validator(mode="after")
    def _somebody(self) -> Self:
        if not self.on:
            raise ValueError("on: [failed, recovered, budget, review], or some of them")
        if (self.webhook is None) == (not self.command):
            raise ValueError("either webhook: a URL, or command: [program, argument, …]")
        return self


class Spec(Section):
    """A pipeline. `name`, `source`, `stages` and `sink` suffice."""

    name: str
    source: Source
    partition: Partition = Partition()
    stages: list[Stage] = Field(min_length=1)
    sink: Sink
    limits: Limits = Limits()
    prices: dict[str, Price] = {}
    mcp: dict[str, McpServer] = {}
    journal: Journal = Journal()
    checks: list[Check] = []
    schedule: Schedule | None = None
    notify: list[Notify] = []
    trace: float = Field(default=0.01, ge=0, le=1)
    trace_content: bool = False

    @field_validator("prices")
    @classmethod
    def _by_one_name(cls, value: dict[str, Price]) -> dict[str, Price]:
        return {with_one_name(name): price for name, price in value.items()}

    @field_validator("name")
    @classmethod
    def _plain_name(cls, value: str) -> str:
        if not PIPELINE_NAME.match(value):
            raise ValueError("a pipeline's name is lower-case letters, digits, _ and -, at most 63")
        return value

    @model_validator(mode="after")
    def _stages_apart(self) -> Self:
        names = [stage.name for stage in self.stages]
        twice = {name for name in names if names.count(name) > 1}
        if twice:
            raise ValueError(f"stages: two stages are called {sorted(twice)[0]!r}")
        return self

    @field_validator("mcp")
    @classmethod
    def _server_names(cls, value: dict[str, McpServer]) -> dict[str, McpServer]:
        for name in value:
            if not SERVER_NAME.match(name):
                raise ValueError(f"{name!r}: a server's name is letters, digits, _ and -, starting with a letter")
        return value

    @model_validator(mode="after")
    def _servers_declared(self) -> Self:
        for stage in self.stages:
            for name in names_in(stage.tools, "mcp"):
                if name not in self.mcp:
                    declared = f"it declares {', '.join(self.mcp)}" if self.mcp else "it declares none"
                    raise ValueError(
                        f"stage {stage.name}: tools: mcp:{name} is no server of the spec ({declared}): add mcp: "
                        f"{{{name}: {{command: […]}}}}, or {{url: …}}; a module of yours may not be called mcp"
                    )
        return self

    @model_validator(mode="after")
    def _rows_told_apart(self) -> Self:
        for stage in self.stages:
            if not stage.share and not self.source.key:
                raise ValueError(f"stage {stage.name}: share: false needs source.key, which tells equal rows apart")
        return self
