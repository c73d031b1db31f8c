"""Bundles that an engine has sent, and the answers to them."""

import json
from typing import Any

from tests.support.fakes.delivery_engine import new_engine, unsent
from tests.support.fakes.fake_service import grant_outcome
from tests.support.fakes.pending_requests import small_request
from valetkey.delivery.engine import DeliveryEngine
from valetkey.delivery.in_flight import Send
from valetkey.delivery.progress import BatchProgress
from valetkey.wire.replies import Grant


def task_id(request: BatchProgress) -> str:
    """Return the task id of a request of one message."""
    return f"{request.id}.0"


def send_bundle(engine: DeliveryEngine, *requests: BatchProgress) -> Send:
    """Send a bundle of requests that are in the engine."""
    send = unsent(engine)
    assert [message["batch"] for message in send.message.body["messages"]] == [
        request.id for request in requests
    ]
    engine.message_sent(send.message.task_id, 0.0)
    return send


def stored(result: Any, status: str = "SUCCESS") -> str:
    """Return a result as Celery stores it."""
    return json.dumps({"status": status, "result": result})


def sent_bundle(*keys: str) -> tuple[DeliveryEngine, list[BatchProgress], Send]:
    """Send requests for these keys in a bundle; return their engine, them, and the message."""
    requests = [small_request(key) for key in keys]
    engine = new_engine(*requests)
    return engine, requests, send_bundle(engine, *requests)


def answer(send: Send, *, without: BatchProgress | None = None) -> str:
    """Return the stored reply to a bundle, without that of one request."""
    messages = send.message.body["messages"]
    left = [message for message in messages if without is None or message["batch"] != without.id]
    return stored({"status": "bundled", "replies": [grant_outcome(message) for message in left]})


def granted(request: BatchProgress) -> bool:
    """Read the next result of a request; return false if there is none, or if it is no grant."""
    if not request.has_next_chunk:
        return False
    request.read_next_chunk()
    return isinstance(request.ready_results.popleft(), Grant)
