"""Producers that listen: each hears its tenant's events once, and learns which it has missed."""

import json
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from threading import Event
from typing import Any

import pytest
from sqlalchemy import insert, select

from models import Chunk, Delivery, Leaf, Usage, WebhookListener
from tests.support.builders.delivery_service import DeliveryService, hooks_config, repeat_delivery
from tests.support.builders.messages import Clock, batch_id, download_chunks
from tests.support.builders.services import other_processes
from tests.support.builders.triggers import triggered_tasks
from tests.support.crypto.tenants import ACME_KEY, ACME_SPARE_KEY, GLOBEX_KEY
from tests.support.crypto.tokens import sign_message, tenant_keys, unseal_result
from valetkey.crypto.jose import WrongKey, unseal
from valetkey.crypto.keys import PrivateKey
from valetkey.wire.events import EventType
from valetkey.wire.messages import MAX_LISTENERS, MAX_MISSED_EVENTS
from worker.base.database_engine import write_transaction
from worker.base.jobs import JobRun
from worker.context import Context
from worker.rules.tenant_config import TenantConfig
from worker.webhooks import event_relay, listeners
from worker.webhooks.event_relay import EventRelay
from worker.webhooks.listeners import LISTENING_TIME
from worker.webhooks.outbox import DeliveryLease
from worker.webhooks.webhook_delivery import clean_up_webhooks
from worker.webhooks.webhook_events import RenderedWebhook, render

ON_POSTGRES = pytest.mark.parametrize("database_url", ["postgresql"], indirect=True)


def listening_config(
    *keys: PrivateKey, events: tuple[EventType, ...] | None = None
) -> TenantConfig:
    """Return a config in which acme and globex have keys; queues are trusted as well."""
    tenants = dict(hooks_config(events).tenants)
    tenants["acme"] = replace(tenants["acme"], keys=tenant_keys(*keys))
    tenants["globex"] = replace(tenants["globex"], keys=tenant_keys(GLOBEX_KEY))
    return replace(hooks_config(), tenants=tenants)


class Desks:
    """Producers at their desks, and what relays have announced to each of them."""

    def __init__(self, webhooks: DeliveryService) -> None:
        self.webhooks = webhooks
        webhooks.service.apply(listening_config(ACME_KEY, ACME_SPARE_KEY))
        self.announced: list[tuple[str, str]] = []
        self.gone: list[str] = []
        self.time = 0.0
        self.relays = EventRelay(self._announce, lambda: self.time)

    def _announce(self, listener: str, text: str) -> int:
        self.announced.append((listener, text))
        return listener not in self.gone

    def queue(self, tenant: str, count: int) -> None:
        """Queue outcomes of a tenant, each as if of a batch of its own."""
        config = listening_config(ACME_KEY, events=("grants.decided",))
        self.webhooks.service.apply(config)
        self.webhooks.queue(tenant, count)

    def ask(
        self, listener: str, key: PrivateKey = ACME_KEY, after: int | None = None
    ) -> dict[str, Any]:
        """Return the reply to a producer that listens, or goes on to do so."""
        message = {"v": 1, "ask": "listen", "tenant": key.tenant, "listener": listener}
        message |= {} if after is None else {"after": after}
        token = sign_message(message, key, self.webhooks.context.now())
        return unseal_result(self.webhooks.service.respond(token).sent, key)

    def listen(self, key: PrivateKey = ACME_KEY) -> str:
        """Let a new producer listen; return its id."""
        listener = batch_id()
        assert self.ask(listener, key)["status"] == "listening"
        return listener

    def relay(self, context: Context | None = None) -> tuple[int, int]:
        """Relay until there is nothing more to relay; count the listeners and the events."""
        relay = self.relays if context is None else EventRelay(self._announce)
        total = 0
        while True:
            count, events = relay.relay(context or self.webhooks.context, JobRun())
            total += events
            if not events and not relay._threads.running:
                return count, total

    def heard(self, listener: str, key: PrivateKey = ACME_KEY) -> list[dict[str, Any]]:
        """Return the opened events that were announced to a producer."""
        texts = [text for name, text in self.announced if name == listener and text != "alive"]
        return [unseal_result(text, key) for text in texts]

    def types(self, listener: str) -> list[str]:
        return [event["type"] for event in self.heard(listener)]

    def listeners(self) -> list[Any]:
        rows: list[Any] = self.webhooks.service.rows(WebhookListener.listener_id)
        return rows


@pytest.fixture
def desks(webhooks: DeliveryService) -> Desks:
    return Desks(webhooks)


def test_a_listener_hears_each_event_once_as_an_endpoint_receives_it(desks: Desks) -> None:
    listener, webhooks = desks.listen(), desks.webhooks
    webhooks.issue(["acme/a", "acme/../b"])
    while webhooks.deliver() != (0, 0):
        assert desks.relay()[0] == 1
    desks.relay()
    heard = desks.heard(listener)
    ids = [headers["webhook-id"] for headers in webhooks.client.headers]
    assert [event["id"] for event in heard] == ids
    assert [event["body"].encode() for event in heard] == webhooks.client.bodies
    assert [event["type"] for event in heard] == ["grants.decided", "batch.completed"]


def test_events_are_sealed_to_the_key_that_asked_for_them(desks: Desks) -> None:
    listener = desks.listen(ACME_SPARE_KEY)
    desks.webhooks.issue()
    desks.relay()
    assert len(desks.heard(listener, ACME_SPARE_KEY)) == 1
    ((_, token),) = [pair for pair in desks.announced if pair[1] != "alive"]
    assert "acme/a" not in token
    with pytest.raises(WrongKey):
        unseal(token, ACME_KEY)


def test_an_event_that_was_delivered_or_failed_before_it_was_relayed_is_heard(
    desks: Desks,
) -> None:
    listener = desks.listen()
    for status in (204, 410):
        desks.webhooks.client.statuses["acme.hook"] = status
        desks.webhooks.issue()
        desks.webhooks.deliver()
    desks.relay()
    assert desks.types(listener).count("grants.decided") == 2


def test_what_happened_before_is_not_relayed(desks: Desks) -> None:
    desks.webhooks.issue()
    listener = desks.listen()
    assert desks.relay() == (1, 0)
    assert desks.heard(listener) == []


def test_each_of_two_listeners_hears_every_event(desks: Desks) -> None:
    both = desks.listen(), desks.listen()
    desks.webhooks.issue()
    assert desks.relay() == (2, 2)
    assert [desks.types(listener) for listener in both] == [["grants.decided"]] * 2


def test_no_tenant_hears_events_of_another(desks: Desks) -> None:
    listener = desks.listen(GLOBEX_KEY)
    desks.webhooks.issue()
    assert desks.relay() == (1, 0)
    desks.webhooks.queue("globex")
    desks.relay()
    (event,) = desks.heard(listener, GLOBEX_KEY)
    assert json.loads(event["body"])["data"]["tenant"] == "globex"


def test_several_processes_relay_each_event_once(desks: Desks) -> None:
    listener = desks.listen()
    desks.queue("acme", 40)
    with other_processes(desks.webhooks.service, 3) as others, ThreadPoolExecutor(3) as threads:
        list(threads.map(lambda other: desks.relay(other.context), others))
    numbers = Counter(event["number"] for event in desks.heard(listener))
    assert len(numbers) == 40
    assert set(numbers.values()) == {1}


def test_the_completion_of_a_batch_is_heard_once_it_is_complete(desks: Desks) -> None:
    first, *rest = download_chunks(items=5, size=2)
    early = desks.listen()
    desks.webhooks.service.issue(first | {"callback": "hook"})
    desks.relay()
    late = desks.listen()
    for chunk in rest:
        desks.webhooks.service.issue(chunk | {"callback": "hook"})
    desks.relay()
    assert desks.types(early) == ["grants.decided"] * 3
    while desks.webhooks.deliver() != (0, 0):
        pass
    desks.relay()
    assert desks.types(early)[3:] == desks.types(late)[2:] == ["batch.completed"]


@ON_POSTGRES
def test_an_event_that_is_committed_after_later_ones_is_heard(desks: Desks) -> None:
    desks.queue("acme", 1)
    listener = desks.listen()
    with write_transaction(desks.webhooks.engine) as slow:
        row = slow.execute(select(Delivery.__table__)).mappings().one()
        copy = {name: value for name, value in row.items() if name != "delivery_number"}
        slow.execute(insert(Delivery), [copy])
        repeat_delivery(desks.webhooks.engine, 1)
        assert desks.relay() == (1, 1)
    assert desks.relay() == (1, 1)
    later, earlier = (event["number"] for event in desks.heard(listener))
    assert earlier < later


def test_what_must_not_be_sent_any_more_is_skipped(desks: Desks, clock: Clock) -> None:
    listener = desks.listen()
    brief = {"kind": "download", "bucket": "demo", "expires_in": 10}
    desks.webhooks.issue(grant=brief)
    clock.forward(seconds=11)
    outcome = desks.webhooks.issue()
    desks.relay()
    (event,) = desks.heard(listener)
    assert json.loads(event["body"])["data"]["batch"] == outcome["batch"]


@pytest.mark.parametrize("change", ["revoked", "removed", "expired"])
def test_a_key_that_is_no_longer_valid_hears_nothing(
    desks: Desks, clock: Clock, change: str
) -> None:
    listener, config = desks.listen(), listening_config(ACME_KEY)
    key = config.tenants["acme"].keys["main"]
    keys = {
        "revoked": {"main": replace(key, revoked=True)},
        "removed": {},
        "expired": {"main": replace(key, expires=clock())},
    }[change]
    acme = replace(config.tenants["acme"], keys=keys)
    desks.webhooks.service.apply(replace(config, tenants={"acme": acme}))
    desks.webhooks.issue()
    desks.relay()
    assert desks.heard(listener) == []
    assert desks.listeners() == []


def test_an_unsigned_message_may_not_listen(desks: Desks) -> None:
    message = {"v": 1, "ask": "listen", "tenant": "acme", "listener": batch_id()}
    assert desks.webhooks.service.refusal_code(message) == "signature_required"
    assert desks.listeners() == []


def test_a_tenant_has_a_limited_number_of_listeners_at_a_time(desks: Desks, clock: Clock) -> None:
    first, *_ = [desks.listen() for _ in range(MAX_LISTENERS)]
    desks.listen(GLOBEX_KEY)
    refusal = desks.ask(batch_id())["refusal"]
    assert (refusal["code"], refusal["limit"]) == ("too_many_listeners", MAX_LISTENERS)
    assert desks.ask(first)["status"] == "listening"
    clock.forward(seconds=LISTENING_TIME.total_seconds())
    desks.listen()


def test_a_listener_of_another_tenant_is_not_taken_over(desks: Desks) -> None:
    listener = desks.listen()
    assert desks.ask(listener, GLOBEX_KEY)["status"] == "refused"
    desks.webhooks.issue()
    desks.relay()
    assert len(desks.heard(listener)) == 1


def test_listening_ends_unless_the_producer_asks_again(desks: Desks, clock: Clock) -> None:
    listener = desks.listen()
    half = LISTENING_TIME.total_seconds() / 2
    clock.forward(seconds=half)
    desks.ask(listener)
    clock.forward(seconds=half)
    assert desks.relay()[0] == 1
    clock.forward(seconds=half)
    desks.webhooks.issue()
    assert desks.relay() == (0, 0)
    assert desks.heard(listener) == []
    clean_up_webhooks(desks.webhooks.context)
    assert desks.listeners() == []


@pytest.mark.parametrize("away_seconds", [10, 600])
def test_what_happened_while_a_producer_was_away_is_named_and_not_sent(
    desks: Desks, clock: Clock, away_seconds: int
) -> None:
    listener = desks.listen()
    desks.webhooks.issue()
    desks.relay()
    last = desks.heard(listener)[-1]["number"]
    clock.forward(seconds=away_seconds)
    missed = desks.webhooks.issue()
    desks.relay()
    heard = len(desks.heard(listener))
    reply = desks.ask(listener, after=last)
    (event,) = reply["missed"]
    assert (event["type"], event["batch"]) == ("grants.decided", missed["batch"])
    assert reply["missed_count"] == 1
    assert desks.relay() == (1, 0)
    assert len(desks.heard(listener)) == heard
    assert desks.ask(listener, after=reply["cursor"])["missed"] == []


def test_many_missed_events_are_counted_and_the_first_are_named(desks: Desks) -> None:
    listener = desks.listen()
    desks.queue("acme", 100)
    desks.relay()
    reply = desks.ask(listener, after=0)
    assert (len(reply["missed"]), reply["missed_count"]) == (MAX_MISSED_EVENTS, 100)


def test_what_the_relay_has_not_reached_is_not_missed(desks: Desks) -> None:
    listener = desks.listen()
    desks.webhooks.issue()
    assert desks.ask(listener, after=0).get("missed_count", 0) == 0
    desks.relay()
    assert len(desks.heard(listener)) == 1


def test_a_listener_keeps_up_with_the_events_of_other_tenants(
    desks: Desks, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(listeners, "_SPAN", 100)
    listener = desks.listen()
    desks.queue("globex", 950)
    desks.webhooks.issue()
    for _ in range(12):
        desks.relay()
    assert desks.types(listener) == ["grants.decided"]
    (cursor,) = desks.webhooks.service.rows(WebhookListener.cursor)
    assert cursor[0] > 900


def test_a_listener_hears_a_sign_of_life_at_once_and_every_other_second(desks: Desks) -> None:
    listener = desks.listen()
    for seconds in (0.0, 0.0, 1.9, 0.2, 1.0):
        desks.time += seconds
        desks.relay()
    assert desks.announced == [(listener, "alive")] * 2


def test_a_tenant_whose_events_take_long_to_sign_delays_no_other(
    desks: Desks, monkeypatch: pytest.MonkeyPatch
) -> None:
    may_sign = Event()

    def sign_late(delivery: DeliveryLease, context: Context) -> RenderedWebhook:
        assert delivery.endpoint.owner != "acme" or may_sign.wait(30)
        return render(delivery, context)

    monkeypatch.setattr(event_relay, "render", sign_late)
    slow, quick = desks.listen(), desks.listen(GLOBEX_KEY)
    desks.queue("acme", 1)
    desks.queue("globex", 1)
    while not desks.heard(quick, GLOBEX_KEY):
        desks.relays.relay(desks.webhooks.context, JobRun())
    desks.queue("acme", 1)
    desks.relays.relay(desks.webhooks.context, JobRun())
    assert (desks.heard(slow), desks.relays._threads.running) == ([], 1)
    may_sign.set()
    desks.relay()
    assert len(desks.heard(slow)) == 2


def test_a_producer_that_is_gone_makes_room_for_another(desks: Desks) -> None:
    desks.gone = [desks.listen() for _ in range(MAX_LISTENERS)]
    desks.webhooks.issue()
    assert desks.relay() == (0, 0)
    desks.listen()


def test_listening_charges_and_records_nothing(desks: Desks) -> None:
    def records() -> list[int]:
        return [len(desks.webhooks.service.rows(table)) for table in (Usage, Chunk, Leaf)]

    desks.webhooks.issue()
    before = records()
    desks.listen()
    desks.relay()
    assert records() == before


def test_a_reply_says_that_the_relay_is_to_be_triggered(desks: Desks) -> None:
    message = {"v": 1, "ask": "listen", "tenant": "acme", "listener": batch_id()}
    token = sign_message(message, ACME_KEY, desks.webhooks.context.now())
    assert triggered_tasks(desks.webhooks.service.respond(token)) == ["valetkey.deliver"]
