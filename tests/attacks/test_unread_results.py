"""Results with links that nobody has read do not outlive the revocation of their grants."""

import json
from collections.abc import Iterator
from typing import Any

import pytest
import redis
from celery import Celery

from tests.acceptance.conftest import storage_client
from tests.attacks.conftest import AttackTable
from tests.support.builders.messages import batch_id, grant_message
from tests.support.s3.http_requests import status
from tests.support.servers.programs import run_worker
from worker.dev.stack import Stack

KEYS = ["acme/a.pdf", "acme/b.pdf"]


class Producer:
    """A producer whose task ids are its own, and which reads no results."""

    def __init__(self, stack: Stack, celery: Celery, store: Any) -> None:
        self._stack, self._celery, self._store = stack, celery, store

    def leave(self, message: dict[str, Any], task_id: str | None = None) -> tuple[str, Any]:
        """Send a message; return the key of its result, and the result."""
        task = self._celery.send_task(
            "valetkey.issue", args=[message], queue="valetkey", task_id=task_id
        )
        values = task.get(timeout=60)  # which leaves the result where it is
        return f"celery-task-meta-{task.id}", values

    def left(self, keys: list[str]) -> list[str]:
        return [key for key in keys if self._store.exists(key)]

    def revoke(self, *words: str) -> dict[str, Any]:
        done = run_worker("revoke", *words, "--yes", "--json", env=self._stack.environ)
        result: dict[str, Any] = json.loads(done.stdout)["result"]
        return result


@pytest.fixture(scope="module")
def producer(stack: Stack) -> Iterator[Producer]:
    for key in KEYS:
        storage_client(stack).put_object(Bucket="valetkey-demo", Key=key, Body=b"content")
    with (
        Celery(broker=stack.info.broker_url, backend=stack.info.result_url) as celery,
        redis.Redis.from_url(stack.info.result_url) as store,
    ):
        yield Producer(stack, celery, store)


def test_no_unread_result_outlives_the_revocation_of_its_batch(
    producer: Producer, attack_table: AttackTable
) -> None:
    message = grant_message(KEYS)
    named, values = producer.leave(message, f"{message['batch']}.0")
    own, _ = producer.leave(message)
    ask = {"v": 1, "tenant": "acme"}
    again, _ = producer.leave(ask | {"ask": "batch", "batch": message["batch"], "chunk": 0})
    bundle = ask | {"ask": "bundle", "messages": [grant_message(KEYS), message]}
    bundled, _ = producer.leave(bundle)
    other, _ = producer.leave(grant_message(KEYS[1:]))
    keys = [named, own, again, bundled]
    assert producer.left(keys) == keys
    result = producer.revoke("--batch", message["batch"])
    assert status(values["items"][0]) == 403
    assert result["proven"] is True
    left = producer.left(keys)
    attack_table.add("unread results of a revoked batch", len(keys), len(left))
    assert left == []
    assert producer.left([other]) == [other]


def test_no_unread_result_of_a_reissued_grant_outlives_its_revocation(producer: Producer) -> None:
    _, values = producer.leave(grant_message(KEYS[:1]))
    header = {"v": 1, "ask": "reissue", "tenant": "acme", "requested_by": "support"}
    fresh: dict[str, Any] = header | {"batch": batch_id(), "of": values["items"][0]["id"]}
    key, reissued = producer.leave(fresh)
    assert reissued["status"] == "issued"
    producer.revoke("--batch", fresh["batch"])
    assert producer.left([key]) == []
