"""agent: tools until there is an answer, within caps; tools of its list and no other."""

import asyncio
from typing import Any

import pytest
from langchain_core.messages import BaseMessage, ToolMessage

from schemas.errors import SpecError
from stages.contract import GraphStage
from tests.harness.model_server import ModelServer
from tests.stages import toolbox
from tests.stages.support import MODEL, Segments, a_context, a_graph_stage, answers, enrich, kinds, until

ANSWER = '{"answer": "fine"}'
HERE = "tests.stages.toolbox"


@pytest.fixture(autouse=True)
def _no_calls() -> None:
    toolbox.CALLS.clear()
    toolbox.HANG_AT.clear()


def an_agent(*tools: str, options: dict[str, Any] | None = None, **changed: Any) -> GraphStage:
    names = [f"{HERE}:{name}" for name in tools or ("stock", "price", "broken")]
    return a_graph_stage(
        {"uses": "agent", "model": MODEL, "prompt": "{{ text }}", "output": {"answer": "str"}, "tools": names,
         "with": options or {}, **changed}
    )  # fmt: skip


def calling(name: str, arguments: Any, **rule: Any) -> dict[str, Any]:
    return {"action": "tool_calls", "tool_calls": [{"name": name, "arguments": arguments}], **rule}


async def conversation(stage: GraphStage, text: str = "a") -> list[BaseMessage]:
    """The messages that led to a row's answer."""
    prepared = stage.prepare({"text": text})
    assert isinstance(prepared, dict)
    return list((await stage.graph.ainvoke(prepared))["messages"])


async def told(stage: GraphStage) -> ToolMessage:
    last = (await conversation(stage))[-1]
    assert isinstance(last, ToolMessage)
    return last


async def test_a_tool_is_called_and_its_result_told_as_data(server: ModelServer) -> None:
    server.script({"rules": [calling("stock", {"item": "lamp"}), {"action": "text", "text": ANSWER}]})
    stage = an_agent()
    assert answers(await enrich(stage, ["Are lamps there?"])) == [{"answer": "fine"}]
    assert toolbox.CALLS == [("stock", "lamp")]
    assert server.stats().requests == 2
    message = await told(stage)
    assert message.status == "success"
    assert "\n4\n" in str(message.content)
    assert str(message.content).startswith("<result ")


@pytest.mark.parametrize(
    ("wish", "words"),
    [
        (calling("price", {"item": "lamp", "amount": 1000}), "the arguments do not fit: amount: Input should be less"),
        (calling("price", {}), "the arguments do not fit: item: Field required"),
        (calling("price", {"item": "lamp", "discount": 1}), "price takes no 'discount'; it takes: item, amount."),
        (calling("price", '{"item": '), "not a JSON object"),
        (calling("delete_everything", {}), "There is no tool 'delete_everything'; there are: stock, price, broken."),
        (calling("os.system", {"command": "true"}), "There is no tool 'os.system'"),
    ],
)
async def test_what_a_tool_does_not_take_is_told_and_nothing_is_called(
    server: ModelServer, wish: dict[str, Any], words: str
) -> None:
    server.script({"rules": [wish, {"action": "text", "text": ANSWER}]})
    stage = an_agent()
    assert kinds(await enrich(stage, ["a"])) == ["ok"]
    assert toolbox.CALLS == []
    message = await told(stage)
    assert message.status == "error"
    assert words in str(message.content)


async def test_a_tool_that_fails_is_told_and_the_row_goes_on(server: ModelServer) -> None:
    server.script({"rules": [calling("broken", {"item": "lamp"}), {"action": "text", "text": ANSWER}]})
    stage = an_agent()
    assert answers(await enrich(stage, ["a"])) == [{"answer": "fine"}]
    assert (await told(stage)).content == "broken: RuntimeError: no connection for lamp"


async def test_a_tool_that_takes_too_long_or_says_too_much_is_cut(server: ModelServer) -> None:
    server.script({"rules": [calling("slow", {"item": "lamp"}), {"action": "text", "text": ANSWER}]})
    stage = an_agent("slow", options={"tool_timeout": "50ms"})
    assert (await told(stage)).content == "slow: no result within 0.05 s"
    server.script({"rules": [calling("essay", {"words": 9000}), {"action": "text", "text": ANSWER}]})
    stage = an_agent("essay", options={"result_chars": 100})
    message = await told(stage)
    assert len(str(message.content)) < 250
    assert "cut after 100 characters" in str(message.content)


async def test_several_calls_of_one_step_are_answered_in_order(server: ModelServer) -> None:
    wishes = [{"name": "stock", "arguments": {"item": item}} for item in ("a", "bb", "ccc")]
    server.script({"rules": [{"action": "tool_calls", "tool_calls": wishes}, {"action": "text", "text": ANSWER}]})
    last = (await conversation(an_agent()))[-3:]
    assert [str(message.content).split("\n")[1] for message in last] == ["1", "2", "3"]


async def test_a_loop_ends_at_its_steps(server: ModelServer) -> None:
    server.script({"rules": [calling("stock", {"item": "lamp"}, turns=1000)]})
    outcome = await enrich(an_agent(options={"steps": 5}), ["a"])
    assert kinds(outcome) == ["step_cap"]
    assert server.stats().requests == 5
    record = outcome.records[0]
    assert record is not None
    assert record.error is not None
    assert record.error["message"] == "no answer after 5 steps"


async def test_or_it_is_made_to_answer_without_tools(server: ModelServer) -> None:
    server.script(
        {"rules": [{"match": "no step left", "action": "text", "text": ANSWER},
                   calling("stock", {"item": "lamp"}, turns=1000)]}
    )  # fmt: skip
    outcome = await enrich(an_agent(options={"steps": 5, "at_cap": "answer"}), ["a"])
    assert answers(outcome) == [{"answer": "fine"}]
    assert server.stats().requests == 5


async def test_or_at_its_tokens(server: ModelServer) -> None:
    server.script({"rules": [calling("essay", {"words": 400}, turns=1000)]})
    outcome = await enrich(an_agent("essay", options={"token_cap": 2000, "steps": 100}), ["a"])
    assert kinds(outcome) == ["token_cap"]
    assert server.stats().requests < 10


async def test_an_answer_that_does_not_fit_is_repaired(server: ModelServer) -> None:
    server.script({"rules": [calling("stock", {"item": "a"}, times=1), {"action": "bad_json", "times": 1}]})
    outcome = await enrich(an_agent(), ["a"])
    assert kinds(outcome) == ["ok"]
    assert server.stats().requests == 3
    server.script({"rules": [{"action": "bad_json"}]})
    assert kinds(await enrich(an_agent(), ["b"])) == ["invalid_answer"]


async def test_where_answers_are_a_tools_the_agent_ends_with_it(
    server: ModelServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    from stages.graphs.toolkit import assemble
    from stages.models.answers import answer_format

    for module in (answer_format, assemble):
        monkeypatch.setattr(module, "structured_method", lambda name: "tool")
    rules = [calling("stock", {"item": "a"}, turns=1), calling("tests_stage0", {"answer": "by tool"}, turns=9)]
    server.script({"rules": rules})
    assert answers(await enrich(an_agent(), ["a"])) == [{"answer": "by tool"}]
    assert toolbox.CALLS == [("stock", "a")]


async def test_twelve_steps_killed_at_the_ninth_are_taken_up_there(server: ModelServer) -> None:
    """Neither a model call nor a tool call that was journalled is made again."""
    server.script(
        {"rules": [calling("price", {"item": "lamp", "amount": 2}, turns=11), {"action": "text", "text": ANSWER}]}
    )
    segments, stage = Segments(), an_agent()
    toolbox.HANG_AT.append(9)
    doomed = asyncio.create_task(enrich(stage, ["a"], a_context(segments)))
    await until(lambda: len(toolbox.CALLS) == 9)
    doomed.cancel()
    with pytest.raises(asyncio.CancelledError):
        await doomed
    assert server.stats().requests == 9
    toolbox.HANG_AT.clear()
    assert answers(await enrich(stage, ["a"], a_context(segments))) == [{"answer": "fine"}]
    assert server.stats().requests == 12
    assert server.stats().max_ok_per_content == 1
    assert len(toolbox.CALLS) == 12  # the ninth, which died, twice; eleven are needed


async def test_another_run_calls_its_tools_anew(server: ModelServer) -> None:
    server.script({"rules": [calling("stock", {"item": "lamp"}), {"action": "text", "text": ANSWER}]})
    segments = Segments()
    await enrich(an_agent(), ["a"], a_context(segments))
    await enrich(an_agent(version=2), ["a"], a_context(segments, run="run-2"))
    assert len(toolbox.CALLS) == 2
    assert server.stats().requests == 2


@pytest.mark.parametrize(
    ("tools", "sentence"),
    [
        (["nothing"], "has no 'nothing'"),
        (["NOT_A_TOOL"], "toolbox:NOT_A_TOOL is a int.*function with type hints"),
        (["untyped"], "cannot be a tool.*type hints and a docstring"),
        (["stock", "stock"], "two are called 'stock'"),
    ],
)
def test_what_is_no_tool_is_refused_before_anything_runs(tools: list[str], sentence: str) -> None:
    with pytest.raises(SpecError, match=sentence):
        an_agent(*tools)
