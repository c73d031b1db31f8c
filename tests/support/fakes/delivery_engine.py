"""A delivery engine without a dispatcher: tests play the dispatcher."""

import json

from valetkey.crypto.codec import Codec, DecodedResult
from valetkey.delivery.engine import DeliveryEngine
from valetkey.delivery.in_flight import Send
from valetkey.delivery.pending_request import PendingRequest
from valetkey.delivery.retransmit import DEFAULT_WINDOW, RetransmitTimer
from valetkey.errors import SealedForAnotherKey


def stored_result(status: str = "SUCCESS", tenant: str = "acme") -> str:
    """Return the result of a usage message, as Celery stores it."""
    reply = {"status": "reported", "tenant": tenant, "quotas": []}
    return json.dumps({"status": status, "result": reply})


def decode(raw: bytes | str) -> DecodedResult:
    if raw == "sealed":
        raise SealedForAnotherKey("acme/2025-11")
    return Codec(None).decode(raw)


def new_engine(*requests: PendingRequest, window: int = DEFAULT_WINDOW) -> DeliveryEngine:
    engine = DeliveryEngine(RetransmitTimer(lambda: 0.0, window), decode)
    for request in requests:
        engine.add(request)
    return engine


def next_send(
    engine: DeliveryEngine, now: float = 0.0, limit: float = DEFAULT_WINDOW
) -> Send | None:
    """Read requests in turn, as a dispatcher does, until one message is to be sent."""
    engine.read_new(
        lambda request: request.next_message(engine.unread_limit(request, limit, now)), now
    )
    return engine.next_new()


def unsent(engine: DeliveryEngine) -> Send:
    """Read requests as next_send() does, and return the message that there is to be sent."""
    send = next_send(engine)
    assert send is not None
    return send


def send_all(engine: DeliveryEngine, now: float = 0.0, limit: float = DEFAULT_WINDOW) -> list[str]:
    """Send every message that may be sent now; return their task ids."""
    task_ids = []
    while (send := next_send(engine, now, limit)) is not None:
        engine.message_sent(send.message.task_id, now)
        task_ids.append(send.message.task_id)
    return task_ids


def resends(engine: DeliveryEngine, now: float) -> list[str]:
    return [send.message.task_id for send in engine.resends(now)]
