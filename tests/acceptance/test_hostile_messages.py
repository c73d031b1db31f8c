"""Messages that no client sends. tests/attacks has many more, which are to end a worker."""

import json
from datetime import UTC, datetime
from typing import Any

import pytest
import redis
from celery import Celery

from tests.acceptance.conftest import VAULT_KEY, Service
from tests.support.builders.messages import grant_message
from tests.support.crypto.tokens import sign_message
from tests.support.servers.waiting import wait_until


@pytest.fixture(scope="module")
def producer(service: Service) -> Celery:
    """A Celery application that knows only the broker and the result store."""
    info = service.stack.info
    return Celery("anyone", broker=info.broker_url, backend=info.result_url)


def send_request(producer: Celery, *args: Any, **kwargs: Any) -> dict[str, Any]:
    task = producer.send_task("valetkey.issue", args=args, kwargs=kwargs, queue="valetkey")
    outcome: dict[str, Any] = task.get(timeout=15)
    return outcome


def put_raw_message(service: Service, body: str, content_type: str, **headers: Any) -> None:
    """Put a raw message into the queue, in the format in which kombu stores it in Redis."""
    frame = {
        "body": body,
        "content-type": content_type,
        "content-encoding": "utf-8",
        "headers": {"task": "valetkey.issue", "id": "hostile"} | headers,
        "properties": {"delivery_tag": "t", "delivery_info": {"exchange": "", "routing_key": ""}},
    }
    broker = redis.Redis.from_url(service.stack.info.broker_url)
    broker.lpush("valetkey", json.dumps(frame))
    wait_until(lambda: broker.llen("valetkey") == 0, what="the worker takes the message")
    broker.close()


@pytest.mark.parametrize(
    ("args", "kwargs"),
    [
        ((), {}),
        ((grant_message(), 2), {}),
        ((), {"message": grant_message()}),
    ],
    ids=["none", "two", "by name"],
)
def test_wrong_arguments_are_refused_as_malformed(
    producer: Celery, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> None:
    assert send_request(producer, *args, **kwargs)["refusal"]["code"] == "malformed"


def test_a_token_in_a_frame_that_is_discarded_is_in_no_log(
    service: Service, producer: Celery
) -> None:
    message = grant_message(["vault/a"], tenant="vault")
    token = sign_message(message, VAULT_KEY, datetime.now(UTC))
    put_raw_message(service, json.dumps([[token], {}, None]), "application/json", timelimit="soon")
    put_raw_message(service, json.dumps([[token], {}, None]), "application/json", task="os.system")
    put_raw_message(service, token, "application/json")
    assert send_request(producer, grant_message())["status"] == "issued"
    assert not any(part in service.logs for part in token.split("."))
    assert "[hidden]" in service.logs
