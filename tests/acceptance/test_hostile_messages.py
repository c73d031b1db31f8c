"""What reaches the queue from a stranger: it is refused or thrown away, and the worker lives."""

import base64
import json
import pickle
from typing import Any

import pytest
import redis
from celery import Celery

from tests.acceptance.conftest import Service
from tests.requests import message, uploading
from tests.waiting import wait_until

PICKLE = base64.b64encode(pickle.dumps(message())).decode()


@pytest.fixture
def producer(service: Service) -> Celery:
    """Any Celery application: it knows the broker, and nothing of ours."""
    running = service.up.running
    return Celery("anyone", broker=running.broker_url, backend=running.result_url)


def sent(producer: Celery, *args: Any, **kwargs: Any) -> dict[str, Any]:
    task = producer.send_task("valetkey.issue", args=args, kwargs=kwargs, queue="valetkey")
    outcome: dict[str, Any] = task.get(timeout=15)
    return outcome


def put(service: Service, body: str, content_type: str, **headers: Any) -> None:
    """Put a raw message into the queue, in kombu's frame on Redis."""
    frame = {
        "body": body,
        "content-type": content_type,
        "content-encoding": "utf-8",
        "headers": {"task": "valetkey.issue", "id": "hostile"} | headers,
        "properties": {"delivery_tag": "t", "delivery_info": {"exchange": "", "routing_key": ""}},
    }
    broker = redis.Redis.from_url(service.up.running.broker_url)
    broker.lpush("valetkey", json.dumps(frame))
    wait_until(lambda: broker.llen("valetkey") == 0, what="the message is taken")
    broker.close()


def test_a_plain_celery_producer_is_answered(producer: Celery) -> None:
    assert sent(producer, message())["items"][0]["method"] == "GET"
    assert sent(producer, uploading(["acme/x.png"]))["items"][0]["method"] == "POST"


@pytest.mark.parametrize(
    ("args", "kwargs"),
    [((), {}), ((message(), 2), {}), ((), {"message": message()}), (("text",), {}), (([],), {})],
)
def test_wrong_arguments_are_refused_as_malformed(
    producer: Celery, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> None:
    assert sent(producer, *args, **kwargs)["refusal"]["code"] == "malformed"


@pytest.mark.parametrize(
    ("body", "content_type"),
    [
        ("{not json", "application/json"),
        (PICKLE, "application/x-python-serialize"),
        ("- yaml", "application/x-yaml"),
        ("[" * 100_000, "application/json"),
        ("null", "application/json"),
        ("7", "application/json"),
        ('{"no": "arguments"}', "application/json"),
        ('{"args": 7}', "application/json"),
        ("[1, 2]", "application/json"),
        ("[[], [], []]", "application/json"),
    ],
)
def test_a_body_that_is_no_json_call_is_thrown_away(
    service: Service, producer: Celery, body: str, content_type: str
) -> None:
    put(service, body, content_type)
    assert sent(producer, message())["status"] == "issued"


@pytest.mark.parametrize(
    "headers",
    [
        {"id": None},
        {"id": ["a"]},
        {"task": ["valetkey.issue"]},
        {"task": None},
        {"timelimit": "soon"},
        {"timelimit": ["soon", 1]},
        {"eta": "soon"},
        {"eta": 7},
        {"expires": "never"},
        {"expires": {}},
        {"retries": "often"},
        {"shadow": []},
    ],
)
def test_headers_that_celery_would_not_send_are_thrown_away(
    service: Service, producer: Celery, headers: dict[str, Any]
) -> None:
    put(service, json.dumps([[message()], {}, None]), "application/json", **headers)
    assert sent(producer, message())["status"] == "issued"


def test_a_task_that_does_not_exist_is_thrown_away(producer: Celery) -> None:
    producer.send_task("os.system", args=["true"], queue="valetkey")
    assert sent(producer, message())["status"] == "issued"


def test_a_refusal_reaches_the_caller_without_a_traceback(producer: Celery) -> None:
    task = producer.send_task("valetkey.issue", args=[message(v=9)], queue="valetkey")
    assert task.get(timeout=15)["refusal"]["code"] == "version_unknown"
    assert task.traceback is None
