"""The intake of events: what it gives up, when it waits, and that it ends if it hangs."""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from threading import Event
from types import SimpleNamespace
from typing import Any
from unittest.mock import Mock

import pytest

from worker.base.clock_watch import WATCH
from worker.base.jobs import HANG_TIME
from worker.base.progress import STOP_TIMEOUT
from worker.uses.events import event_intake, queue_readers
from worker.uses.events.event_messages import MessageGroup
from worker.uses.events.event_queues import QueueMessage, QueueUnusable
from worker.uses.events.queue_readers import MAX_FAULTS, QueueReader, QueueReaders


class FakeQueue(Event):
    """Hands over the messages of each poll, and is the event that stops the reader after them."""

    name = "fake"

    def __init__(self, polls: Sequence[list[str]]) -> None:
        super().__init__()
        self.polls = list(polls)
        self.deleted: list[str] = []
        self.waits = 0

    def receive(self, _seconds: int) -> list[QueueMessage]:
        if not self.polls:
            self.set()
            return []
        return [QueueMessage(body, "", body, MAX_FAULTS) for body in self.polls.pop(0)]

    def delete(self, messages: list[QueueMessage]) -> int:
        self.deleted += [message.body for message in messages]
        return 0

    def wait(self, timeout: float | None = None) -> bool:
        self.waits += timeout is not None and not self.is_set()
        return False


def read(monkeypatch: pytest.MonkeyPatch, *polls: list[str]) -> FakeQueue:
    """Read a queue in which messages are poison, or tell of uses."""

    def handle(group: MessageGroup) -> None:
        if any(message.body == "poison" for message in group.messages):
            raise ZeroDivisionError

    monkeypatch.setattr(MessageGroup, "handle", handle)
    monkeypatch.setattr(queue_readers, "queue_targets", Mock())
    queue: Any = FakeQueue(polls)
    context: Any = SimpleNamespace(now=lambda: None, config=Mock())
    with ThreadPoolExecutor(1) as threads:
        QueueReader("", queue, context, threads).run(queue)
    assert isinstance(queue, FakeQueue)
    return queue


def test_if_every_message_fails_none_is_deleted_and_the_next_poll_waits(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    queue = read(monkeypatch, ["poison"], ["poison", "poison"])
    assert (queue.deleted, queue.waits) == ([], 2)


def test_a_message_that_fails_alone_is_given_up_if_others_were_handled_just_before(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    assert read(monkeypatch, ["a"], ["poison"]).deleted == ["a", "poison"]


def test_the_code_of_a_server_enters_the_log_clean_and_short() -> None:
    text = str(QueueUnusable("AWS.NonExistent\nqueue_read url=http://x/" + "y" * 10_000))
    assert text.startswith("SQS: AWS.NonExistentqueue_readurl")
    assert len(text) < 120


def test_the_next_poll_waits_after_one_that_found_nothing_and_did_not_wait_itself(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    assert read(monkeypatch, [], [], ["a"]).waits == 2


class Ended(Exception):
    """The process would have ended."""


@pytest.fixture(autouse=True)
def sleeps(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Let nothing wait, and return the times for which it would have waited."""
    sleeps: list[float] = []

    def end(_code: int) -> None:
        raise Ended

    monkeypatch.setattr(event_intake, "_WATCH_INTERVAL", 0)
    monkeypatch.setattr(event_intake, "time", SimpleNamespace(sleep=sleeps.append))
    monkeypatch.setattr(event_intake, "os", SimpleNamespace(_exit=end))
    return sleeps


def test_a_process_without_progress_ends_after_a_while(sleeps: list[float]) -> None:
    idle = iter([0.0, HANG_TIME - 1, HANG_TIME, HANG_TIME])
    with pytest.raises(Ended):
        event_intake.end_hung_process(lambda: next(idle), Event())
    assert (list(idle), sleeps) == ([], [])


def test_a_process_that_is_told_to_stop_and_hangs_ends_before_it_is_killed(
    sleeps: list[float],
) -> None:
    stop = Event()
    stop.set()
    with pytest.raises(Ended):
        event_intake.end_hung_process(lambda: 0.0, stop)
    assert len(sleeps) == 1
    assert 10 < sleeps[0] < STOP_TIMEOUT


@pytest.mark.parametrize(
    ("loop", "readers", "idle"), [(7, (), 3), (7, (9, 8), 3), (9, (10, 2), 8), (4, (9,), 6)]
)
def test_the_part_that_made_no_progress_for_the_longest_time_counts(
    loop: float, readers: tuple[float, ...], idle: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    times = iter([loop, 10.0])
    monkeypatch.setattr(queue_readers, "time", SimpleNamespace(monotonic=lambda: next(times)))
    context: Any = None
    running: Any = SimpleNamespace(readers=[SimpleNamespace(progress_at=at) for at in readers])
    queues: Any = QueueReaders(context)
    queues._running = {"a queue": running}
    assert queues.idle_seconds() == idle


def test_no_queue_is_read_while_the_clock_is_wrong(monkeypatch: pytest.MonkeyPatch) -> None:
    context: Any = None
    queues: Any = QueueReaders(context)
    stopped: list[str] = []
    queues._running = {"a queue": None}
    monkeypatch.setattr(queues, "_stop", stopped.extend)
    monkeypatch.setattr(WATCH, "problems", {"own_clock": "an hour ahead"})
    queues._update()
    assert stopped == ["a queue"]
