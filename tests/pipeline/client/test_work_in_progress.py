"""Which running partitions a command asks for their progress."""

from pipeline.client.work_in_progress import Ages


def test_partitions_that_have_just_begun_are_not_asked_among_many() -> None:
    ages, many = Ages(), [f"p{number}" for number in range(10)]
    assert ages.old_enough(many, 100.0) == []
    assert ages.old_enough(many, 101.0) == []
    assert ages.old_enough([*many[5:], "new"], 102.5) == many[5:]
    assert ages.old_enough([*many[:5], "new"], 103.0) == [], "those that have come back have begun again"


def test_few_are_asked_at_once() -> None:
    ages = Ages()
    assert ages.old_enough(["a", "b", "c", "d"], 100.0) == ["a", "b", "c", "d"]
    assert ages.old_enough([], 100.5) == []
