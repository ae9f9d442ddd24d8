"""Every workflow id and object key: built only here, and only from the inputs.

    <sink>/data/<partition>/part-<n>-g<generation>-<digest>.parquet
    <sink>/data/<partition>/_SUCCESS
    <sink>/rejects/<partition>/part-<n>-g<generation>-<digest>.parquet
    <sink>/_tandem/dataset.json                        the owner of the sink, types pinned at the first publish
    <sink>/_tandem/schema.json                         the dataset's declared schema
    <sink>/_tandem/commits/<partition>/<generation>.json
    <sink>/_tandem/history/<partition>/…               data files and rejects of earlier generations, by their own names
    <sink>/_tandem/unsettled/<partition>/<generation>.json     a publication that has not cleaned up data/ yet
    <sink>/_tandem/catalogue/<kind>-<time>-<digest>.parquet    derived indexes: commits, attempts
    <sink>/_tandem/journal/<partition>/…               segments and compacted records
    <sink>/_tandem/answers/l<level>-<digest>.parquet   derived index: keys of answers, and where they are
    <sink>/_tandem/answering/<run>/<command>/<partition>.json    a journal that may have records that no index has
    <sink>/_tandem/moved/<partition>.json              a file that was renamed, until its former partition is retired
    <sink>/_tandem/pending/<partition>/part-….parquet  rows parked for a person, and their questions
    <sink>/_tandem/waiting/<partition>.parquet         the same, of a partition that waits before it is published
    <sink>/_tandem/snapshots/<digest>/…                an input, split by partition
    <sink>/_tandem/staging/<partition>/<temporal run>/…
    <sink>/_tandem/schedule/spec-<digest>.json         the spec that a schedule was applied with
    <sink>/_tandem/runs/<name>/…                       request, plan, budget, outcomes, report; announced answers; jobs
    <sink>/_tandem/jobs/<partition>.json               the run that waits for provider jobs with the partition
    <sink>/_tandem/budget/<day>/<version>.json         the spending of the pipeline on a UTC day
    <sink>/_tandem/plans/<digest>.json                 saved plans that a run must match
    <sink>/_tandem/forgetting.json                     rows that are being removed everywhere, as salted digests
    <sink>/_tandem/forgotten/<time>-<nonce>.json       receipts of rows that were removed everywhere

A partition key is `<name>=<value>`, or several joined by `/` (hive). It is already encoded safely: the same string
is the folder, the last part of the workflow id, and the value of `--partition`.
"""

import datetime as dt
import re
from datetime import datetime

from schemas.digests import digest

TANDEM = "_tandem"
RUN_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,99}\Z")
PIPELINE_NAME = re.compile(r"[a-z0-9][a-z0-9_-]{0,62}\Z")


# Workflow ids ------------------------------------------------------------------------------------------------------


def sink_digest(sink: str) -> str:
    """Return eight characters that identify a sink in workflow ids."""
    return digest(sink.rstrip("/"))[:8]


def run_workflow_id(pipeline: str, sink: str, run: str) -> str:
    return f"tandem/{pipeline}/{sink_digest(sink)}/run/{run}"


def partition_workflow_id(pipeline: str, sink: str, partition: str) -> str:
    """Return the one id of a partition of a sink, so that two runs can never work on it at once."""
    return f"tandem/{pipeline}/{sink_digest(sink)}/partition/{partition}"


def fairness_key(pipeline: str, sink: str, run: str) -> str:
    """Return the fairness key of a run's tasks on a shared queue. Temporal allows 64 bytes at most."""
    return digest(run_workflow_id(pipeline, sink, run))


def run_of_workflow(workflow_id: str) -> str:
    """Return the name of the run of a workflow; empty for another workflow."""
    kind, found, run = workflow_id.partition("/run/")
    return run if found and kind.startswith("tandem/") else ""


def schedule_id(pipeline: str, sink: str) -> str:
    """Return the id of the one schedule of a pipeline and sink."""
    return f"tandem/{pipeline}/{sink_digest(sink)}/schedule"


def scheduled_workflow_id(pipeline: str, sink: str) -> str:
    """Return the id of the workflow that a schedule starts; Temporal appends the scheduled time."""
    return f"tandem/{pipeline}/{sink_digest(sink)}/scheduled"


def scheduled_run(time: datetime, kind: str) -> str:
    """Return the name of the run of one firing: from its scheduled time, so that a repeated firing is one run."""
    return f"{kind}-{time:%Y%m%dT%H%M%SZ}"


LIMITS_QUEUE = "tandem/limits"  # any worker of a namespace serves the shared limits here


def limit_key(model: str, address: str, credential: str) -> str:
    """Return the key of one shared limit: of a model, an address and a credential, as a digest."""
    return f"{model}:{digest(address, credential)[:16]}"


def limiter_workflow_id(limit: str) -> str:
    return f"tandem/limit/{limit}"


def jobs_workflow_id(pipeline: str, sink: str, run: str, pool: str) -> str:
    """Return the id of the workflow of a run's provider jobs in one pool."""
    return f"tandem/{pipeline}/{sink_digest(sink)}/jobs/{run}/{pool}"


def row_workflow_id(pipeline: str, sink: str, partition: str, stage: str, batch: int, row: str) -> str:
    """Return the id of a row of a batch, for a stage whose nodes are activities."""
    return f"tandem/{pipeline}/{sink_digest(sink)}/row/{partition}/{stage}/b{batch:05d}/{row}"


# Object keys, relative to the sink ---------------------------------------------------------------------------------

DATASET = f"{TANDEM}/dataset.json"
SCHEMA = f"{TANDEM}/schema.json"
COMMITS = f"{TANDEM}/commits/"
CATALOGUE = f"{TANDEM}/catalogue/"
RUNS = f"{TANDEM}/runs/"
SNAPSHOTS = f"{TANDEM}/snapshots/"
STAGING = f"{TANDEM}/staging/"
JOURNAL = f"{TANDEM}/journal/"
SUPERSEDED = f"{TANDEM}/superseded/"  # markers of versions before `UNSETTLED`
UNSETTLED = f"{TANDEM}/unsettled/"
HISTORY = f"{TANDEM}/history/"
LAGGING = f"{TANDEM}/lagging/"
BUDGETS = f"{TANDEM}/budget/"
WAITING = f"{TANDEM}/waiting/"
MOVED = f"{TANDEM}/moved/"
ANSWERS = f"{TANDEM}/answers/"
ANSWERING = f"{TANDEM}/answering/"
FORGETTING = f"{TANDEM}/forgetting.json"
FORGOTTEN = f"{TANDEM}/forgotten/"


def forgotten(time: dt.datetime, nonce: str) -> str:
    """Return the key of a receipt of rows that were removed everywhere."""
    return f"{FORGOTTEN}{time.astimezone(dt.UTC):%Y%m%dT%H%M%SZ}-{nonce}.json"


def answers(level: int, content: str) -> str:
    """Return the key of a file of the answer index; files of one level are merged into one of the next."""
    return f"{ANSWERS}l{level}-{content[:32]}.parquet"


def parse_answers(key: str) -> int | None:
    """Return the level of a file of the answer index, None for another key."""
    match = re.fullmatch(re.escape(ANSWERS) + r"l(\d+)-[0-9a-f]{32}\.parquet", key)
    return int(match[1]) if match else None


def answering(run: str, command: str, partition: str) -> str:
    """Return the key of a marker: the partition's journal is being written by a command for a run, or was and was not
    indexed."""
    return f"{ANSWERING}{run}/{command}/{partition}.json"


def parse_answering(key: str) -> tuple[str, str, str]:
    """Return (run, command, partition) of a key of `answering`."""
    run, command, partition = key.removeprefix(ANSWERING).removesuffix(".json").split("/", 2)
    return run, command, partition


def partition_of_journal(key: str) -> str:
    """Return the partition of a key in `JOURNAL`."""
    return re.sub(r"/(segments/|compact-).*", "", key.removeprefix(JOURNAL))


def data_folder(partition: str) -> str:
    return f"data/{partition}/"


def success(partition: str) -> str:
    return f"{data_folder(partition)}_SUCCESS"


def rejects_folder(partition: str) -> str:
    return f"rejects/{partition}/"


def index_folder(partition: str) -> str:
    """Return the folder of a generation's row index: ids and content digests, to count new and removed rows."""
    return f"{TANDEM}/index/{partition}/"


def pending_folder(partition: str) -> str:
    """Return the folder of the questions of rows that a generation was published without."""
    return f"{TANDEM}/pending/{partition}/"


def waiting(partition: str) -> str:
    return f"{WAITING}{partition}.parquet"


def parse_waiting(key: str) -> str:
    """Return the partition of a key of `waiting`."""
    return key.removeprefix(WAITING).removesuffix(".parquet")


def parse_part(folder: str, key: str) -> int | None:
    """Return the generation in a part's name, None for other objects (and those in subfolders)."""
    match = re.fullmatch(r"part-\d{5}-g(\d+)-[0-9a-f]{16}\.parquet", key.removeprefix(folder))
    return int(match[1]) if match else None


def part_file(folder: str, part: int, generation: int, content: str) -> str:
    """Return the key of a part. `content` is the file's SHA-256: the same bytes published again get the same key."""
    return f"{folder}part-{part:05d}-g{generation}-{content[:16]}.parquet"


def commits_of(partition: str) -> str:
    return f"{COMMITS}{partition}/"


def commit(partition: str, generation: int) -> str:
    return f"{COMMITS}{partition}/{generation:020d}.json"


def parse_commit(key: str) -> tuple[str, int] | None:
    """Return (partition, generation) of a commit's key, None for any other key."""
    match = _COMMIT.fullmatch(key)
    return (match[1], int(match[2])) if match else None


COMMIT_PATTERN = f"^{re.escape(COMMITS)}(?P<partition>.+)/(?P<generation>[0-9]{{20}})\\.json$"  # also for Polars
_COMMIT = re.compile(COMMIT_PATTERN)


def catalogue(kind: str, time: dt.datetime, content: str) -> str:
    """Return the key of an index object. Names sort by time: the last one is the newest."""
    return f"{CATALOGUE}{kind}-{time.astimezone(dt.UTC):%Y%m%dT%H%M%S%f}-{content[:16]}.parquet"


def agreed(content: str) -> str:
    """Return the key of a saved plan, for the runs that must match it."""
    return f"{TANDEM}/plans/{content[:32]}.json"


def shared_keys(run: str, plan_id: str, partition: str) -> str:
    """Return the key of the object with the keys that a partition shares with others, by a plan."""
    return f"{shared_keys_of(run)}{plan_id}/{partition}.json"


def shared_keys_of(run: str) -> str:
    return f"{RUNS}{run}/shared-keys/"


def run_folder(run: str) -> str:
    return f"{RUNS}{run}/"


def request(run: str) -> str:
    return f"{RUNS}{run}/request.json"


def report(run: str) -> str:
    return f"{RUNS}{run}/report.json"


def last_run() -> str:
    """Return the key of the last run's outcome, from which a recovery is known."""
    return f"{TANDEM}/last-run.json"


def scheduled_spec(content: str) -> str:
    """Return the key of the spec that a schedule was applied with."""
    return f"{TANDEM}/schedule/spec-{content[:16]}.json"


def report_page(run: str) -> str:
    """Return the key of the report for a browser."""
    return f"{RUNS}{run}/report.html"


def story(run: str) -> str:
    return f"{RUNS}{run}/story.json"


def lineage(run: str) -> str:
    """Return the key of the datasets that a run reads and publishes; only where lineage is sent."""
    return f"{RUNS}{run}/lineage.json"


def limits_of_run(run: str) -> str:
    """Return the key of the limits set on a live run; its workers poll it."""
    return f"{RUNS}{run}/limits.json"


def announced(run: str) -> str:
    """Return the folder of what commands at work on a run have just answered."""
    return f"{RUNS}{run}/announced/"


def spec_of_run(run: str, content: str) -> str:
    return f"{RUNS}{run}/spec-{content[:16]}.json"


def plan(run: str, plan_id: str) -> str:
    return f"{RUNS}{run}/plan-{plan_id}/plan.json"


def plan_page(plan_key: str, page: int) -> str:
    return f"{plan_key.removesuffix('plan.json')}page-{page:06d}.json"


def retirements(plan_key: str) -> str:
    """Return the key of the partitions that a plan retires."""
    return f"{plan_key.removesuffix('plan.json')}retirements.json"


def moved(partition: str) -> str:
    """Return the key of a note: the rows of a partition were found under another name, and it is to be retired once
    that is published."""
    return f"{MOVED}{partition}.json"


def parse_moved(key: str) -> str:
    """Return the partition of a key of `moved`."""
    return key.removeprefix(MOVED).removesuffix(".json")


def job_holder(partition: str) -> str:
    """Return the key of a note: a run waits for provider jobs with calls of this partition."""
    return f"{TANDEM}/jobs/{partition}.json"


def outcomes(run: str) -> str:
    return f"{RUNS}{run}/outcomes/"


def outcome(run: str, partition: str) -> str:
    """Return the key of a partition's outcome in a run; a later attempt of the run overwrites it."""
    return f"{outcomes(run)}{partition}.json"


def parse_outcome(key: str) -> str:
    """Return the partition of a key of `outcome`."""
    return key.split("/outcomes/", 1)[1].removesuffix(".json")


def ended_pages(run: str) -> str:
    """Return the folder of a completed run's outcomes, many in a page."""
    return f"{RUNS}{run}/ended/"


def ended_page(run: str, number: int) -> str:
    return f"{ended_pages(run)}{number:06d}.zst"


def parse_ended_page(key: str) -> int:
    """Return the number in a key of `ended_page`."""
    return int(key.rpartition("/")[2].removesuffix(".zst"))


def budget_of_run(run: str) -> str:
    """Return the folder of a run's budget and spending, one object for each version."""
    return f"{RUNS}{run}/budget/"


def budget_of_day(day: str) -> str:
    """Return the folder of the pipeline's budget and spending on a UTC day, over all runs."""
    return f"{BUDGETS}{day}/"


def budget_version(folder: str, version: int) -> str:
    return f"{folder}{version:012d}.json"


def parse_budget_version(key: str) -> int:
    return int(key[-17:-5])


def snapshot_folder(listing: str) -> str:
    return f"{SNAPSHOTS}{listing}/"


def lost_attempts(run: str) -> str:
    """Return the folder of batch attempts that died and whose unflushed records cannot be read."""
    return f"{RUNS}{run}/lost/"


def lost_attempt(run: str, partition: str, batch: int, attempt: int) -> str:
    return f"{lost_attempts(run)}{partition}/b{batch:05d}-a{attempt}.json"


def rejects_of_run(run: str, partition: str) -> str:
    """Return the key of the rejects of a partition that was not published."""
    return f"{RUNS}{run}/rejects/{partition}.parquet"


def history_folder(partition: str) -> str:
    return f"{HISTORY}{partition}/"


def history(key: str) -> str:
    """Return the key of a file of `data/` or `rejects/` after a later generation; other keys are returned as they are.
    No level of a partition is called `rejects`, as each has a "="."""
    kind, _, rest = key.partition("/")
    partition, _, name = rest.rpartition("/")
    if kind == "data":
        return f"{history_folder(partition)}{name}"
    return f"{history_folder(partition)}rejects/{name}" if kind == "rejects" else key


def unsettled(partition: str, generation: int) -> str:
    """Return the key of a marker, written before the generation's files are uploaded and removed when `data/` holds
    only current files: until then a reader by glob may see rows twice."""
    return f"{UNSETTLED}{partition}/{generation:020d}.json"


def parse_unsettled(key: str) -> tuple[str, int]:
    """Return (partition, generation) of a marker's key."""
    partition, _, name = key.removeprefix(UNSETTLED).rpartition("/")
    return partition, int(name.removesuffix(".json"))


def lagging(partition: str) -> str:
    """Return the key of a marker: the table (Delta, Iceberg) may not have this partition's current generation yet."""
    return f"{LAGGING}{partition}.json"


def staging_folder(partition: str, temporal_run_id: str) -> str:
    return f"{STAGING}{partition}/{temporal_run_id}/"


def refusal(staging: str) -> str:
    """Return the key of a refused partition's counts, in its staging folder."""
    return f"{staging}refused.json"


def staged(folder: str, batch: int, kind: str, content: str, ending: str) -> str:
    """Return the key of a staged object, named by its SHA-256: attempts with different content never share a key."""
    return f"{folder}b{batch:05d}-{kind}-{content}.{ending}"


def journal_folder(partition: str) -> str:
    return f"{JOURNAL}{partition}/"


def journal_segment(partition: str, run: str, batch: int, nonce: str) -> str:
    return f"{JOURNAL}{partition}/segments/{run}/b{batch:05d}/{nonce}.jsonl"


def journal_batch(partition: str, run: str, batch: int) -> str:
    return f"{JOURNAL}{partition}/segments/{run}/b{batch:05d}/"


def journal_answers(partition: str) -> str:
    """Return the folder of people's answers. No run can have this name (RUN_NAME), so it has no other segments."""
    return f"{JOURNAL}{partition}/segments/_review/"


def journal_answer(partition: str, nonce: str) -> str:
    return f"{journal_answers(partition)}{nonce}.jsonl"


def journal_row(partition: str, run: str, batch: int, row: str, nonce: str = "") -> str:
    """Return the key of a segment of one row whose nodes are activities; without a nonce, their folder."""
    return f"{journal_batch(partition, run, batch)}r{row[:16]}/" + (f"{nonce}.jsonl" if nonce else "")


def journal_carried(partition: str, run: str, nonce: str) -> str:
    """Return the key of a segment with records from other journals."""
    return f"{JOURNAL}{partition}/segments/{run}/carried/{nonce}.jsonl"


def journal_segments(partition: str) -> str:
    return f"{JOURNAL}{partition}/segments/"


def journal_compact(partition: str, content: str) -> str:
    return f"{JOURNAL}{partition}/compact-{content[:32]}.parquet"


# Provider jobs: calls that wait for one, and the jobs by pool (a model, an address and an account) -------------------


def run_jobs(run: str) -> str:
    """Return the folder of a run's parked calls and provider jobs."""
    return f"{RUNS}{run}/jobs/"


def parked_folder(run: str, partition: str = "") -> str:
    """Return the folder of the parked calls of a run, or of one of its partitions."""
    return f"{run_jobs(run)}parked/{partition}/" if partition else f"{run_jobs(run)}parked/"


def parked_file(run: str, partition: str, batch: int, content: str) -> str:
    """Return the key of the calls that an attempt of a batch parked; `content`: the digest of the file."""
    return f"{parked_folder(run, partition)}b{batch:05d}-{content[:16]}.zst"


def parse_parked(key: str) -> tuple[str, str, int]:
    """Return (run, partition, batch) of a key of `parked_file`. Raises ValueError for another key."""
    match = _PARKED.fullmatch(key)
    if match is None:
        raise ValueError(f"{key!r} is no file of parked calls")
    return match[1], match[2], int(match[3])


_PARKED = re.compile(re.escape(RUNS) + r"([^/]+)/jobs/parked/(.+)/b(\d+)-[0-9a-f]+\.zst")


def refused_calls(run: str, partition: str) -> str:
    """Return the folder of the calls of a partition that a provider refused in a job."""
    return f"{run_jobs(run)}refused/{partition}/"


def refused_calls_of(run: str, partition: str, job: str, content: str) -> str:
    return f"{refused_calls(run, partition)}{job}-{content[:16]}.jsonl"


def pool_folder(run: str, pool: str) -> str:
    return f"{run_jobs(run)}{pool}/"


def pool_seed(run: str, pool: str) -> str:
    """Return the key of the random text that makes the names of a pool's jobs its own."""
    return f"{pool_folder(run, pool)}seed.json"


def pool_limits(run: str, pool: str) -> str:
    """Return the key of what was learned of the provider's limits."""
    return f"{pool_folder(run, pool)}limits.json"


def job_folder(run: str, pool: str, job: str) -> str:
    return f"{pool_folder(run, pool)}{job}/"


def job_requests(run: str, pool: str, job: str) -> str:
    """Return the key of the list of a job's requests, and of the parked files that hold them."""
    return f"{job_folder(run, pool, job)}requests.zst"


def job_intent(run: str, pool: str, job: str) -> str:
    return f"{job_folder(run, pool, job)}intent.json"


def job_claims(run: str, pool: str, job: str) -> str:
    """Return the folder of the attempts to create a job at the provider."""
    return f"{job_folder(run, pool, job)}claims/"


def job_claim(run: str, pool: str, job: str, number: int) -> str:
    return f"{job_claims(run, pool, job)}{number:04d}.json"


def job_claim_refused(run: str, pool: str, job: str, number: int) -> str:
    """Return the key of a marker: the provider surely created nothing for this claim."""
    return f"{job_claims(run, pool, job)}{number:04d}-refused.json"


def job_split(run: str, pool: str, job: str) -> str:
    """Return the key of the two jobs in the place of one that did not fit its budget."""
    return f"{job_folder(run, pool, job)}split.json"


def job_submitted(run: str, pool: str, job: str) -> str:
    return f"{job_folder(run, pool, job)}submitted.json"


def job_state(run: str, pool: str, job: str) -> str:
    """Return the key of the state in which a job was last seen."""
    return f"{job_folder(run, pool, job)}state.json"


def job_late(run: str, pool: str, job: str, parked_key: str = "") -> str:
    """Return the key of a note: a parked file came later, with requests that the job holds. Without a file: the folder
    of these notes."""
    folder = f"{job_folder(run, pool, job)}late/"
    return f"{folder}{digest(parked_key)}.json" if parked_key else folder


def job_collected(run: str, pool: str, job: str) -> str:
    """Return the key of the time at which a job's answers were first read, which is that of their records."""
    return f"{job_folder(run, pool, job)}collected.json"


def job_files_deleted(run: str, pool: str, job: str) -> str:
    """Return the key of a marker: nothing of the job lies in files at its provider any more."""
    return f"{job_folder(run, pool, job)}files-deleted.json"


def job_again(run: str, pool: str, job: str, content: str) -> str:
    """Return the key of the list of parked files that hold what an ended job gave back."""
    return f"{job_folder(run, pool, job)}again-{content[:16]}.json"


def is_job_again(key: str) -> bool:
    return key.startswith(RUNS) and key.rpartition("/")[2].startswith("again-")


def job_given_back(run: str, pool: str, job: str) -> str:
    """Return the key of the requests that an ended job did not answer, and that another one may hold."""
    return f"{job_folder(run, pool, job)}given-back.zst"


def job_ended(run: str, pool: str, job: str) -> str:
    return f"{job_folder(run, pool, job)}ended.json"
