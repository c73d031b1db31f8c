"""Webhooks about uploads: inserted with what they tell of, and sent until they are taken."""

import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler
from threading import Event
from typing import Any

import pytest
from sqlalchemy import insert, select

from models import Batch, Delivery, Settlement
from tests.integration.conftest import ApplyConfig
from tests.support.builders.deliveries import lease_delivery
from tests.support.builders.messages import Clock, grant_message, split_chunks, tenant_config
from tests.support.builders.services import InProcessService
from tests.support.servers.waiting import wait_until
from tests.support.servers.webhook_receiver import (
    WebhookReceiver,
    respond_with,
    running_receiver,
)
from tests.support.uses.notified import (
    ALL_EVENTS,
    SECRET,
    config_with_hook,
    delivering_context,
    notified_upload,
)
from tests.support.uses.reports import deleted, stored
from valetkey.webhooks import UploadEvent, parse_upload_event, verify
from worker.core.uses.reports import UseReport
from worker.db.engine import read_transaction, write_transaction
from worker.db.outbox import EVENT_LIFETIME, LEASE_TIME
from worker.db.uses.deliveries import insert_unused_delivery
from worker.usecases.upkeep.cleanup import clean_up
from worker.usecases.upkeep.deliver import deliver_due
from worker.usecases.uses.record import RecordedUses, record_uses

KEY = "acme/a.png"


class UploadHooks:
    """The service with an endpoint for webhooks, whose status the test changes."""

    def __init__(self, service: InProcessService, clock: Clock) -> None:
        self.status = 204
        self.is_open = Event()
        self.is_open.set()
        self.receiver = WebhookReceiver()
        self.service, self.clock = service, clock
        self.context = delivering_context(service)
        self.engine = service.context.engine

    def respond(self, handler: BaseHTTPRequestHandler) -> None:
        self.is_open.wait(30)
        respond_with(self.status)(handler)

    def issue(self, message: dict[str, Any]) -> list[str]:
        """Issue a request, deliver its outcome, and return the ids of its grants."""
        ids = [item["id"] for item in self.service.issue(message)["items"]]
        self.deliver()
        return ids

    def record(self, *reports: UseReport) -> RecordedUses:
        return record_uses(reports, self.context)

    def deliver(self) -> None:
        deliver_due(self.context)

    def pending(self) -> list[Any]:
        """Return the rows of all deliveries about uploads."""
        query = select(Delivery).where(Delivery.event.is_not(None))
        with read_transaction(self.engine) as connection:
            return list(connection.execute(query.order_by(Delivery.delivery_number)))

    def ids(self) -> list[str]:
        return [headers["webhook-id"] for headers in self.receiver.headers]

    def events(self) -> list[UploadEvent]:
        """Return the webhooks about uploads that the endpoint received, verified."""
        received = zip(self.receiver.bodies, self.receiver.headers, strict=True)
        tolerance = timedelta(days=1)
        payloads = [
            verify(body, headers, SECRET, now=self.clock(), tolerance=tolerance)
            for body, headers in received
        ]
        return [event for payload in payloads if (event := parse_upload_event(payload))]


@pytest.fixture
def hooks(
    service: InProcessService, clock: Clock, apply_config: ApplyConfig
) -> Iterator[UploadHooks]:
    hooks = UploadHooks(service, clock)
    with running_receiver(hooks.respond) as receiver:
        apply_config(config_with_hook(receiver.port))
        hooks.receiver = receiver
        yield hooks


def settle(hooks: UploadHooks, unused: str) -> bool:
    """Settle the only chunk as the settlement does, and return whether a delivery was inserted."""
    with write_transaction(hooks.engine) as connection:
        number, tenant = connection.execute(select(Batch.batch_number, Batch.tenant)).one()
        values = {"batch_number": number, "chunk_number": 0, "tenant": tenant, "unused": unused}
        values |= {"used_bytes": 0, "returned_bytes": 0, "settled_at": hooks.clock()}
        connection.execute(insert(Settlement), values)
        return insert_unused_delivery(connection, number, 0, hooks.clock())


def test_an_upload_is_told_to_the_endpoint_with_what_storage_has(hooks: UploadHooks) -> None:
    (grant_id,) = hooks.issue(notified_upload())
    hooks.clock.forward(seconds=9)
    hooks.record(stored(grant_id, KEY, hooks.clock(), version="V1"))
    hooks.deliver()
    (event,) = hooks.events()
    assert (event.type, event.timestamp, event.data.tenant) == (
        "upload.stored",
        hooks.clock(),
        "acme",
    )
    assert f"{event.data.batch}.{event.data.chunk}" == grant_id
    (upload,) = event.data.uploads
    assert upload.model_dump(exclude_defaults=True) == {
        "id": grant_id,
        "item": 0,
        "key": KEY,
        "size": 10,
        "etag": "0123456789abcdef",
        "version": "V1",
        "stored_at": hooks.clock(),
    }


def test_a_webhook_about_uploads_has_no_link(hooks: UploadHooks) -> None:
    (grant_id,) = hooks.issue(notified_upload())
    hooks.record(stored(grant_id, KEY, hooks.clock()))
    hooks.deliver()
    outcome, event = hooks.receiver.bodies
    assert b"http" in outcome
    assert b"http" not in event
    assert b"ignature" not in event


def test_a_late_upload_is_told_as_stored_and_late(hooks: UploadHooks) -> None:
    (grant_id,) = hooks.issue(notified_upload())
    hooks.clock.forward(seconds=400)
    hooks.record(stored(grant_id, KEY, hooks.clock()))
    hooks.deliver()
    (event,) = hooks.events()
    assert (event.type, event.data.uploads[0].late) == ("upload.stored", True)


def test_an_upload_over_its_limit_is_told_as_mismatched_with_the_problem(
    hooks: UploadHooks,
) -> None:
    (grant_id,) = hooks.issue(notified_upload(max_size=9))
    hooks.record(stored(grant_id, KEY, hooks.clock()))
    hooks.deliver()
    (event,) = hooks.events()
    assert event.type == "upload.mismatched"
    assert event.data.uploads[0].problem == "size: 10 bytes, granted 0 to 9"


@pytest.mark.parametrize(
    "message", [notified_upload(notify=["upload.unused"]), notified_upload() | {"notify": None}]
)
def test_a_type_that_the_request_did_not_ask_for_is_not_told(
    hooks: UploadHooks, message: dict[str, Any]
) -> None:
    (grant_id,) = hooks.issue(message)
    assert hooks.record(stored(grant_id, KEY, hooks.clock())).total == 1
    assert hooks.pending() == []


def test_a_deletion_is_not_told(hooks: UploadHooks) -> None:
    (grant_id,) = hooks.issue(notified_upload())
    hooks.record(stored(grant_id, KEY, hooks.clock()))
    hooks.record(deleted(KEY, hooks.clock() + timedelta(seconds=1)))
    assert len(hooks.pending()) == 1


def test_uploads_of_one_chunk_type_and_group_are_told_together_in_the_order_of_items(
    hooks: UploadHooks,
) -> None:
    keys = [f"acme/{number}.png" for number in range(4)]
    chunks = split_chunks(notified_upload(keys), 2)
    ids = [name for chunk in chunks for name in hooks.issue(chunk)]
    reports = [stored(name, key, hooks.clock()) for name, key in zip(ids, keys, strict=True)]
    reports[1] = reports[1]._replace(size=500_001)
    hooks.record(*reversed(reports))
    hooks.deliver()
    told = [(e.type, e.data.chunk, [u.item for u in e.data.uploads]) for e in hooks.events()]
    assert sorted(told) == [
        ("upload.mismatched", 0, [1]),
        ("upload.stored", 0, [0]),
        ("upload.stored", 1, [2, 3]),
    ]
    assert len(set(hooks.ids())) == 2 + 3


def test_a_use_that_is_recorded_again_is_told_once(hooks: UploadHooks) -> None:
    (grant_id,) = hooks.issue(notified_upload())
    for _ in range(2):
        hooks.record(stored(grant_id, KEY, hooks.clock()))
        hooks.deliver()
    assert len(hooks.events()) == 1


def test_the_trigger_is_called_after_the_commit_and_only_for_deliveries(hooks: UploadHooks) -> None:
    committed: list[int] = []
    hooks.context = replace(
        hooks.context, trigger_deliveries=lambda: committed.append(len(hooks.pending()))
    )
    (grant_id,) = hooks.issue(notified_upload())
    hooks.record(deleted("acme/unknown.png", hooks.clock()))
    assert committed == []
    hooks.record(stored(grant_id, KEY, hooks.clock()))
    assert committed == [1]


def test_the_unused_slots_of_a_settled_chunk_are_told_as_ranges_list_them(
    hooks: UploadHooks,
) -> None:
    ids = hooks.issue(notified_upload([f"acme/{n}.png" for n in range(4)]))
    assert settle(hooks, "0-1,3")
    hooks.deliver()
    (event,) = hooks.events()
    assert (event.type, event.timestamp) == ("upload.unused", hooks.clock())
    told = [(upload.id, upload.item, upload.key) for upload in event.data.uploads]
    assert told == [(ids[n], n, f"acme/{n}.png") for n in (0, 1, 3)]
    assert {upload.stored_at for upload in event.data.uploads} == {None}


def test_unused_slots_are_not_told_unless_the_request_asked(hooks: UploadHooks) -> None:
    hooks.issue(notified_upload(notify=["upload.stored"]))
    assert not settle(hooks, "0")
    assert hooks.pending() == []


def test_an_endpoint_that_is_down_gets_the_same_webhook_when_it_is_up_again(
    hooks: UploadHooks,
) -> None:
    (grant_id,) = hooks.issue(notified_upload())
    hooks.status = 503
    hooks.record(stored(grant_id, KEY, hooks.clock()))
    hooks.deliver()
    assert [row.state for row in hooks.pending()] == ["pending"]
    hooks.clock.forward(hours=6)  # the grants have expired long since
    hooks.status = 204
    clean_up(hooks.context)
    hooks.deliver()
    assert [row.state for row in hooks.pending()] == ["delivered"]
    _, first, second = hooks.receiver.bodies
    assert first == second
    _, *ids = hooks.ids()
    assert ids[0] == ids[1]
    assert "." not in ids[0]


def test_a_sender_that_dies_is_replaced_after_its_lease_and_the_webhook_keeps_its_id(
    hooks: UploadHooks,
) -> None:
    (grant_id,) = hooks.issue(notified_upload())
    hooks.record(stored(grant_id, KEY, hooks.clock()))
    with write_transaction(hooks.engine) as connection:  # a sender that is killed before it reports
        assert lease_delivery(connection, "killed", hooks.clock()) is not None
    hooks.deliver()
    assert hooks.events() == []
    hooks.clock.forward(seconds=LEASE_TIME.total_seconds() + 1)
    hooks.deliver()
    assert len(hooks.events()) == 1
    assert [(row.state, row.attempts) for row in hooks.pending()] == [("delivered", 2)]


def test_a_sender_that_is_killed_during_an_attempt_leaves_the_webhook_to_the_next_one(
    hooks: UploadHooks,
) -> None:
    (grant_id,) = hooks.issue(notified_upload())
    hooks.record(stored(grant_id, KEY, hooks.clock()))
    hooks.is_open.clear()  # the endpoint receives the webhook, and does not respond
    url = hooks.engine.url.render_as_string(hide_password=False)
    command = [sys.executable, "-m", "tests.support.uses.sender", url]
    with subprocess.Popen(command, env={**os.environ, "HOOK": SECRET}) as sender:
        wait_until(lambda: len(hooks.receiver.bodies) > 1, what="the endpoint has the webhook")
        sender.kill()
    hooks.is_open.set()
    assert [row.state for row in hooks.pending()] == ["pending"]
    hooks.clock.time = datetime.now(UTC) + LEASE_TIME + timedelta(seconds=1)
    hooks.deliver()
    assert [row.state for row in hooks.pending()] == ["delivered"]
    (_, *ids), (_, *bodies) = hooks.ids(), hooks.receiver.bodies
    assert (len(ids), len(set(ids)), len(set(bodies))) == (2, 1, 1)


def test_an_endpoint_that_the_policy_no_longer_allows_is_not_told(
    hooks: UploadHooks, apply_config: ApplyConfig
) -> None:
    (grant_id,) = hooks.issue(notified_upload())
    config = config_with_hook(hooks.receiver.port)
    policies = {"demo": replace(config.tenants["acme"].policies["demo"], callbacks=())}
    acme = replace(config.tenants["acme"], policies=policies)
    apply_config(replace(config, tenants={"acme": acme}))
    hooks.record(stored(grant_id, KEY, hooks.clock()))
    hooks.deliver()
    assert hooks.events() == []
    (row,) = hooks.pending()
    assert (row.state, row.problem) == (
        "failed",
        "the tenant's policy no longer allows this endpoint",
    )


def test_an_endpoint_that_is_no_longer_configured_is_not_told(
    hooks: UploadHooks, apply_config: ApplyConfig
) -> None:
    (grant_id,) = hooks.issue(notified_upload())
    hooks.record(stored(grant_id, KEY, hooks.clock()))
    apply_config(tenant_config())
    hooks.deliver()
    assert [row.problem for row in hooks.pending()] == ["the endpoint is no longer configured"]


def test_a_delivery_that_no_attempt_finished_for_a_week_fails(hooks: UploadHooks) -> None:
    (grant_id,) = hooks.issue(notified_upload())
    hooks.record(stored(grant_id, KEY, hooks.clock()))
    hooks.clock.forward(seconds=EVENT_LIFETIME.total_seconds() - 1)
    clean_up(hooks.context)
    assert [row.state for row in hooks.pending()] == ["pending"]
    hooks.clock.forward(seconds=2)
    clean_up(hooks.context)
    (row,) = hooks.pending()
    assert (row.state, row.problem) == ("failed", "the endpoint did not take it within 7 days")


def test_the_types_are_recorded_with_the_batch_and_part_of_its_identity(hooks: UploadHooks) -> None:
    request = notified_upload()
    hooks.service.issue(request)
    with read_transaction(hooks.engine) as connection:
        assert connection.scalar(select(Batch.notify)) == list(ALL_EVENTS)
    again = hooks.service.issue(request | {"notify": ["upload.stored"]})
    assert again["refusal"]["code"] == "batch_conflict"
    assert hooks.service.issue(grant_message())["status"] == "issued"


def test_reports_of_several_batches_reach_the_endpoint_of_each(hooks: UploadHooks) -> None:
    reports: list[UseReport] = []
    for number in range(3):
        key = f"acme/{number}.png"
        (grant_id,) = hooks.issue(notified_upload([key]))
        reports.append(stored(grant_id, key, hooks.clock()))
    hooks.record(*reports)
    hooks.deliver()
    keys = [event.data.uploads[0].key for event in hooks.events()]
    assert sorted(keys) == [report.object_key for report in reports]
