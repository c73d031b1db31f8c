"""One reader on a queue of MiniStack's SQS, while things go wrong."""

from collections.abc import Callable, Iterator
from typing import Any

import pytest
import structlog
from sqlalchemy import Engine, select

from models import Use
from tests.integration.uses.events.conftest import BUCKET, reading
from tests.support.builders.messages import Clock, put_message
from tests.support.builders.services import InProcessService
from tests.support.servers.waiting import wait_until
from tests.support.uses.notifications import TestQueue, aws_record, body, minio_record
from worker.core.uses.notifications.bodies import ParsedBody, parse_body
from worker.db.engine import read_transaction
from worker.errors import Transient
from worker.usecases.uses import record
from worker.usecases.uses.intake import message_group

Logs = list[Any]


@pytest.fixture(autouse=True)
def short_times(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let messages come again, and the reader try again, after a second."""
    monkeypatch.setattr("worker.aws.event_queues.VISIBILITY_SECONDS", 1)
    monkeypatch.setattr("worker.usecases.uses.intake.queue_reader.DELAYS", (0.2,))


@pytest.fixture
def logs() -> Iterator[Logs]:
    with structlog.testing.capture_logs() as logs:
        yield logs


def stored_bodies(service: InProcessService, clock: Clock, count: int) -> list[str]:
    """Return messages that tell of the uses of so many grants."""
    sizes = {f"acme/{number}.png": 10 for number in range(count)}
    items = service.issue(put_message(sizes, overwrite=True))["items"]
    records = [minio_record(item["key"], clock(), item["id"]) for item in items]
    for each in records:
        each["s3"]["bucket"]["name"] = BUCKET
    return [body(each) for each in records]


def items(engine: Engine) -> list[int]:
    with read_transaction(engine) as connection:
        return list(connection.scalars(select(Use.item_number).order_by(Use.item_number)))


def events(logs: Logs, *names: str) -> list[str]:
    return [line["event"] for line in logs if line["event"] in names]


def fail_at_first(
    monkeypatch: pytest.MonkeyPatch, module: Any, name: str, error: Exception, times: int = 1
) -> None:
    """Let a function raise before it does its work, for a number of calls."""
    function: Callable[..., Any] = getattr(module, name)
    left = [error] * times

    def run(*args: Any, **kwargs: Any) -> Any:
        if left:
            raise left.pop()
        return function(*args, **kwargs)

    monkeypatch.setattr(module, name, run)


def test_many_messages_are_recorded_in_few_transactions(
    engine: Engine, service: InProcessService, queue: TestQueue, clock: Clock, logs: Logs
) -> None:
    queue.send(*stored_bodies(service, clock, 45))
    with reading(queue, service.context):
        wait_until(lambda: queue.counts() == (0, 0), what="all messages are deleted")
    assert items(engine) == list(range(45))
    assert len(events(logs, "events_handled")) < 5


def test_while_the_database_is_away_messages_wait_and_the_log_says_so_once(
    engine: Engine,
    service: InProcessService,
    queue: TestQueue,
    clock: Clock,
    logs: Logs,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    away = Transient("the database is unreachable, locked or without its tables", "database")
    fail_at_first(monkeypatch, message_group, "record_uses", away, times=3)
    queue.send(*stored_bodies(service, clock, 3))
    with reading(queue, service.context):
        wait_until(lambda: items(engine) == [0, 1, 2], what="the uses are recorded")
        wait_until(lambda: queue.counts() == (0, 0), what="all messages are deleted")
    assert events(logs, "events_wait", "events_resumed") == ["events_wait", "events_resumed"]


def test_a_transaction_that_fails_before_its_end_is_repeated_whole(
    engine: Engine,
    service: InProcessService,
    queue: TestQueue,
    clock: Clock,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    fail_at_first(monkeypatch, record, "append_use_leaves", Transient("away", "database"))
    queue.send(*stored_bodies(service, clock, 3))
    with reading(queue, service.context):
        wait_until(lambda: items(engine) == [0, 1, 2], what="the uses are recorded")


def test_a_message_that_raises_an_unexpected_error_holds_up_no_other_and_is_given_up(
    engine: Engine,
    service: InProcessService,
    queue: TestQueue,
    clock: Clock,
    logs: Logs,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def parse_or_fail(text: str) -> ParsedBody:
        if text == "poison":
            raise ZeroDivisionError
        return parse_body(text)

    monkeypatch.setattr(message_group, "parse_body", parse_or_fail)
    monkeypatch.setattr("worker.usecases.uses.intake.queue_reader.MAX_FAULTS", 2)
    queue.send("poison", *stored_bodies(service, clock, 2))
    with reading(queue, service.context):
        wait_until(lambda: items(engine) == [0, 1], what="the others are recorded")
        wait_until(lambda: queue.counts() == (0, 0), what="the message is given up")
    names = events(logs, "event_failed", "event_discarded")
    assert names == ["event_failed", "event_failed", "event_discarded"]


def test_malformed_and_huge_messages_are_explained_in_one_line_and_deleted(
    queue: TestQueue, service: InProcessService, clock: Clock, logs: Logs
) -> None:
    foreign = body(aws_record("acme/someone's.png", clock()))  # of another bucket
    queue.send("nonsense", "[" * 100_000, '{"Event": "s3:TestEvent"}', foreign)
    with reading(queue, service.context):
        wait_until(lambda: queue.counts() == (0, 0), what="all messages are deleted")
    lines = [line for line in logs if line["event"] == "events_handled"]
    reasons: dict[str, int] = {}
    for line in lines:
        reasons |= line["ignored"]
    assert reasons.keys() == {"malformed", "test_event", "other_bucket"}
    assert sum(line["messages"] for line in lines) == 4
    assert "someone" not in str(logs)


def test_a_queue_that_does_not_exist_is_named_once_and_read_when_it_is_there(
    engine: Engine,
    service: InProcessService,
    queue: TestQueue,
    clock: Clock,
    logs: Logs,
    sqs: Any,
) -> None:
    name = queue.url.rpartition("/")[2]
    bodies = stored_bodies(service, clock, 1)
    sqs.delete_queue(QueueUrl=queue.url)
    with reading(queue, service.context):
        wait_until(lambda: events(logs, "events_wait"), what="the log names the queue")
        sqs.create_queue(QueueName=name)
        queue.send(*bodies)
        wait_until(lambda: items(engine) == [0], what="the use is recorded")
    (line,) = [line for line in logs if line["event"] == "events_wait"]
    assert (line["queue"], line["problem"]) == (
        name,
        "SQS: AWS.SimpleQueueService.NonExistentQueue",
    )
    assert queue.url not in str(logs)
