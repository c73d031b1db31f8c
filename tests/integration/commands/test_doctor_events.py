"""`doctor` asks the queues of event notifications, and for the workers that read them."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import boto3
import pytest
from click.testing import CliRunner

from tests.support.cli.live_doctor import store_profiles
from tests.support.fakes.http_storage import StorageResponse, running_http_storage
from tests.support.uses.notifications import TestQueue
from worker.aws.event_queues import queue_id
from worker.commands.health import event_checks as checks_of_events
from worker.commands.health.doctor import doctor
from worker.commands.health.event_checks import check_readers
from worker.core.tenants.config import Bucket
from worker.devstack.storage import Storage

UPLOADS, VIDEOS = (f"http://sqs/111122223333/{name}" for name in ("uploads", "videos"))


@pytest.fixture
def queue(ministack: Storage, monkeypatch: pytest.MonkeyPatch) -> Iterator[TestQueue]:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", ministack.access_key)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", ministack.secret_key)
    sqs = boto3.client("sqs", "us-east-1", endpoint_url=ministack.endpoint)
    queue = TestQueue(sqs)
    yield queue
    sqs.delete_queue(QueueUrl=queue.url)
    sqs.close()


def bucket(queue_url: str) -> Bucket:
    endpoint = "http://127.0.0.1:9"
    return Bucket("demo", "events", "us-east-1", "path", endpoint, events_queue=queue_url)


def event_checks(
    folder: Path, monkeypatch: pytest.MonkeyPatch, queue_url: str, *options: str
) -> list[dict[str, Any]]:
    profiles = store_profiles(folder, bucket(queue_url))
    monkeypatch.setenv("VALETKEY_DATABASE_URL", profiles)
    monkeypatch.setenv("VALETKEY_BROKER_URL", "redis://127.0.0.1:1/0")
    result = CliRunner().invoke(doctor, ["--json", *options])
    checks = [json.loads(line) for line in result.stdout.splitlines()]
    return [check for check in checks if check["check"] == "events"]


def test_a_queue_that_can_be_used_is_ok(
    queue: TestQueue, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    queue.send("one")
    (check,) = event_checks(tmp_path, monkeypatch, queue.url)
    name = queue.url.rpartition("/")[2]
    assert check["state"] == "ok"
    assert check["message"] == f"demo: the queue {name} can be used; 1 messages wait"


def test_a_queue_that_does_not_exist_is_named(
    queue: TestQueue, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (check,) = event_checks(tmp_path, monkeypatch, f"{queue.url}-missing")
    assert (check["state"], check["hint"]) == ("fail", "create the queue, or correct events_queue")
    assert "NonExistentQueue" in check["message"]


def test_a_queue_that_does_not_answer_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "AKIDEXAMPLE")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "not-a-secret")
    (check,) = event_checks(tmp_path, monkeypatch, "http://127.0.0.1:9/1/uploads")
    assert check["state"] == "fail"
    assert check["message"].startswith("demo: the queue uploads cannot be used: EndpointConnection")


def test_a_queue_that_does_not_answer_in_time_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def wait(*_: Any) -> None:
        raise TimeoutError

    monkeypatch.setattr(checks_of_events, "call_with_timeout", wait)
    (check,) = event_checks(tmp_path, monkeypatch, UPLOADS)
    assert check["message"] == "demo: the queue uploads does not answer: in time"


@pytest.mark.parametrize("type_", ["text/html", "application/json"])
def test_a_server_that_is_not_sqs_is_no_empty_queue(
    type_: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "AKIDEXAMPLE")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "not-a-secret")
    response = StorageResponse(200, {"content-type": type_}, b"{}")
    with running_http_storage(lambda _: response) as server:
        (check,) = event_checks(tmp_path, monkeypatch, f"{server.url}/1/uploads")
    assert check["message"] == "demo: the queue uploads cannot be used: NotSQS"


def test_offline_asks_no_queue(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    url = "http://127.0.0.1:9/1/uploads"
    assert event_checks(tmp_path, monkeypatch, url, "--offline") == []


def test_a_queue_that_no_worker_reads_is_a_warning() -> None:
    queues = [(url, bucket(url)) for url in (UPLOADS, VIDEOS)]
    checks = list(check_readers(queues, {"valetkey", f"events:{queue_id(VIDEOS)}"}))
    assert [(check.state, check.hint) for check in checks] == [
        ("warn", "python -m worker run --only events")
    ]
    assert "demo: no worker reads the queue uploads" in checks[0].message


def test_a_queue_that_no_worker_reads_is_not_taken_for_another_of_the_same_name() -> None:
    namesake = UPLOADS.replace("sqs", "another")
    (check,) = check_readers([(UPLOADS, bucket(UPLOADS))], {f"events:{queue_id(namesake)}"})
    assert check.state == "warn"


def test_without_the_result_store_nothing_is_said_of_workers() -> None:
    assert list(check_readers([(UPLOADS, bucket(UPLOADS))], None)) == []
