"""A service that replies as a test tells it to: it can lose, double, fail and delay results.

It reads Celery's messages and writes Celery's results, but decides nothing. Other tests run the
real service, which cannot misbehave on demand.
"""

import json
import time
from base64 import urlsafe_b64decode
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from threading import Event, Thread
from typing import Any, Literal

import redis
from celery import Celery
from kombu.entity import Queue

from valetkey.redis_urls import default_result_url
from valetkey.wire import BULK_QUEUE, INTERACTIVE_QUEUE
from valetkey.wire.grant_ids import grant_id
from valetkey.wire.messages import task_id
from valetkey.wire.unavailable import Unavailable
from worker.issue.dispatch import describe_service

Action = Literal["answer", "twice", "unannounced", "lose", "fail", "garble", "wait", "give up"]
Plan = Callable[[dict[str, Any], int], Action]
Decide = Callable[[Any], Any]
_RESULT_PREFIX = "celery-task-meta-"
_FAR_FUTURE = datetime(2099, 1, 1, tzinfo=UTC)


class FakeService:
    """A worker of the fake service, and the messages that it received.

    plan returns the action for a message, given the message and how often its task arrived, from 1.
    decide returns the reply to a raw task argument. received has the headers and the body of each
    message, arrivals the number of arrivals of each task, with those in bundles. describe returns
    the reply to an unsigned message that asks for the service; such messages are only counted, in
    described.
    """

    def __init__(self, url: str, plan: Plan, decide: Decide, describe: Decide) -> None:
        self.described = 0
        self._describe = describe
        self.raw: list[Any] = []
        self.received: list[tuple[dict[str, Any], dict[str, Any]]] = []
        self.arrivals: Counter[str] = Counter()
        self._connection = Celery(set_as_current=False).connection_for_read(
            url, transport_options={"polling_interval": 0.1}
        )
        self._results = redis.Redis.from_url(default_result_url(url) or url)
        self._plan = plan
        self._decide = decide
        self._stop_event = Event()

    def run(self) -> None:
        queues: list[Any] = [Queue(name) for name in (INTERACTIVE_QUEUE, BULK_QUEUE)]  # type: ignore[no-untyped-call]
        with self._connection.Consumer(queues, on_message=self._handle, no_ack=True):
            while not self._stop_event.is_set():
                with suppress(TimeoutError):
                    self._connection.drain_events(timeout=0.1)
        self._connection.release()
        self._results.close()

    def stop(self) -> None:
        self._stop_event.set()

    def _handle(self, delivery: Any) -> None:
        raw = delivery.payload[0][0]
        message = _read_message(raw)
        name = delivery.headers["id"]
        is_chunk = "items" in message and message.get("ask") != "status"
        assert not is_chunk or name == task_id(message["batch"], message["chunk"])
        if message.get("ask") == "service":
            self.described += 1
            reply = self._describe(raw) if isinstance(raw, dict) else self._decide(raw)
            self._store(name, {"status": "SUCCESS", "result": reply}, "answer")
            return
        self.raw.append(raw)
        if message.get("ask") == "bundle" and isinstance(raw, dict):
            self._handle_bundle(name, delivery.headers, message)
            return
        action = self._receive(name, delivery.headers, message)
        if action != "lose":
            self._store(name, _celery_result(action, raw, self._decide), action)

    def _handle_bundle(self, name: str, headers: dict[str, Any], bundle: dict[str, Any]) -> None:
        """Reply to each message of a bundle whose action is to answer."""
        actions = [
            self._receive(task_id(message["batch"], message["chunk"]), headers, message)
            for message in bundle["messages"]
        ]
        replies = [
            self._decide(message)
            for message, action in zip(bundle["messages"], actions, strict=True)
            if action in {"answer", "twice", "unannounced"}
        ]
        action: Action = "unannounced" if "unannounced" in actions else "answer"
        if set(actions) != {"lose"}:
            result = {"status": "bundled", "replies": replies}
            self._store(name, {"status": "SUCCESS", "result": result}, action)

    def _receive(self, name: str, headers: dict[str, Any], message: dict[str, Any]) -> Action:
        self.received.append((headers, message))
        self.arrivals[name] += 1
        return self._plan(message, self.arrivals[name])

    def _store(self, name: str, result: Any, action: Action) -> None:
        text = json.dumps(result)
        self._results.set(_RESULT_PREFIX + name, text, ex=60)
        for _ in range({"unannounced": 0, "twice": 2}.get(action, 1)):
            self._results.publish(_RESULT_PREFIX + name, text)


@contextmanager
def running_fake_service(
    url: str,
    plan: Plan = lambda _message, _arrival: "answer",
    decide: Decide | None = None,
    describe: Decide | None = None,
) -> Iterator[FakeService]:
    service = FakeService(url, plan, decide or grant_outcome, describe or describe_today)
    thread = Thread(target=service.run)
    thread.start()
    try:
        yield service
    finally:
        service.stop()
        thread.join()


def record(keys: Iterable[str], keys_read: list[str]) -> Iterator[str]:
    """Yield keys; list those that were read."""
    for key in keys:
        keys_read.append(key)
        yield key


def stored_results(url: str) -> dict[str, str]:
    """Return every result in the store beside this broker, by its Redis key."""
    with redis.Redis.from_url(default_result_url(url) or url) as server:
        names = [name.decode() for name in server.keys(f"{_RESULT_PREFIX}*")]
        return {name: (server.get(name) or b"").decode() for name in names}


def grant_outcome(message: dict[str, Any]) -> dict[str, Any]:
    """Return an outcome that grants every item, except keys that begin with `no/`."""
    first = message["chunk"] * message["chunk_size"]
    items = [
        _item_result(message, first + i, item) | {k: v for k, v in item.items() if k == "ref"}
        for i, item in enumerate(message["items"])
    ]
    return _outcome(message, status="issued", items=items)


def describe_today(message: dict[str, Any]) -> dict[str, Any]:
    """Return the description of a service of this release."""
    return describe_service(message["tenant"]).model_dump(mode="json")


def refuse_outcome(message: dict[str, Any]) -> dict[str, Any]:
    """Return an outcome that refuses the whole batch for its quota."""
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


def _outcome(message: dict[str, Any], **fields: Any) -> dict[str, Any]:
    return {"batch": message["batch"], "chunk": message["chunk"], **fields}


def _item_result(message: dict[str, Any], number: int, item: dict[str, Any]) -> dict[str, Any]:
    key = item["key"]
    if key.startswith("no/"):
        field = f"items[{number - message['chunk'] * message['chunk_size']}].key"
        return {"code": "key_outside_prefix", "field": field, "message": "outside", "key": key}
    return {
        "id": grant_id(message["batch"], number),
        "key": key,
        "url": f"http://127.0.0.1/reports/{number}",
        "expires_at": _FAR_FUTURE.isoformat(),
        "limited_by": "request",
        **_fields_of_kind(message["grant"], item),
    }


def _fields_of_kind(terms: dict[str, Any], item: dict[str, Any]) -> dict[str, Any]:
    """Return the fields that only grants of one kind have; storage would accept none of them."""
    match terms["kind"]:
        case "upload":
            return {"method": "POST", "fields": {"key": item["key"], "policy": "e30="}}
        case "put":
            headers = {"content-type": terms.get("content_type", "x/y")}
            headers["content-length"] = str(item["size"])
            return {"method": "PUT", "headers": headers}
        case "multipart":
            size = terms.get("part_size", 5 * 1024**2)
            count = -(-item["size"] // size)
            upload = {"upload_id": "u-1", "part_size": size, "part_count": count}
            abort_url = "http://127.0.0.1/abort"
            return {"method": "POST", "multipart": {**upload, "abort_url": abort_url}}
        case "parts":
            return {"method": "PUT", "part": item["part"], "headers": {"content-length": "1"}}
    return {"method": terms.get("method", "GET")}


def _read_message(raw: Any) -> dict[str, Any]:
    """Return the message in a task argument; a signature is not verified."""
    if isinstance(raw, dict):
        return raw
    content: dict[str, Any] = json.loads(urlsafe_b64decode(raw.split(".")[1] + "==="))
    return content


def _celery_result(action: Action, raw: Any, decide: Decide) -> Any:
    if action == "fail":
        failure = {"exc_type": "OperationalError", "exc_message": ["s3cret"], "exc_module": "x"}
        return {"status": "FAILURE", "result": failure, "traceback": "s3cret"}
    if action in {"wait", "give up"}:
        hint = Unavailable("database", 4 if action == "wait" else None, int(time.time()))
        status = "RETRY" if action == "wait" else "FAILURE"
        return {"status": status, "result": hint.celery_error()}
    return {"status": "SUCCESS", "result": "?" if action == "garble" else decide(raw)}
