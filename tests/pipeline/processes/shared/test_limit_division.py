"""Calls at once, divided among processes: never more than the limit, and nobody who is held back goes short."""

from hypothesis import given
from hypothesis import strategies as st

from pipeline.processes.shared.limit_division import Division, Part, targets

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
    """A process acts on grants when they reach it, some steps after they were sent, and its reports are as late."""
    division = Division()
    grants = dict.fromkeys(range(4), (0, 0))
    flying = dict.fromkeys(range(4), 0)
    sent: dict[int, list[tuple[int, int]]] = {process: [] for process in grants}
    reports: dict[int, list[tuple[int, int, bool, int]]] = {process: [] for process in grants}
    for process, hungry, calls in steps:
        if calls % 3 == 0 and sent[process]:
            grants[process] = sent[process].pop(0)
        part, number = grants[process]
        flying[process] = max(flying[process] - 3, min(calls, part), 0)
        reports[process].append((limit, flying[process], hungry, number))
        if calls % 2 == 0:
            for other, changed in division.report(process, {"key": reports[process].pop(0)}).items():
                sent[other].append(changed["key"])
        assert sum(max(grants[one][0], flying[one]) for one in grants) <= limit


def test_the_only_one_that_is_held_back_gets_almost_all() -> None:
    division = Division()
    assert division.report(1, {"key": (64, 0, True, 0)}) == {1: {"key": (64, 1)}}
    division.report(1, {"key": (64, 64, True, 1)})
    assert division.report(2, {"key": (64, 0, False, 0)})[1]["key"] == (63, 2)
    assert division.report(1, {"key": (64, 63, True, 1)}) == {}, "a call may have begun before the grant came"
    assert division.report(1, {"key": (64, 63, True, 2)})[2]["key"] == (1, 1)
    assert division.remove(1) == {2: {"key": (64, 2)}}
