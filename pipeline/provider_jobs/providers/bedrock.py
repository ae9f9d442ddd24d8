"""Bedrock's batch jobs: their files lie in a bucket of the user's, and boto3, in threads, sends what is to be sent."""

import asyncio
import threading
import uuid
from collections.abc import AsyncIterator, Callable, Collection
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import botocore.exceptions
import orjson
from botocore.config import Config

from pipeline.bedrock import account_of, keys_failure
from pipeline.provider_jobs.base import Content, WireAnswers
from pipeline.provider_jobs.providers.http import answers_in
from pipeline.stores.base import ObjectInfo
from pipeline.stores.s3 import S3Store
from schemas.errors import FatalModelError, ModelError, StoreError, StoreRefused, TransientModelError
from schemas.jobs import Intent
from stages.models.wires.jobs import bedrock
from stages.models.wires.jobs.form import Framing, JobAnswer, JobLimits, JobStatus
from stages.models.wires.transport import ProviderChatModel

_PAGE = 100
_BLOCK = 8 << 20
_CONNECT_S, _READ_S = 10, 60
_NO_ANSWER = (botocore.exceptions.HTTPClientError, botocore.exceptions.ConnectionError)
T = TypeVar("T")


class _Conflict(TransientModelError):
    """The job was created already with another file, or is over."""


@dataclass
class BedrockJobs(WireAnswers):
    """Content goes to S3, then a job is created of it. Its token lets one creation of a job succeed, whatever file
    another one names; it is found by its name, which is its own."""

    model: ProviderChatModel
    limits: JobLimits = bedrock.LIMITS
    framing: Framing = bedrock.FRAMING
    create_s: float = 90.0
    _client: Any = None
    _stores: dict[str, S3Store] = field(default_factory=dict)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def __post_init__(self) -> None:
        self._account = account_of(self.model.sign)

    def line(self, custom_id: str, body: dict[str, Any]) -> bytes:
        return bedrock.line(custom_id, body)

    async def upload(self, intent: Intent, content: Content) -> str:
        """Put the content under a name that no other attempt has: who gives up deletes his own."""
        file = f"{self.model.batch_output.rstrip('/')}/input/{intent.job}-{uuid.uuid4().hex[:8]}.jsonl"
        store, key = self._place(file)
        await _in_s3(lambda: store.upload(key, content.path))
        return file

    async def withdraw(self, file: str) -> None:
        """Delete an object, or, where the name ends with a slash, all below it."""
        store, key = self._place(file)
        await _in_s3(lambda: store.delete([info.key for info in store.list(key)] if key.endswith("/") else [key]))

    async def create(self, intent: Intent, content: Content, file: str) -> str:
        model = self.model
        request = bedrock.create_request(
            intent, file, model=model.model, role=model.batch_role, place=model.batch_output
        )
        return str((await self._send("create_model_invocation_job", **request))["jobArn"])

    async def find(self, intent: Intent, others: Collection[str] = ()) -> str | None:
        query: dict[str, Any] = {"nameContains": bedrock.job_name(intent), "maxResults": _PAGE}
        while True:
            page = await self._send("list_model_invocation_jobs", **query)
            for job in page.get("invocationJobSummaries") or ():
                if bedrock.is_of(job, intent):
                    return str(job["jobArn"])
            if not page.get("nextToken"):
                return None
            query["nextToken"] = page["nextToken"]

    async def status(self, id: str) -> JobStatus:
        return bedrock.status_of(await self._send("get_model_invocation_job", jobIdentifier=id))

    async def results(self, id: str, folder: Path) -> AsyncIterator[JobAnswer]:
        store, below = self._place((await self.status(id)).files["output"])
        for info in await _in_s3(lambda: list(store.list(below))):
            if not info.key.endswith(bedrock.OUTPUT):
                continue
            path = folder / "results.jsonl"
            await _in_s3(partial(_download, store, info, path))
            async for answer in answers_in(path, bedrock.answer_of):
                yield answer
            await asyncio.to_thread(path.unlink)

    async def cancel(self, id: str) -> None:
        if (await self.status(id)).state in ("queued", "running"):
            try:
                await self._send("stop_model_invocation_job", jobIdentifier=id)
            except _Conflict:
                return  # over meanwhile

    # boto3: blocking --------------------------------------------------------------------------------------------------

    async def _send(self, operation: str, **parameters: Any) -> dict[str, Any]:
        """Send one request, once: who called tries again."""

        def send() -> dict[str, Any]:
            try:
                answer: dict[str, Any] = getattr(self._made_client(), operation)(**parameters)
                return answer
            except botocore.exceptions.ClientError as exc:
                raise self._failure(exc) from exc
            except _NO_ANSWER as exc:
                raise TransientModelError(f"{self.model.model}: no answer ({type(exc).__name__})") from exc
            except botocore.exceptions.CredentialRetrievalError as exc:
                raise keys_failure(exc) from exc
            except botocore.exceptions.BotoCoreError as exc:
                raise FatalModelError(f"{self.model.model}: {exc}", hint="Check AWS_PROFILE and AWS_REGION.") from exc

        return await asyncio.to_thread(send)

    def _made_client(self) -> Any:
        with self._lock:
            if self._client is None:
                config = Config(
                    connect_timeout=_CONNECT_S,
                    read_timeout=_READ_S,
                    retries={"mode": "standard", "total_max_attempts": 1},
                )
                self._client = self._account.session().client("bedrock", config=config)
            return self._client

    def _failure(self, exc: botocore.exceptions.ClientError) -> ModelError | FatalModelError:
        error, about = exc.response["Error"], exc.response["ResponseMetadata"]
        code, message = error.get("Code", ""), error.get("Message", "")
        if code == "ConflictException":
            return _Conflict(f"{self.model.model}: {message}")
        if code == "ServiceQuotaExceededException":  # so many jobs may be out
            return TransientModelError(f"{self.model.model}: {message}", congestion="rate")
        return self.model.failure_of(
            about["HTTPStatusCode"], orjson.dumps({"message": message, "__type": code}), about.get("HTTPHeaders") or {}
        )

    def _place(self, uri: str) -> tuple[S3Store, str]:
        """Return the bucket of an object's address, and its key there."""
        bucket, _, key = uri.removeprefix("s3://").partition("/")
        with self._lock:
            if bucket not in self._stores:
                self._stores[bucket] = S3Store(bucket, session=self._account.session())
            return self._stores[bucket], key


async def _in_s3(step: Callable[[], T]) -> T:
    """Do something in S3, in a thread, with errors as calls have them."""
    try:
        return await asyncio.to_thread(step)
    except StoreRefused as exc:
        raise FatalModelError(exc.message, hint=exc.hint) from exc
    except StoreError as exc:
        raise TransientModelError(exc.message, hint=exc.hint) from exc


def _download(store: S3Store, info: ObjectInfo, path: Path) -> None:
    with path.open("wb") as out:
        for start in range(0, info.size, _BLOCK):
            out.write(store.get_range(info.key, start, _BLOCK))
