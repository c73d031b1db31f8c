"""A service that answers as a test tells it to: it can lose, double, fail and delay, on demand.

It pops Celery's messages and writes Celery's results, but decides nothing. The real service is
tested elsewhere; what it cannot do is misbehave when asked.
"""

import json
from base64 import urlsafe_b64decode
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from threading import Event, Thread
from typing import Any, Literal

import redis
from celery import Celery
from kombu.entity import Queue

from valetkey.config import results_beside
from valetkey.wire.messages import BULK_QUEUE, INTERACTIVE_QUEUE, grant_id, task_id

Act = Literal["answer", "twice", "unannounced", "lose", "fail", "garble"]
Plan = Callable[[dict[str, Any], int], Act]
Answer = Callable[[Any], Any]
_PREFIX = "celery-task-meta-"
_NEVER = datetime(2099, 1, 1, tzinfo=UTC)


class FakeService:
    """What arrived, and how it is answered.

    plan decides, from a message and how often its chunk arrived (1 the first time), what
    happens to it; answer makes the result of one that is answered, from what came off the wire.
    """

    def __init__(self, url: str, plan: Plan, answer: Answer) -> None:
        self.raw: list[Any] = []
        self.arrived: list[tuple[dict[str, Any], dict[str, Any]]] = []
        self.arrivals: Counter[str] = Counter()
        self._connection = Celery(set_as_current=False).connection_for_read(
            url, transport_options={"polling_interval": 0.1}
        )
        self._results = redis.Redis.from_url(results_beside(url) or url)
        self._plan = plan
        self._answer = answer
        self._stop = Event()

    def run(self) -> None:
        queues: list[Any] = [Queue(name) for name in (INTERACTIVE_QUEUE, BULK_QUEUE)]  # type: ignore[no-untyped-call]
        with self._connection.Consumer(queues, on_message=self._take, no_ack=True):
            while not self._stop.is_set():
                with suppress(TimeoutError):
                    self._connection.drain_events(timeout=0.1)
        self._connection.release()
        self._results.close()

    def stop(self) -> None:
        self._stop.set()

    def _take(self, delivery: Any) -> None:
        raw = delivery.payload[0][0]
        message = _content(raw)
        name = delivery.headers["id"]
        assert "items" not in message or name == task_id(message["batch"], message["chunk"])
        self.raw.append(raw)
        self.arrived.append((delivery.headers, message))
        self.arrivals[name] += 1
        act = self._plan(message, self.arrivals[name])
        if act == "lose":
            return
        text = json.dumps(_result(act, raw, self._answer))
        self._results.set(_PREFIX + name, text, ex=60)
        for _ in range({"unannounced": 0, "twice": 2}.get(act, 1)):
            self._results.publish(_PREFIX + name, text)


@contextmanager
def running_fake_service(
    url: str,
    plan: Plan = lambda _message, _arrival: "answer",
    decide: Answer | None = None,
) -> Iterator[FakeService]:
    """An answering service on this broker, until the block ends."""
    service = FakeService(url, plan, decide or grant_outcome)
    thread = Thread(target=service.run)
    thread.start()
    try:
        yield service
    finally:
        service.stop()
        thread.join()


def stored_results(url: str) -> dict[str, str]:
    """Every result that is in the store beside this broker, by its key."""
    with redis.Redis.from_url(results_beside(url) or url) as server:
        names = [name.decode() for name in server.keys(f"{_PREFIX}*")]
        return {name: (server.get(name) or b"").decode() for name in names}


def grant_outcome(message: dict[str, Any]) -> dict[str, Any]:
    """An outcome that grants all, but refuses keys that begin with `no/`."""
    first = message["chunk"] * message["chunk_size"]
    items = [_item(message, first + i, item) for i, item in enumerate(message["items"])]
    return _outcome(message, status="issued", items=items)


def refuse_outcome(message: dict[str, Any]) -> dict[str, Any]:
    """An outcome that refuses the whole batch for its quota."""
    quota = {
        "metric": "grants",
        "window": "day",
        "limit": 100,
        "used": 90,
        "asked": message["total"],
        "resets_at": "2026-11-25T00:00:00Z",
    }
    refusal = {"code": "quota_exceeded", "field": "total", "message": "over quota", "quota": quota}
    return _outcome(message, status="refused", refusal=refusal)


def _outcome(message: dict[str, Any], **rest: Any) -> dict[str, Any]:
    return {"batch": message["batch"], "chunk": message["chunk"], **rest}


def _item(message: dict[str, Any], number: int, item: dict[str, Any]) -> dict[str, Any]:
    key = item["key"]
    if key.startswith("no/"):
        return {"code": "key_outside_prefix", "field": "key", "message": "outside", "key": key}
    return {
        "id": grant_id(message["batch"], number),
        "key": key,
        "url": f"http://127.0.0.1/reports/{number}",
        "expires_at": _NEVER.isoformat(),
        "limited_by": "request",
        **_of_kind(message["grant"], item),
    }


def _of_kind(terms: dict[str, Any], item: dict[str, Any]) -> dict[str, Any]:
    """What the grants of one kind alone have, but for anything that storage would check."""
    match terms["kind"]:
        case "upload":
            return {"method": "POST", "fields": {"key": item["key"], "policy": "e30="}}
        case "put":
            headers = {
                "content-type": terms.get("content_type", "x/y"),
                "content-length": str(item["size"]),
            }
            return {"method": "PUT", "headers": headers}
        case "multipart":
            size = terms.get("part_size", 5 * 1024**2)
            count = -(-item["size"] // size)
            begun = {"upload_id": "u-1", "part_size": size, "part_count": count}
            return {"method": "POST", "multipart": {**begun, "abort_url": "http://127.0.0.1/abort"}}
        case "parts":
            return {"method": "PUT", "part": item["part"], "headers": {"content-length": "1"}}
    return {"method": terms.get("method", "GET")}


def _content(raw: Any) -> dict[str, Any]:
    """A message, also where it is signed; who signed it is not looked at."""
    if isinstance(raw, dict):
        return raw
    content: dict[str, Any] = json.loads(urlsafe_b64decode(raw.split(".")[1] + "==="))
    return content


def _result(act: Act, raw: Any, answer: Answer) -> Any:
    if act == "fail":
        failure = {"exc_type": "OperationalError", "exc_message": ["s3cret"], "exc_module": "x"}
        return {"status": "FAILURE", "result": failure, "traceback": "s3cret"}
    return {"status": "SUCCESS", "result": "?" if act == "garble" else answer(raw)}
