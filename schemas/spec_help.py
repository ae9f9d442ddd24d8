"""The help of each key of a spec, in a sentence or two: used by editors' hovers and the reference page.

By model and field; the field `options` is the key `with` of a spec. `schemas.json_schema` reads it, and a test checks
that every key has a sentence.
"""

SECTIONS: dict[str, str] = {
    "Spec": "A Tandem pipeline. `name`, `source`, `stages` and `sink` are enough.",
    "Source": "The source of the rows.",
    "ColumnType": "The type of a source column, or only its name: `opened: date`.",
    "Partition": "The division of rows into partitions. Each partition is processed and published on its own.",
    "Stage": "One step over every row: a built-in graph, a graph of yours, or an operation on the table.",
    "Example": "A row as the model is shown it, and the answer that it should give.",
    "ModelChoice": "A model and the parameters of its calls.",
    "Fallbacks": "Models that are asked in their order.",
    "Endpoint": "An address of a model, and its key.",
    "OutputField": "The declared type of one output column, or its short form: `str`, `int?`, `list[str]`.",
    "Sink": "The place where the dataset is published.",
    "Limits": "Limits of concurrency, rate, cost and rejects.",
    "Price": "The price of one model, in USD per million tokens; of web searches, per thousand.",
    "McpServer": "A server of the Model Context Protocol, whose tools a model may call: a `command` or a `url`.",
    "Journal": "The storage of answers that were paid for.",
    "Check": "A condition that every row must meet, tested before a partition is published: `sql`, or `unique`.",
    "Schedule": "The defaults of `tandem schedule apply`.",
    "Notify": "Webhooks and commands for events of a run.",
}

_SPEC = {
    "name": "The name of the pipeline: lower-case letters, digits, `-` and `_`, at most 63. A sink belongs to one "
    "name.",
    "source": SECTIONS["Source"],
    "partition": SECTIONS["Partition"] + " Default: one partition a file.",
    "stages": "The steps that each row passes, in order.",
    "sink": SECTIONS["Sink"],
    "limits": SECTIONS["Limits"],
    "prices": "USD per million tokens, by `provider:name`. Default: the prices of the package genai-prices.",
    "mcp": "MCP servers by name, whose tools a stage takes as `mcp:NAME`.",
    "journal": SECTIONS["Journal"],
    "checks": "Conditions that rows must meet, tested before a partition is published.",
    "schedule": SECTIONS["Schedule"],
    "notify": "Webhooks and commands that are called when a run fails, recovers, pauses at its budget or needs a "
    "person.",
    "trace": "The share of rows whose way is traced, where `OTEL_…` variables ask for traces. Rejected rows, and those "
    "slower than 99 % of their stage so far, are traced all the same.",
    "trace_content": "Whether traces hold texts: values of rows, prompts, answers, arguments and results of tools.",
}
_SOURCE = {
    "path": "A file, a folder or a glob; local (relative to the spec's folder) or `s3://bucket/…`.",
    "format": "The format of the files. Default: from the file extension.",
    "key": "The columns that identify a row. Default: the row's content, and its occurrence among equal rows.",
    "columns": "Declared types of columns, instead of inferred ones.",
    "nulls": "CSV: the texts that are read as null.",
    "delimiter": "CSV: the character between two values. Default: `,`, `;`, tab or `|`, whichever fits the first rows.",
    "encoding": "CSV: the encoding of the files, for example `cp1252`. Default: UTF-8, or UTF-16 with a byte order "
    "mark.",
    "settle": "A file is taken once its size and time stood still for so long; until then it is left to a later run. "
    "Default: `10s` for local files where `--when new-files` starts the run, else `0s`.",
    "done": "A file is taken once a marker lies in its folder that is no older than it: the `*` stands for the file's "
    "name with or without its ending, so `*.ok` is `a.ok` or `a.csv.ok` for `a.csv`. Without a `*`, as `_SUCCESS`, one "
    "marker stands for all files of its folder.",
}
_PARTITION = {
    "by": "What divides the rows: a `time` column, the values of a `column`, the source's `hive` folders, `files` "
    "or `rows`.",
    "column": "The column, with `by: time` and `by: column`.",
    "every": "The length of a partition, with `by: time`.",
    "zone": "IANA time zone of times that have none, and in which days, weeks and months begin.",
    "rows": "The number of rows in a partition, with `by: rows`.",
    "files": "The number of files in a partition, with `by: files`.",
    "nulls": "Rows whose partition column is null: an `error`, or a partition of their `own`.",
    "gone": "What becomes of published partitions that the source has no more: `keep` them, or `retire` them at the "
    "end of a run.",
}
_STAGE = {
    "name": "The name of the stage: lower-case letters, digits, `-` and `_`, starting with a letter.",
    "uses": "A built-in stage, or a LangGraph graph, builder or factory of yours as `module:attribute`.",
    "version": "Increase it to get new answers although nothing else has changed.",
    "model": "The model as `provider:name`, as `{name, params}`, or one for each role: `{main: …, cheap: …}`.",
    "params": "Parameters of every model call of the stage, such as `temperature` or `max_tokens`.",
    "reasoning": "How much a model may think, as `{effort: low}`: the same for every provider. Default: its own.",
    "verbosity": "How long-winded answers are: `low`, `medium` or `high`, where a model knows that.",
    "system": "The system prompt, or `{file: path}` relative to the spec. A Jinja2 template as `prompt` is.",
    "prompt": "The prompt, a Jinja2 template over the row's columns, or `{file: path}` relative to the spec. Null "
    "renders "
    "as an empty text; an unknown column is an error at check.",
    "examples": "Rows with the answers that they should have: `[{input: {column: value}, output: {column: value}}]`, "
    "or `{file: path}` of a JSON or YAML list, or of NDJSON. The model is shown them before each row.",
    "when_empty": "All columns of the prompt are blank: `null` writes null without a call, `call` asks the model "
    "all the "
    "same, `reject` rejects the row.",
    "on_reject": "A rejected row: `drop` leaves it out, `null` publishes it with null outputs. It is in the rejects "
    "either "
    "way.",
    "output": "The columns that the stage writes, each with its type; or a pydantic class as `module:Class`.",
    "replace": "Whether an output column may replace an input column of the same name.",
    "drop": "Columns that are removed after this stage.",
    "query": "With `uses: sql`: the query, over the table `rows`. Rows that it leaves out are counted as filtered.",
    "scope": "`batch`: row by row. `partition`: over the whole partition at once, at publishing.",
    "inputs": "With a graph of yours: `state key: column`.",
    "outputs": "With a graph of yours: `column: state key`.",
    "tools": "The tools that a model may call, and no other: a function of yours as `module:attribute`, one that the "
    "model's provider runs as `provider:web_search`, those of an MCP server as `mcp:NAME`.",
    "citations": "A column for the sources of an answer, with `provider:web_search`: a list of `{url, title, text}`.",
    "context": "With a graph of yours: LangGraph's runtime context. `model`, `models` and `tools` are added to it.",
    "with": "Options of a built-in stage.",
    "max_cell": "The most characters of one text that a graph is given.",
    "over_max_cell": "A longer text: `reject` the row, or `truncate` the text.",
    "placement": "`batch`: rows run together in one activity. `node`: each row is a workflow, and each step of its "
    "graph "
    "an activity; for few, long rows.",
    "pending": "Rows that wait for a person: `publish` the partition without them, or `wait` for the answers.",
    "coerce": "`lenient` accepts an answer that is nearly of the declared types if its meaning is clear (an enum "
    'in another case or with blanks, `"2"` or `2.0` for an int, a number for a text, unknown keys) and records the '
    "correction in the journal. `strict` calls the model again.",
    "row_timeout": "The longest time of a row in its own code and its calls; after that it is rejected. Time in "
    "which it waits for a limit, an outage, a budget or a person does not count.",
    "cache": "`on` has the provider cache what all prompts begin with, where it can and where that pays. `off` asks "
    "it to cache nothing.",
    "share": "Whether equal rows share one answer. With `false`, each row has its own; needs `source.key`.",
    "blocking": "With a graph of yours: its async nodes block the event loop, so they are run in threads. A stage "
    "that blocks is detected and treated the same.",
}
_OUTPUT_FIELD = {
    "type": "The type; a `?` at its end makes it optional.",
    "optional": "Whether the value may be null.",
    "description": "The description of the value for the model.",
    "values": "With `type: enum`: the values that are allowed.",
    "items": "With `type: list`: the type of the items.",
    "fields": "The fields of a nested object.",
    "ge": "Numbers: at least this.",
    "le": "Numbers: at most this.",
    "gt": "Numbers: above this.",
    "lt": "Numbers: below this.",
    "min_length": "Texts and lists: the shortest length.",
    "max_length": "Texts and lists: the longest length.",
    "pattern": "Texts: a regular expression (Python's) that is found in the value.",
}
_SINK = {
    "path": "A folder (relative to the spec's folder) or `s3://bucket/prefix`. One sink holds one pipeline.",
    "format": "`parquet` only, or also a `delta` or `iceberg` table over the same files.",
    "table": "With `format: iceberg`: the table as `namespace.name`. Default: `tandem.<pipeline>`.",
    "keep_superseded": "How long replaced files stay in `data/` for readers that still use them; default `0s` with "
    "`format: parquet`, `15m` with delta and iceberg.",
    "keep_generations": "How many earlier generations of a partition are kept in `_tandem/history/`; 0 deletes them.",
    "provenance": "`columns` adds the columns `tandem_model`, `tandem_prompt_digest`, `tandem_enriched_at`, "
    "`tandem_cost_usd` and `tandem_generation` to each row.",
}
_LIMITS = {
    "rows_in_flight": "Model calls at once, for each model, over all processes of a command.",
    "partitions_in_flight": "Partitions at once.",
    "batch_rows": "Rows in one batch. Default: chosen when the run is planned.",
    "requests_per_minute": "Requests per minute to each model, over all workers together.",
    "tokens_per_minute": "Tokens per minute of each model, over all workers together.",
    "max_reject_rate": "The share of a partition's rows that may be rejected; above it, the partition is not "
    "published.",
    "max_cost_usd": "The budget of a run. The run pauses before it exceeds the budget.",
    "max_cost_usd_per_day": "The budget of the pipeline for a UTC day.",
    "max_tokens": "The most tokens of a run, in and out.",
    "call_timeout": "The longest time of one model call.",
    "max_memory": "What one worker process may hold; past it, the process takes no new rows and is replaced. "
    "Default: its share of what the container allows.",
    "gather": "`tier: batch`: how long calls wait for others before a job is submitted that is not full. A job is "
    "submitted at once when it is full, and when nothing else of the run is at work.",
    "deadline": "`tier: batch`: the longest time of one job, from its submission. Then it is cancelled, and what it "
    "has answered is taken.",
    "after_deadline": "`tier: batch`: what becomes of calls that a job has not answered by its deadline: they go into "
    "the `next-job`, are asked at the `standard` price, or their rows are rejected (`reject`). With `standard`, models "
    "that have no batch jobs, or no flex, are asked at the standard price from the start.",
    "max_waves": "`tier: batch`: the jobs that a row may wait for, one after the other. What it asks after that is "
    "asked at the standard price.",
    "flex_patience": "`tier: flex`: how long a call is tried again while the provider has no room for it. Then it is "
    "asked at the standard price.",
}
_PRICE = {
    "input": "Input tokens.",
    "output": "Output tokens.",
    "cached_input": "Input tokens that the provider had in its cache. Default: as `input`.",
    "reasoning": "Reasoning tokens. Default: as `output`.",
    "cache_write": "Input tokens that the provider wrote to its cache. Default: as `input`.",
    "cache_write_1h": "Those that it keeps for an hour. Default: as `cache_write`.",
    "web_search": "USD for a thousand web searches of the provider. Default: the price of the package genai-prices.",
    "image": "USD an image of a request (not a million), where the provider bills images by number. Default: none, as "
    "images that are billed as tokens are in `input`.",
}
_MCP = {
    "command": "The program that is started, and its arguments: a list, or a text that is split as a shell does. It "
    "is started beside each worker process at its first call, in the spec's folder, and ends with the process.",
    "env": "Environment variables of the command. It gets no others but `HOME`, `LOGNAME`, `PATH`, `SHELL`, `TERM` and "
    "`USER`. Write secrets as `${NAME}`.",
    "url": "The address of a server that speaks streamable HTTP.",
    "headers": "Headers of each request to the `url`. Write secrets as `${NAME}`.",
    "tools": "Those of the server's tools that a model may call. Default: all of them.",
    "start_timeout": "How long the server may take until it has listed its tools.",
}
_JOURNAL = {
    "requests": "`keep` the requests of model calls, too, so that people can see the prompt behind a cell; or their "
    "`digest` only.",
    "flush": "An answer is stored in the sink at the latest this long after it came.",
    "strict": "Whether each answer is stored before the next step.",
    "keep": "The time for which answers are kept after the last generation that uses them.",
    "read_from": "Other sinks whose answers are taken, too, and copied into this one where they are used. They are "
    "only read.",
}
_CHECK = {
    "name": "The name of the check.",
    "sql": "An SQL condition, true for a good row.",
    "unique": "`dataset`, instead of `sql`: no key (`source.key`) is in two partitions.",
    "severity": "`block`: the partition is not published. `warn`: it is, and the manifest names the check.",
}
_SCHEDULE = {
    "cron": "The times, as a cron expression.",
    "zone": "IANA time zone of the cron expression.",
    "overlap": "What to do while the previous run is open. The names are Temporal's.",
    "catchup": "Missed times younger than this are made up for.",
    "jitter": "A run starts up to this much later, at random.",
    "lookback": "How far back to run partitions that were never published or failed last.",
}
_NOTIFY = {
    "on": "The events.",
    "webhook": "A URL that is called with JSON, which has the `text` that Slack shows. Write secrets as `${NAME}`.",
    "command": "A program and its arguments; the same JSON is on its standard input.",
}
KEYS: dict[str, dict[str, str]] = {
    "Spec": _SPEC,
    "Source": _SOURCE,
    "ColumnType": {
        "type": "The type.",
        "format": "How `date` and `datetime` are written, in the notation of strptime: `%d/%m/%Y`.",
    },
    "Partition": _PARTITION,
    "Stage": _STAGE,
    "ModelChoice": {
        "name": "`provider:name`, for example `openai:gpt-5-mini`.",
        "params": "Parameters of this model's calls, such as `temperature` or `max_tokens`. Bedrock's batch jobs need "
        "`batch_role`, the ARN of the role that they run as, and `batch_output`, where their files lie: "
        "`s3://bucket/prefix`.",
        "tier": "The price tier: `standard`; `flex`, slower and cheaper; `batch`, by provider batch jobs at half the "
        "price, within a day. It changes no answer: what one tier has answered is known to the others.",
        "batch_deployment": "Azure: the deployment of this model that takes batch jobs, where it is not the one that "
        "`name` says.",
        "endpoints": "Addresses that serve this model. A call goes to the one with the fewest in flight, and past one "
        "that fails until it answers again.",
    },
    "Example": {
        "input": "`column: value`, for each column that the prompt reads.",
        "output": "`column: value`, for each output.",
    },
    "Fallbacks": {
        "try": "The first model that can answer does; journals are searched for an answer of any of them before one is "
        "asked.",
        "fallback_after": "How long a model is out before the next one is asked.",
        "fallback_on": "When the next model is asked: the model is out, its content filter refuses, its answer was cut "
        "off at the cap, its quota is used up. Default: all four.",
    },
    "Endpoint": {
        "url": "The base URL.",
        "api_key": "The key of this address, as `${NAME}` from the worker's environment. Default: the provider's.",
    },
    "OutputField": _OUTPUT_FIELD,
    "Sink": _SINK,
    "Limits": _LIMITS,
    "Price": _PRICE,
    "McpServer": _MCP,
    "Journal": _JOURNAL,
    "Check": _CHECK,
    "Schedule": _SCHEDULE,
    "Notify": _NOTIFY,
}
