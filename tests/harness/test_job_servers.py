"""The providers' own SDKs, used as clients, find nothing wrong with the harness's servers of batch jobs."""

from __future__ import annotations

import json
import warnings
from pathlib import Path
from typing import Any

import anthropic
import boto3
import openai
import pytest
from anthropic.types.messages.batch_create_params import Request
from google import genai
from google.genai import errors, types

from tests.harness.model_server import ModelServer
from tests.harness.servers import SeaweedS3

pytestmark = pytest.mark.filterwarnings("ignore:Inheritance class AiohttpClientSession:DeprecationWarning")
SLOW = {"jobs": {"run_s": 3600}}
CLAUDE, GEMINI = "claude-haiku-4-5", "gemini-2.5-flash"


@pytest.fixture
def gpt(model_server: ModelServer) -> Any:
    with openai.OpenAI(base_url=model_server.base_url, api_key="sk-test", max_retries=0) as client:
        yield client


@pytest.fixture
def claude(model_server: ModelServer) -> Any:
    root = model_server.base_url.removesuffix("/v1")
    with anthropic.Anthropic(
        base_url=root, api_key="sk-ant-test", max_retries=0, _strict_response_validation=True
    ) as client:
        yield client


@pytest.fixture
def google(model_server: ModelServer) -> Any:
    root = model_server.base_url.removesuffix("/v1")
    client = genai.Client(api_key="AIza-test", http_options=types.HttpOptions(base_url=root))
    yield client
    client.close()


def chat_line(number: int, **changes: Any) -> dict[str, Any]:
    body = {"model": "gpt-test", "messages": [{"role": "user", "content": f"row {number} [[answer: {number}]]"}]}
    return {"custom_id": f"c-{number}", "method": "POST", "url": "/v1/chat/completions", "body": body} | changes


def uploaded(gpt: openai.OpenAI, folder: Path, lines: list[dict[str, Any]]) -> str:
    path = folder / "input.jsonl"
    path.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    file = gpt.files.create(file=path, purpose="batch")
    assert file.bytes == path.stat().st_size
    return file.id


def created(gpt: openai.OpenAI, file: str) -> Any:
    return gpt.batches.create(
        input_file_id=file, endpoint="/v1/chat/completions", completion_window="24h", metadata={"who": "me"}
    )


def test_openai_creates_polls_lists_downloads_and_cancels(
    gpt: openai.OpenAI, model_server: ModelServer, tmp_path: Path
) -> None:
    """A job's answers come by custom id from its output file; a second job is cancelled before it has any."""
    batch = created(gpt, uploaded(gpt, tmp_path, [chat_line(n) for n in range(3)]))
    done = gpt.batches.retrieve(batch.id)
    assert (done.status, done.metadata) == ("completed", {"who": "me"})
    assert done.request_counts is not None
    assert done.request_counts.completed == 3
    assert done.error_file_id is None
    assert done.output_file_id is not None
    answers = {}
    for line in gpt.files.content(done.output_file_id).text.splitlines():
        found = json.loads(line)
        completion = openai.types.chat.ChatCompletion.model_validate(found["response"]["body"])
        answers[found["custom_id"]] = completion.choices[0].message.content
    assert answers == {f"c-{n}": str(n) for n in range(3)}
    model_server.script(SLOW)
    slow = created(gpt, uploaded(gpt, tmp_path, [chat_line(7)]))
    assert gpt.batches.retrieve(slow.id).status == "in_progress"
    assert gpt.batches.cancel(slow.id).status == "cancelled"
    assert [one.id for one in gpt.batches.list(limit=1)] == [slow.id, batch.id]
    assert gpt.files.delete(batch.input_file_id).deleted


def test_openai_refuses_what_the_real_one_refuses(
    gpt: openai.OpenAI, model_server: ModelServer, tmp_path: Path
) -> None:
    """A line at fault fails the job and is named; a full queue, too; a file that is not there is a 400."""
    twice = created(gpt, uploaded(gpt, tmp_path, [chat_line(1), chat_line(1)]))
    assert twice.status == "failed"
    assert [(error.code, error.line) for error in twice.errors.data] == [("duplicate_custom_id", 2)]
    with pytest.raises(openai.BadRequestError):
        created(gpt, "file-none")
    model_server.script({"jobs": {"enqueued_tokens": 1}})
    full = created(gpt, uploaded(gpt, tmp_path, [chat_line(2)]))
    assert full.errors.data[0].code == "token_limit_exceeded"
    assert model_server.jobs()["submitted"] == 0


def message(number: int) -> Request:
    text = f"row {number} [[answer: {number}]]"
    return Request(
        custom_id=f"c-{number}",
        params={"model": CLAUDE, "max_tokens": 9, "messages": [{"role": "user", "content": text}]},
    )


def test_anthropic_creates_polls_lists_downloads_and_cancels(
    claude: anthropic.Anthropic, model_server: ModelServer
) -> None:
    """Results stream by custom id; a bad request of a job is an error of its own; a job is cancelled."""
    empty: Any = {"model": CLAUDE, "max_tokens": 9, "messages": [{"role": "user", "content": ""}]}
    bad = Request(custom_id="bad", params=empty)
    batch = claude.messages.batches.create(requests=[message(1), bad, message(2)])
    done = claude.messages.batches.retrieve(batch.id)
    assert done.processing_status == "ended"
    assert (done.request_counts.succeeded, done.request_counts.errored) == (2, 1)
    results = {one.custom_id: one.result for one in claude.messages.batches.results(batch.id)}
    assert results["bad"].type == "errored"
    assert results["bad"].error.error.type == "invalid_request_error"
    first = results["c-1"]
    assert first.type == "succeeded"
    assert first.message.content[0].text == "1"  # type: ignore[union-attr]
    model_server.script(SLOW)
    slow = claude.messages.batches.create(requests=[message(3)])
    assert claude.messages.batches.retrieve(slow.id).request_counts.processing == 1
    assert claude.messages.batches.cancel(slow.id).cancel_initiated_at is not None
    assert [one.result.type for one in claude.messages.batches.results(slow.id)] == ["canceled"]
    assert [one.id for one in claude.messages.batches.list(limit=1)] == [slow.id, batch.id]


def test_anthropic_refuses_custom_ids_that_the_real_one_refuses(claude: anthropic.Anthropic) -> None:
    """They have 64 letters, digits, dashes and underscores at most, each once."""
    for requests in ([{**message(1), "custom_id": "x" * 65}], [{**message(1), "custom_id": "a.b"}], [message(1)] * 2):
        with pytest.raises(anthropic.BadRequestError):
            claude.messages.batches.create(requests=requests)  # type: ignore[arg-type]


def gemini_job(google: Any, folder: Path, numbers: range) -> Any:
    path = folder / "input.jsonl"
    lines = [
        {"key": f"c-{n}", "request": {"contents": [{"role": "user", "parts": [{"text": f"row {n} [[answer: {n}]]"}]}]}}
        for n in numbers
    ]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    file = google.files.upload(file=path, config=types.UploadFileConfig(mime_type="application/jsonl"))
    config = types.CreateBatchJobConfig(display_name="mine")
    return google.batches.create(model=GEMINI, src=types.BatchJobSource(file_name=file.name), config=config)


def test_gemini_creates_polls_lists_downloads_and_cancels(
    google: Any, model_server: ModelServer, tmp_path: Path
) -> None:
    """Responses come by key from a file; a second job is cancelled before it has any."""
    job = gemini_job(google, tmp_path, range(3))
    done = google.batches.get(name=job.name)
    assert (done.state, done.display_name) == (types.JobState.JOB_STATE_SUCCEEDED, "mine")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        content = google.files.download(file=done.dest.file_name)
    found = [json.loads(line) for line in content.decode().splitlines()]
    texts = {one["key"]: types.GenerateContentResponse.model_validate(one["response"]).text for one in found}
    assert texts == {f"c-{n}": str(n) for n in range(3)}
    model_server.script(SLOW)
    slow = gemini_job(google, tmp_path, range(1))
    assert google.batches.get(name=slow.name).state == types.JobState.JOB_STATE_RUNNING
    google.batches.cancel(name=slow.name)
    assert google.batches.get(name=slow.name).state == types.JobState.JOB_STATE_CANCELLED
    pages = google.batches.list(config=types.ListBatchJobsConfig(page_size=1))
    assert {one.name for one in pages} == {job.name, slow.name}
    with pytest.raises(errors.ClientError):
        google.batches.get(name="batches/none")


def test_boto3_creates_polls_lists_and_stops(
    seaweed: SeaweedS3, model_server: ModelServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its model of the requests and answers fits; output lies below the job's own name; a second job is stopped."""
    for name, value in {**seaweed.env(), "AWS_ENDPOINT_URL_BEDROCK": model_server.base_url.removesuffix("/v1")}.items():
        monkeypatch.setenv(name, value)
    bucket = seaweed.bucket("boto3-jobs")
    model_server.use_s3(seaweed.endpoint, bucket, seaweed.env())
    s3, bedrock = boto3.client("s3", region_name="us-east-1"), boto3.client("bedrock", region_name="us-east-1")
    body = {"messages": [{"role": "user", "content": [{"text": "row 1 [[answer: 1]]"}]}]}
    s3.put_object(Bucket=bucket, Key="in.jsonl", Body=json.dumps({"recordId": "c-1", "modelInput": body}))
    request: dict[str, Any] = {
        "jobName": "first", "roleArn": "arn:aws:iam::123456789012:role/batch", "modelId": "amazon.nova-lite-v1:0",
        "modelInvocationType": "Converse", "clientRequestToken": "t1",
        "inputDataConfig": {"s3InputDataConfig": {"s3Uri": f"s3://{bucket}/in.jsonl"}},
        "outputDataConfig": {"s3OutputDataConfig": {"s3Uri": f"s3://{bucket}/out/"}},
    }  # fmt: skip
    arn = bedrock.create_model_invocation_job(**request)["jobArn"]
    assert bedrock.create_model_invocation_job(**request)["jobArn"] == arn
    with pytest.raises(bedrock.exceptions.ConflictException):
        bedrock.create_model_invocation_job(**{**request, "modelId": "amazon.nova-pro-v1:0"})
    done = bedrock.get_model_invocation_job(jobIdentifier=arn)
    assert (done["status"], done["totalRecordCount"]) == ("Completed", 1)
    below = f"out/{arn.rpartition('/')[2]}/"
    keys = [item["Key"] for item in s3.list_objects_v2(Bucket=bucket, Prefix="out/")["Contents"]]
    assert keys == [f"{below}in.jsonl.out", f"{below}manifest.json.out"]
    found = json.loads(s3.get_object(Bucket=bucket, Key=keys[0])["Body"].read())
    assert (found["recordId"], found["modelOutput"]["output"]["message"]["content"]) == ("c-1", [{"text": "1"}])
    model_server.script(SLOW)
    slow = bedrock.create_model_invocation_job(**{**request, "jobName": "second", "clientRequestToken": "t2"})["jobArn"]
    assert bedrock.get_model_invocation_job(jobIdentifier=slow)["status"] == "InProgress"
    bedrock.stop_model_invocation_job(jobIdentifier=slow)
    listed = bedrock.list_model_invocation_jobs(nameContains="sec")["invocationJobSummaries"]
    assert [(one["jobArn"], one["status"]) for one in listed] == [(slow, "Stopped")]
    with pytest.raises(bedrock.exceptions.ConflictException):
        bedrock.stop_model_invocation_job(jobIdentifier=slow)
    with pytest.raises(bedrock.exceptions.ValidationException):
        bedrock.create_model_invocation_job(**{**request, "jobName": "no spaces", "clientRequestToken": "t3"})
    model_server.use_s3("", "", {})
