"""`doctor` asks the queues of event notifications, and for the workers that read them."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import boto3
import pytest
from click.testing import CliRunner

from tests.support.cli.live_doctor import store_profiles
from tests.support.uses.notifications import TestQueue
from worker.commands.health.doctor import doctor
from worker.commands.health.event_checks import check_readers
from worker.core.tenants.config import Bucket
from worker.devstack.storage import Storage


@pytest.fixture
def queue(ministack: Storage, monkeypatch: pytest.MonkeyPatch) -> Iterator[TestQueue]:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", ministack.access_key)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", ministack.secret_key)
    sqs = boto3.client("sqs", "us-east-1", endpoint_url=ministack.endpoint)
    queue = TestQueue(sqs)
    yield queue
    sqs.delete_queue(QueueUrl=queue.url)
    sqs.close()


def event_checks(
    folder: Path, monkeypatch: pytest.MonkeyPatch, queue_url: str, *options: str
) -> list[dict[str, Any]]:
    bucket = Bucket(
        "demo", "events", "us-east-1", "path", "http://127.0.0.1:9", events_queue=queue_url
    )
    monkeypatch.setenv("VALETKEY_DATABASE_URL", store_profiles(folder, bucket))
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


def test_offline_asks_no_queue(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    url = "http://127.0.0.1:9/1/uploads"
    assert event_checks(tmp_path, monkeypatch, url, "--offline") == []


def test_a_queue_that_no_worker_reads_is_a_warning() -> None:
    checks = list(check_readers(["uploads", "videos"], {"valetkey", "events:videos"}))
    assert [(check.state, check.hint) for check in checks] == [
        ("warn", "python -m worker run --only events")
    ]
    assert "uploads" in checks[0].message


def test_without_the_result_store_nothing_is_said_of_workers() -> None:
    assert list(check_readers(["uploads"], None)) == []
