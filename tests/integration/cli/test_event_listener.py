"""The listening end of `valetkey webhooks listen`, beside a service that misbehaves."""

import os
import signal
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import pytest
import redis
from pydantic_core import to_json

from tests.support.crypto.tenants import ACME_KEY, IMPOSTOR_KEY
from tests.support.crypto.tokens import public_key
from tests.support.fakes.fake_service import _read_message, running_fake_service
from valetkey.cli import event_listener
from valetkey.cli.event_listener import EventListener
from valetkey.config import load_config
from valetkey.crypto.keys import PrivateKey, dump_private_key
from valetkey.delivery import transport
from valetkey.errors import NoAnswer, Refused
from valetkey.redis_urls import default_result_url
from worker.dev.embedded_servers import running_valkey
from worker.issue.dispatch import seal

Behaviour = Callable[["FakeRelay", int], dict[str, Any]]


@pytest.fixture(autouse=True)
def _short_times(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("SILENCE_SECONDS", "REPLY_SECONDS"):
        monkeypatch.setattr(event_listener, name, 0.5)
    monkeypatch.setattr(event_listener, "_PAUSE_SECONDS", 0.01)
    monkeypatch.setattr(event_listener, "_GRACE_SECONDS", 0.3)


def sealed(values: Any, key: PrivateKey = ACME_KEY) -> str:
    return seal(to_json(values), key.id, public_key(key))


def event(number: int, message_id: str | None = None) -> str:
    values = {"number": number, "id": message_id or f"id-{number}"}
    return sealed(values | {"type": "upload.stored", "body": "{}"})


class FakeRelay:
    """Responds to each `listen` as told, and can publish on the channel of the listener."""

    def __init__(self, url: str, behaviour: Behaviour) -> None:
        self.asked: list[dict[str, Any]] = []
        self._redis = redis.Redis.from_url(default_result_url(url) or url)
        self._behaviour = behaviour

    def publish(self, *texts: str) -> None:
        for text in texts:
            self._redis.publish(f"celery-task-meta-{self.asked[-1]['listener']}", text)

    def decide(self, raw: Any) -> str:
        self.asked.append(_read_message(raw))
        reply = {"status": "listening", "listener": self.asked[-1]["listener"], "expires_in": 60}
        return sealed(reply | {"cursor": 0} | self._behaviour(self, len(self.asked)))

    def close(self) -> None:
        self._redis.close()


class Desk:
    """A developer's desk: the events that are heard there, and the sentences."""

    def __init__(self, url: str, relay: FakeRelay) -> None:
        self.relay = relay
        self.said: list[str] = []
        config = load_config({"broker_url": url, "key": dump_private_key(ACME_KEY)})
        self.listener = EventListener(config, ACME_KEY, self.said.append)
        self.events = self.listener.events()

    def next_id(self) -> str:
        return next(self.events).id


@contextmanager
def desk(url: str, behaviour: Behaviour, **options: Any) -> Iterator[Desk]:
    with (
        closing(FakeRelay(url, behaviour)) as relay,
        running_fake_service(url, decide=relay.decide, **options),
    ):
        at_desk = Desk(url, relay)
        with closing(at_desk.listener):
            yield at_desk
            at_desk.events.close()


def test_a_service_that_does_not_answer_ends_the_first_attempt(broker: str) -> None:
    with (
        desk(broker, lambda *_: {}, plan=lambda *_: "lose") as at_desk,
        pytest.raises(NoAnswer),
    ):
        at_desk.next_id()
    assert at_desk.said == []


def test_a_service_without_a_relay_is_named_as_such(broker: str) -> None:
    with (
        desk(broker, lambda *_: {}) as at_desk,
        pytest.raises(NoAnswer, match="relays no events: is a worker running that does upkeep"),
    ):
        at_desk.next_id()


def test_a_relay_that_falls_silent_and_comes_back_is_reported_once_each(broker: str) -> None:
    def behave(relay: FakeRelay, count: int) -> dict[str, Any]:
        # It asks when it connects, and once more when it has heard nothing.
        relay.publish(*{1: ["alive"], 5: ["alive", event(7)]}.get(count, []))
        return {}

    with desk(broker, behave) as at_desk:
        assert at_desk.next_id() == "id-7"
    listening, lost, again = at_desk.said
    assert listening.startswith("listening: ")
    assert lost.startswith("connection lost: the service answers, but relays no events")
    assert again.startswith("connected again: ")


def test_a_server_that_freezes_is_reported_and_comes_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(transport.SOCKET_OPTIONS, "socket_timeout", 0.5)

    def behave(relay: FakeRelay, count: int) -> dict[str, Any]:
        relay.publish("alive", event(count))
        return {}

    with running_valkey(tmp_path) as server, desk(server.url(), behave) as at_desk:

        def thaw(text: str) -> None:
            at_desk.said.append(text)
            os.kill(server.child.pid, signal.SIGCONT)

        at_desk.listener._say = thaw
        at_desk.next_id()
        os.kill(server.child.pid, signal.SIGSTOP)
        at_desk.next_id()
        assert "timed out" in at_desk.said[1]
        assert at_desk.said[2].startswith("connected again")


def test_only_new_events_that_are_sealed_to_the_key_are_heard(broker: str) -> None:
    forged = sealed(
        {"number": 1, "id": "forged", "type": "upload.stored", "body": ""}, IMPOSTOR_KEY
    )
    others = ("x", "\ud7ff", "{}", forged, sealed({"status": "reported"}), sealed({"number": 1}))
    dotted = event(1, message_id="a.b")

    def behave(relay: FakeRelay, _: int) -> dict[str, Any]:
        relay.publish(*others, dotted, event(1), event(2, message_id="id-1"), event(3))
        return {}

    with desk(broker, behave) as at_desk:
        assert [at_desk.next_id(), at_desk.next_id()] == ["id-1", "id-3"]


def test_what_was_missed_is_named_unless_it_arrives_after_all(
    broker: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(event_listener, "RENEW_SECONDS", 0.8)
    monkeypatch.setattr(event_listener, "SILENCE_SECONDS", 10)
    missed = [
        {"number": number, "type": "upload.stored", "batch": f"b-{number}"} for number in (1, 2)
    ]

    def behave(relay: FakeRelay, count: int) -> dict[str, Any]:
        if count == 1:
            relay.publish(event(2))
            return {"missed": missed, "missed_count": 60, "cursor": 2}
        relay.publish(event(3))
        return {"cursor": 2}

    with desk(broker, behave) as at_desk:
        assert [at_desk.next_id(), at_desk.next_id()] == ["id-2", "id-3"]
    assert at_desk.said[1:] == ["missed, and not sent again:\n  upload.stored  b-1\n  and 58 more"]
    assert [message.get("after") for message in at_desk.relay.asked[:2]] == [None, 2]


def test_a_refusal_ends_listening_at_any_time(broker: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(event_listener, "RENEW_SECONDS", 0.1)
    refusal = {"code": "key_revoked", "field": "kid", "message": "revoked"}
    refused = {"status": "refused", "batch": "", "chunk": 0, "refusal": refusal}

    def behave(relay: FakeRelay, count: int) -> dict[str, Any]:
        relay.publish("alive")
        return {} if count == 1 else refused

    with desk(broker, behave) as at_desk, pytest.raises(Refused, match="key_revoked"):
        at_desk.next_id()
