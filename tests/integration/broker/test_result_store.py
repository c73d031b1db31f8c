import json
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from types import SimpleNamespace
from typing import Any

import pytest
import redis
from celery import Celery
from celery.exceptions import Retry
from structlog.testing import capture_logs

from worker import clock
from worker.broker.result_store import ResultStore, request_name, unnamed_batches
from worker.rules.decisions import Reply

REQUEST = SimpleNamespace(children=[], group=None, parent_id=None, chord=None, ignore_result=False)


@pytest.fixture
def store(broker: str) -> ResultStore:
    app = Celery(backend=f"worker.broker.result_store:ResultStore+{broker}", set_as_current=False)
    app.conf.update(result_expires=900, result_serializer="json")
    assert isinstance(app.backend, ResultStore)
    return app.backend


def request_until(**duration: float) -> Any:
    return SimpleNamespace(**vars(REQUEST), expires_at=clock.now() + timedelta(**duration))


def request_of(tenant: str, batch: str = "a", chunk: int = 0) -> Any:
    name = request_name(tenant, {"batch": batch, "chunk": chunk})
    return SimpleNamespace(**vars(REQUEST), request_name=name)


@pytest.mark.parametrize(("minutes", "seconds"), [(None, 900), (2, 120), (120, 900), (-1, 1)])
def test_a_result_is_kept_until_its_first_grant_expires(
    broker: str, store: ResultStore, minutes: float | None, seconds: int
) -> None:
    request = REQUEST if minutes is None else request_until(minutes=minutes)
    store.store_result("1", "sealed", "SUCCESS", request=request)
    with redis.Redis.from_url(broker) as server:
        assert seconds - 10 < server.ttl("celery-task-meta-1") <= seconds


def test_only_the_cause_of_a_retry_is_stored(store: ResultStore) -> None:
    store.mark_as_retry("1", Retry("cancelled by Celery"), request=REQUEST)  # the broker is lost
    assert store.get_task_meta("1", cache=False)["status"] == "PENDING"
    store.mark_as_retry("1", ValueError("away"), request=REQUEST)
    assert store.get_task_meta("1", cache=False)["status"] == "RETRY"


@pytest.mark.parametrize("stored", [None, REQUEST, request_of("acme")])
def test_a_result_replaces_that_of_the_same_request_and_those_of_nobody(
    store: ResultStore, stored: Any
) -> None:
    store.store_result("1", "before", "SUCCESS", request=stored)
    store.store_result("1", "sealed", "SUCCESS", request=request_of("acme"))
    assert store.get_task_meta("1", cache=False)["result"] == "sealed"


@pytest.mark.parametrize(
    ("state", "request_"),
    [
        ("RETRY", request_of("acme")),
        ("FAILURE", request_of("acme")),
        ("SUCCESS", None),
        ("SUCCESS", REQUEST),
        ("SUCCESS", request_of("other")),
        ("SUCCESS", request_of("acme", batch="b")),
        ("SUCCESS", request_of("acme", chunk=1)),
    ],
)
def test_nothing_else_replaces_the_result_of_a_request(
    store: ResultStore, state: str, request_: Any
) -> None:
    store.store_result("1", "sealed", "SUCCESS", request=request_of("acme"))
    failure = {"exc_type": "A", "exc_message": [], "exc_module": "b"}
    with capture_logs() as log:
        store.store_result("1", failure, state, request=request_)
    assert store.get_task_meta("1", cache=False)["result"] == "sealed"
    assert [(line["event"], line["task"]) for line in log] == [("result_not_stored", "1")]


def test_a_result_takes_the_place_of_a_list(broker: str, store: ResultStore) -> None:
    with redis.Redis.from_url(broker) as server:
        server.lpush("celery-task-meta-1", "forged")
    store.store_result("1", "sealed", "SUCCESS", request=REQUEST)
    assert store.get_task_meta("1", cache=False)["result"] == "sealed"


def test_of_results_that_are_stored_at_once_the_first_one_stays(
    broker: str, store: ResultStore
) -> None:
    def store_one(tenant: str) -> None:
        store.store_result("1", tenant, "SUCCESS", request=request_of(tenant))

    tenants = [f"tenant-{number}" for number in range(40)]
    with redis.Redis.from_url(broker) as server, server.pubsub() as listener:
        listener.subscribe("celery-task-meta-1")
        listener.get_message(timeout=5)
        with ThreadPoolExecutor(8) as pool:
            list(pool.map(store_one, tenants))
        announced = [listener.get_message(timeout=5) for _ in tenants]
    results = [json.loads(event["data"])["result"] for event in announced if event]
    assert sorted(results) == sorted(tenants)  # each one's sender may listen
    assert store.get_task_meta("1", cache=False)["result"] == results[0]


def test_the_refusal_of_a_conflict_replaces_no_result() -> None:
    assert request_name("acme", {"batch": "a", "refusal": {"code": "batch_conflict"}}) is None
    assert request_name("acme", {"batch": "a", "refusal": {"code": "quota_exceeded"}}) is not None


def test_a_result_is_found_by_its_batches_for_as_long_as_it_is_kept(
    broker: str, store: ResultStore
) -> None:
    request = SimpleNamespace(**vars(request_of("acme")), batches=["a", "b"])
    store.store_result("1", "sealed", "SUCCESS", request=request)
    with redis.Redis.from_url(broker) as server:
        for name in ("valetkey.results.a", "valetkey.results.b"):
            assert server.smembers(name) == {b"1"}
            assert 890 < server.ttl(name) <= 900


EXPIRES_AT = datetime(2026, 12, 3, tzinfo=UTC)


@pytest.mark.parametrize(
    ("task_id", "batches"), [("a.0", []), ("a.1", ["a"]), ("x", ["a"]), ("bundle.x", [])]
)
def test_only_results_with_links_that_are_not_named_after_their_batch_are_indexed(
    task_id: str, batches: list[str]
) -> None:
    granted = Reply({"batch": "a", "chunk": 0}, issued=1, expires_at=EXPIRES_AT)
    outcomes = [granted, Reply({"batch": "b", "chunk": 0}, refused=1)]
    assert unnamed_batches(task_id, outcomes) == batches


def test_the_result_of_a_task_is_announced(broker: str, store: ResultStore) -> None:
    with redis.Redis.from_url(broker) as server, server.pubsub() as listener:
        listener.subscribe("celery-task-meta-1")
        store.store_result("1", "sealed", "SUCCESS", request=REQUEST)
        events = [listener.get_message(timeout=5) for _ in range(2)]
        assert events[1] is not None
        assert events[1]["data"] == server.get("celery-task-meta-1")


def test_a_result_that_cannot_be_stored_is_no_failure_of_its_task() -> None:
    store = ResultStore(app=Celery(set_as_current=False), url="redis://:s3cret@127.0.0.1:1/1")
    store.retry_policy = {"max_retries": 1, "interval_start": 0}
    with capture_logs() as log:
        store.mark_as_done("1", "sealed", REQUEST, True)
    assert [(line["event"], line["task"]) for line in log] == [("result_not_stored", "1")]
    assert "connection refused" in log[0]["problem"]
    assert "s3cret" not in repr(log)
