"""One reader on a queue of MiniStack's SQS, also while things go wrong."""

from collections.abc import Iterator
from itertools import chain, repeat
from typing import Any
from unittest.mock import DEFAULT, Mock

import pytest
import structlog

from models import StoredObject, Use
from tests.integration.uses.events.conftest import BUCKET, Intake
from tests.support.builders.messages import put_message
from tests.support.servers.waiting import wait_until
from tests.support.uses.notifications import TestQueue, aws_record, body
from worker.dev.embedded_servers import Storage
from worker.errors import Transient
from worker.uses import use_recorder
from worker.uses.events import event_messages
from worker.uses.events.event_notifications import ParsedBody, parse_body

Logs = list[Any]


@pytest.fixture(autouse=True)
def short_times(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let messages come again, and the reader try again, after a second."""
    monkeypatch.setattr("worker.uses.events.event_queues.VISIBILITY_SECONDS", 1)
    monkeypatch.setattr("worker.uses.events.queue_readers.DELAYS", (0.2,))


@pytest.fixture
def logs() -> Iterator[Logs]:
    with structlog.testing.capture_logs() as logs:
        yield logs


def stored_bodies(intake: Intake, count: int) -> list[str]:
    """Return messages that tell of the uses of so many grants."""
    sizes = {f"acme/{number}.png": 10 for number in range(count)}
    issued = intake.issue(put_message(sizes, overwrite=True))["items"]
    return [body(intake.stored(item["id"], item["key"])) for item in issued]


def items(intake: Intake) -> list[int]:
    return [number for (number,) in intake.rows(Use.item_number)]


def events(logs: Logs, *names: str) -> list[str]:
    return [line["event"] for line in logs if line["event"] in names]


def fail_at_first(
    monkeypatch: pytest.MonkeyPatch, module: Any, name: str, error: Exception, times: int = 1
) -> None:
    """Let a function raise before it does its work, for a number of calls."""
    effects = chain([error] * times, repeat(DEFAULT))
    monkeypatch.setattr(module, name, Mock(wraps=getattr(module, name), side_effect=effects))


def test_a_form_a_put_and_a_multipart_upload_are_recorded_once_storage_tells(
    intake: Intake, queue: TestQueue, storage: Storage
) -> None:
    queue.listen_to(storage, BUCKET)
    intake.one_of_each_kind()
    with intake.reading():
        wait_until(lambda: len(items(intake)) == 3, what="three uses are recorded")
        queue.wait_until_empty()
    columns = (Use.event, Use.source, Use.verdict, Use.size, Use.content_type, Use.remote_address)
    assert intake.rows(*columns) == [
        ("completed", "event", "as_granted", 12, "image/png", "127.0.0.1"),
        ("stored", "event", "as_granted", 3, "image/png", "127.0.0.1"),
        ("stored", "event", "as_granted", 5, "image/png", "127.0.0.1"),
    ]


def test_a_deleted_object_is_no_longer_stored(
    intake: Intake, queue: TestQueue, storage: Storage
) -> None:
    queue.listen_to(storage, BUCKET)
    grant = intake.put("acme/put", 3)
    intake.store(grant, b"123")
    with intake.reading():
        wait_until(lambda: len(items(intake)) == 1, what="the object is recorded")
        intake.owner.delete_object(Bucket=BUCKET, Key=grant.key)
        wait_until(lambda: len(items(intake)) == 2, what="its deletion is recorded")
    assert intake.rows(StoredObject.is_deleted, StoredObject.size) == [(True, 0)]


def test_many_messages_are_recorded_in_few_transactions(
    intake: Intake, queue: TestQueue, logs: Logs
) -> None:
    queue.send(*stored_bodies(intake, 45))
    with intake.reading():
        queue.wait_until_empty()
    assert items(intake) == list(range(45))
    assert len(events(logs, "events_handled")) < 5


def test_while_the_database_is_away_messages_wait_and_the_log_says_so_once(
    intake: Intake, queue: TestQueue, logs: Logs, monkeypatch: pytest.MonkeyPatch
) -> None:
    away = Transient("the database is unreachable, locked or without its tables", "database")
    fail_at_first(monkeypatch, event_messages, "record_uses", away, times=3)
    queue.send(*stored_bodies(intake, 3))
    with intake.reading():
        wait_until(lambda: items(intake) == [0, 1, 2], what="the uses are recorded")
        queue.wait_until_empty()
    assert events(logs, "events_wait", "events_resumed") == ["events_wait", "events_resumed"]


def test_a_transaction_that_fails_before_its_end_is_repeated_whole(
    intake: Intake, queue: TestQueue, monkeypatch: pytest.MonkeyPatch
) -> None:
    fail_at_first(monkeypatch, use_recorder, "append_use_leaves", Transient("away", "database"))
    queue.send(*stored_bodies(intake, 3))
    with intake.reading():
        wait_until(lambda: items(intake) == [0, 1, 2], what="the uses are recorded")


def test_a_message_that_raises_an_unexpected_error_holds_up_no_other_and_is_given_up(
    intake: Intake, queue: TestQueue, logs: Logs, monkeypatch: pytest.MonkeyPatch
) -> None:
    def parse_or_fail(text: str) -> ParsedBody:
        if text == "poison":
            raise ZeroDivisionError
        return parse_body(text)

    monkeypatch.setattr(event_messages, "parse_body", parse_or_fail)
    monkeypatch.setattr("worker.uses.events.queue_readers.MAX_FAULTS", 2)
    queue.send("poison", *stored_bodies(intake, 2))
    with intake.reading():
        wait_until(lambda: items(intake) == [0, 1], what="the others are recorded")
        wait_until(lambda: queue.counts() == (0, 0), what="the message is given up")
    names = events(logs, "event_failed", "event_discarded")
    assert names == ["event_failed", "event_failed", "event_discarded"]


def test_malformed_and_huge_messages_are_explained_in_one_line_and_deleted(
    queue: TestQueue, intake: Intake, logs: Logs
) -> None:
    foreign = body(aws_record("acme/someone's.png", intake.clock()))  # of another bucket
    queue.send("nonsense", "[" * 100_000, '{"Event": "s3:TestEvent"}', foreign)
    with intake.reading():
        queue.wait_until_empty()
    lines = [line for line in logs if line["event"] == "events_handled"]
    reasons: dict[str, int] = {}
    for line in lines:
        reasons |= line["ignored"]
    assert reasons.keys() == {"malformed", "test_event", "other_bucket"}
    assert sum(line["messages"] for line in lines) == 4
    assert "someone" not in str(logs)


def test_a_queue_that_does_not_exist_is_named_once_and_read_when_it_is_there(
    intake: Intake, queue: TestQueue, logs: Logs, sqs: Any
) -> None:
    name = queue.url.rpartition("/")[2]
    bodies = stored_bodies(intake, 1)
    sqs.delete_queue(QueueUrl=queue.url)
    with intake.reading():
        wait_until(lambda: events(logs, "events_wait"), what="the log names the queue")
        sqs.create_queue(QueueName=name)
        queue.send(*bodies)
        wait_until(lambda: items(intake) == [0], what="the use is recorded")
    (line,) = [line for line in logs if line["event"] == "events_wait"]
    assert line["queue"] == name
    assert line["problem"] == "SQS: AWS.SimpleQueueService.NonExistentQueue"
    assert queue.url not in str(logs)
