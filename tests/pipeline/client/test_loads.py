"""The calls of several processes, summed for people; classes of errors, bounded for a message."""

from collections import Counter

from pipeline.client.work_in_progress import WorkInProgress
from schemas.messages.batch import Heartbeat, ModelLoad, Spent, largest
from schemas.messages.run import Progress, Totals


def a_heartbeat(process: int, *loads: ModelLoad) -> Heartbeat:
    return Heartbeat(rows=1, rejects={"parse": 2}, failed_calls={"unreachable": 1}, process=process, loads=loads)


def test_each_process_counts_once_however_many_batches_report_it() -> None:
    work = WorkInProgress(
        Progress(state="running", detail="", totals=Totals(), rows_total=9, rows_done=0, rejected=0, running=())
    )
    a_load = ModelLoad(model="openai:m", in_flight=5, waiting=True, per_minute=60.0)
    another = ModelLoad(model="openai:m", in_flight=3, per_minute=40.0, out=True)
    for heartbeat in (a_heartbeat(1, a_load), a_heartbeat(1, a_load), a_heartbeat(2, another)):
        work.note(heartbeat)
    assert work.loads == [ModelLoad(model="openai:m", in_flight=8, waiting=True, per_minute=100.0, out=True)]
    assert (work.rows, work.rejects, work.failed_calls) == (3, {"parse": 6}, {"unreachable": 3})


def test_a_message_has_the_largest_classes_and_the_others_together() -> None:
    many = Counter({f"class{number}": number for number in range(1, 13)})
    found = largest(many)
    assert len(found) == 9
    assert found["class12"] == 12
    assert found["other"] == 1 + 2 + 3 + 4
    total = Spent(rejects=found) + Spent(rejects=found)
    assert sum(total.rejects.values()) == 2 * many.total()
