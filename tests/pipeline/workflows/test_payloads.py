"""Messages are encoded as Pydantic's converter does, by one converter for all."""

import dataclasses

from temporalio.contrib.pydantic import pydantic_data_converter

from pipeline.workflows.payloads import JSON_MESSAGES
from schemas.messages.batch import Spent
from schemas.messages.partition import PartitionResult

_RESULT = PartitionResult(partition="day=1", outcome="published", generation=3)


async def test_histories_of_the_sdk_s_converter_and_of_ours_are_the_same() -> None:
    values = [_RESULT, Spent(calls=3, cost_usd=0.5), ["x"], None, 7]
    ours = await JSON_MESSAGES.encode(values)
    assert ours == await pydantic_data_converter.encode(values)
    read = await JSON_MESSAGES.decode(ours[:2], [PartitionResult, Spent])
    assert read == values[:2]


def test_a_copy_for_a_workflow_task_shares_what_was_learnt() -> None:
    copy = dataclasses.replace(JSON_MESSAGES)
    payload = JSON_MESSAGES.payload_converter.to_payload(_RESULT)
    assert copy.payload_converter.from_payload(payload, PartitionResult) == _RESULT
    made = {id(JSON_MESSAGES.payload_converter_class()) for _ in range(3)}
    assert len(made) == 1
