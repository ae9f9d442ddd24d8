"""Calls at once, divided among processes: never more than the limit, and nobody who is held back goes short."""

from hypothesis import given
from hypothesis import strategies as st

from pipeline.processes.limit_division import Division, Part, targets

parts = st.dictionaries(
    st.integers(0, 7), st.builds(Part, st.just(0), st.integers(0, 40), st.booleans()), min_size=1, max_size=8
)


@given(st.integers(1, 100), parts)
def test_all_of_the_limit_is_given_and_no_more(limit: int, found: dict[int, Part]) -> None:
    given_out = targets(limit, found)
    assert sum(given_out.values()) == limit
    if limit >= len(found):
        assert min(given_out.values()) >= 1


@given(st.integers(1, 60), st.lists(st.tuples(st.integers(0, 3), st.booleans(), st.integers(0, 20)), max_size=60))
def test_at_no_moment_may_more_be_called_than_the_limit(limit: int, steps: list[tuple[int, bool, int]]) -> None:
    """Each process calls as much as it was told that it may, at once."""
    division = Division()
    told = dict.fromkeys(range(4), 0)
    flying = dict.fromkeys(range(4), 0)
    for who, hungry, wanted in steps:
        flying[who] = (
            max(min(wanted, told[who]), flying[who] - 3) if flying[who] > told[who] else min(wanted, told[who])
        )
        for other, said in division.report(who, {"key": (limit, flying[who], hungry)}).items():
            told[other] = said["key"]
        most = {process: max(told[process], flying[process]) for process in told}
        assert sum(most.values()) <= limit


def test_the_only_one_that_is_held_back_gets_almost_all() -> None:
    division = Division()
    assert division.report(1, {"key": (64, 0, True)}) == {1: {"key": 64}}
    division.report(1, {"key": (64, 64, True)})
    told = division.report(2, {"key": (64, 0, False)})
    assert told[1]["key"] == 63
    told = division.report(1, {"key": (64, 63, True)})
    assert told[2]["key"] == 1
    assert division.remove(1) == {2: {"key": 64}}
