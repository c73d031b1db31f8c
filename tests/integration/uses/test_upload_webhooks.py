"""Webhooks about uploads: inserted with what they tell of, and sent until they are taken."""

import base64
import os
import subprocess
import sys
from collections.abc import Iterator, Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler
from threading import Event
from typing import Any

import pytest
from click.testing import CliRunner
from sqlalchemy import select

from models import Batch, Delivery, Settlement
from tests.support.builders.messages import (
    grant_message,
    split_chunks,
    tenant_config,
    upload_message,
)
from tests.support.cli.groups import audit, webhooks
from tests.support.cli.operator import json_rows
from tests.support.servers.waiting import wait_until
from tests.support.servers.webhook_receiver import WebhookReceiver, respond_with, running_receiver
from tests.support.uses.reports import deleted, stored
from tests.support.uses.use_service import UseService
from valetkey.webhooks import UploadMismatched, UploadStored, UploadUnused, unwrap
from valetkey.wire.events import MAX_WEBHOOK_BYTES, UploadEventType
from worker.base.database_engine import read_transaction, write_transaction
from worker.rules.tenant_config import TenantConfig, WebhookEndpoint
from worker.uses.upload_deliveries import insert_unused_delivery
from worker.uses.use_recorder import RecordedUses
from worker.uses.use_reports import UseReport
from worker.uses.use_rows import read_chunk_grants
from worker.webhooks.batch_completion import EVENT_LIFETIME
from worker.webhooks.outbox import DELIVERY_LEASE_TIME
from worker.webhooks.webhook_client import WebhookClient, webhook_client
from worker.webhooks.webhook_delivery import clean_up_webhooks, deliver_due

SECRET = "whsec_" + base64.b64encode(bytes(32)).decode()
ALL_EVENTS: tuple[UploadEventType, ...] = ("upload.stored", "upload.unused", "upload.mismatched")
KEY = "acme/a.png"
UploadEvent = UploadStored | UploadMismatched | UploadUnused


def config_with_hook(port: int) -> TenantConfig:
    url = f"http://127.0.0.1:{port}/hook"
    endpoint = WebhookEndpoint("hook", url, "env:HOOK", ALL_EVENTS)
    return tenant_config(endpoints={"hook": endpoint})


def notified_upload(
    keys: Sequence[str] = (KEY,), notify: Sequence[str] = ALL_EVENTS, **changes: Any
) -> dict[str, Any]:
    """Return a request for upload forms that asks for webhooks, with changed terms."""
    return upload_message(keys, **changes) | {"callback": "hook", "notify": list(notify)}


class UploadHooks(UseService):
    """The service with an endpoint for webhooks, whose status the test changes."""

    def __init__(self, service: UseService) -> None:
        context = replace(
            service.context,
            created={webhook_client: WebhookClient(development=True)},
            environ={"HOOK": SECRET},
            random=lambda: 0.5,
        )
        super().__init__(context, service.clock)
        self.status = 204
        self.is_open = Event()
        self.is_open.set()
        self.receiver = WebhookReceiver()

    def respond_to_webhook(self, handler: BaseHTTPRequestHandler) -> None:
        self.is_open.wait(30)
        respond_with(self.status)(handler)

    def issue_and_deliver(self, message: dict[str, Any]) -> list[str]:
        """Issue a request, deliver its outcome, and return the ids of its grants."""
        ids = self.ids(message)
        self.deliver()
        return ids

    def issue_one(self, **changes: Any) -> str:
        """Issue and deliver a form that asks for all webhooks; return the id of its grant."""
        (grant_id,) = self.issue_and_deliver(notified_upload(**changes))
        return grant_id

    def store(self, grant_id: str, **changes: Any) -> RecordedUses:
        return self.record(stored(grant_id, KEY, self.clock(), **changes))

    def deliver(self) -> None:
        deliver_due(self.context)

    def pending(self) -> list[Any]:
        """Return the rows of all deliveries."""
        query = select(Delivery)
        with read_transaction(self.engine) as connection:
            return list(connection.execute(query.order_by(Delivery.delivery_number)))

    def webhook_ids(self) -> list[str]:
        return [headers["webhook-id"] for headers in self.receiver.headers]

    def events(self) -> list[UploadEvent]:
        """Return the webhooks about uploads that the endpoint received, verified."""
        received = zip(self.receiver.bodies, self.receiver.headers, strict=True)
        tolerance = timedelta(days=1)
        events = [
            unwrap(body, headers, SECRET, now=self.clock(), tolerance=tolerance)
            for body, headers in received
        ]
        return [event for event in events if isinstance(event, UploadEvent)]


@pytest.fixture
def hooks(service: UseService) -> Iterator[UploadHooks]:
    hooks = UploadHooks(service)
    with running_receiver(hooks.respond_to_webhook) as receiver:
        service.apply(config_with_hook(receiver.port))
        hooks.receiver = receiver
        yield hooks


def settle(hooks: UploadHooks, unused: str) -> bool:
    """Settle the only chunk as the settlement does, and return whether a delivery was inserted."""
    values = {"batch_number": 1, "chunk_number": 0, "tenant": "acme", "unused": unused}
    hooks.insert(Settlement, **values, used_bytes=0, returned_bytes=0, settled_at=hooks.clock())
    with write_transaction(hooks.engine) as connection:
        config = hooks.context.config.current()
        grant = read_chunk_grants(connection, 1, 0, config)[0]
        return insert_unused_delivery(connection, grant, config, hooks.clock())


def test_an_upload_is_told_to_the_endpoint_with_what_storage_has(hooks: UploadHooks) -> None:
    grant_id = hooks.issue_one()
    hooks.clock.forward(seconds=9)
    hooks.store(grant_id, version="V1")
    hooks.deliver()
    (event,) = hooks.events()
    told = (event.type, event.timestamp, event.data.tenant)
    assert told == ("upload.stored", hooks.clock(), "acme")
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
    hooks.store(hooks.issue_one())
    hooks.deliver()
    (event,) = hooks.receiver.bodies
    assert b"http" not in event
    assert b"ignature" not in event


@pytest.mark.parametrize(
    ("max_size", "seconds", "told"),
    [
        pytest.param(500_000, 400, ("upload.stored", True, None), id="late"),
        pytest.param(
            9, 0, ("upload.mismatched", False, "size: 10 bytes, granted 0 to 9"), id="too large"
        ),
    ],
)
def test_an_upload_is_told_with_its_problem(
    hooks: UploadHooks, max_size: int, seconds: int, told: tuple[Any, ...]
) -> None:
    grant_id = hooks.issue_one(max_size=max_size)
    hooks.clock.forward(seconds=seconds)
    hooks.store(grant_id)
    hooks.deliver()
    (event,) = hooks.events()
    (upload,) = event.data.uploads
    assert (event.type, upload.late, upload.problem) == told


@pytest.mark.parametrize(
    "message", [notified_upload(notify=["upload.unused"]), notified_upload() | {"notify": None}]
)
def test_a_type_that_the_request_did_not_ask_for_is_not_told(
    hooks: UploadHooks, message: dict[str, Any]
) -> None:
    (grant_id,) = hooks.issue_and_deliver(message)
    assert hooks.store(grant_id).total == 1
    assert hooks.pending() == []


def test_a_deletion_is_not_told(hooks: UploadHooks) -> None:
    hooks.store(hooks.issue_one())
    hooks.record(deleted(KEY, hooks.clock() + timedelta(seconds=1)))
    assert len(hooks.pending()) == 1


def test_uploads_of_one_chunk_type_and_group_are_told_together(hooks: UploadHooks) -> None:
    keys = [f"acme/{number}.png" for number in range(4)]
    chunks = split_chunks(notified_upload(keys), 2)
    ids = [name for chunk in chunks for name in hooks.issue_and_deliver(chunk)]
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
    assert len(set(hooks.webhook_ids())) == 3


def test_a_use_that_is_recorded_again_is_told_once(hooks: UploadHooks) -> None:
    grant_id = hooks.issue_one()
    for _ in range(2):
        hooks.store(grant_id)
        hooks.deliver()
    assert len(hooks.events()) == 1


def test_the_trigger_is_called_after_the_commit_and_only_for_deliveries(hooks: UploadHooks) -> None:
    committed: list[int] = []
    hooks.context = replace(
        hooks.context, trigger=lambda _task: committed.append(len(hooks.pending()))
    )
    grant_id = hooks.issue_one()
    hooks.record(deleted("acme/unknown.png", hooks.clock()))
    assert committed == []
    hooks.store(grant_id)
    assert committed == [1]


def test_the_unused_slots_of_a_chunk_are_told_as_ranges_list_them(hooks: UploadHooks) -> None:
    ids = hooks.issue_and_deliver(notified_upload([f"acme/{n}.png" for n in range(4)]))
    assert settle(hooks, "0-1,3")
    hooks.deliver()
    (event,) = hooks.events()
    assert (event.type, event.timestamp) == ("upload.unused", hooks.clock())
    told = [(upload.id, upload.item, upload.key) for upload in event.data.uploads]
    assert told == [(ids[n], n, f"acme/{n}.png") for n in (0, 1, 3)]
    assert {upload.stored_at for upload in event.data.uploads} == {None}


def test_uploads_that_make_a_webhook_too_large_are_left_out(hooks: UploadHooks) -> None:
    hooks.issue_and_deliver(notified_upload([f"acme/{n:04}{'k' * 990}" for n in range(300)]))
    assert settle(hooks, "0-299")
    hooks.deliver()
    (event,) = hooks.events()
    assert (event.data.chunk, event.data.thin, event.data.uploads) == (0, True, [])
    assert len(hooks.receiver.bodies[-1]) <= MAX_WEBHOOK_BYTES


def test_unused_slots_are_not_told_unless_the_request_asked(hooks: UploadHooks) -> None:
    hooks.issue_one(notify=["upload.stored"])
    assert not settle(hooks, "0")
    assert hooks.pending() == []


def test_the_types_are_recorded_with_the_batch_and_part_of_its_identity(hooks: UploadHooks) -> None:
    request = notified_upload()
    hooks.issue(request)
    with read_transaction(hooks.engine) as connection:
        assert connection.scalar(select(Batch.notify)) == list(ALL_EVENTS)
    again = hooks.issue(request | {"notify": ["upload.stored"]})
    assert again["refusal"]["code"] == "batch_conflict"
    assert hooks.issue(grant_message())["status"] == "issued"


def test_reports_of_several_batches_reach_the_endpoint_of_each(hooks: UploadHooks) -> None:
    reports: list[UseReport] = []
    for number in range(3):
        key = f"acme/{number}.png"
        reports.append(stored(hooks.issue_one(keys=[key]), key, hooks.clock()))
    hooks.record(*reports)
    hooks.deliver()
    keys = [event.data.uploads[0].key for event in hooks.events()]
    assert sorted(keys) == [report.object_key for report in reports]


def test_operators_see_the_type_of_each_webhook(
    hooks: UploadHooks, database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("VALETKEY_DATABASE_URL", database_url)
    grant_id = hooks.issue_one()
    hooks.store(grant_id)
    hooks.deliver()
    listed = json_rows(CliRunner().invoke(webhooks, ["list", "--json"]))
    assert [row["event"] for row in listed] == ["upload.stored"]
    shown = CliRunner().invoke(audit, ["show", grant_id]).output
    assert "upload.stored of chunk 0 to endpoint hook, delivered" in shown


def test_an_endpoint_that_was_down_gets_the_same_webhook_later(hooks: UploadHooks) -> None:
    grant_id = hooks.issue_one()
    hooks.status = 503
    hooks.store(grant_id)
    hooks.deliver()
    assert [row.state for row in hooks.pending()] == ["pending"]
    hooks.clock.forward(hours=6)  # the grants have expired long since
    hooks.status = 204
    clean_up_webhooks(hooks.context)
    hooks.deliver()
    assert [row.state for row in hooks.pending()] == ["delivered"]
    first, second = hooks.receiver.bodies
    assert first == second
    ids = hooks.webhook_ids()
    assert ids[0] == ids[1]
    assert "." not in ids[0]


def test_a_sender_that_is_killed_during_an_attempt_leaves_the_webhook_to_the_next_one(
    hooks: UploadHooks, database_url: str
) -> None:
    hooks.store(hooks.issue_one())
    hooks.is_open.clear()  # the endpoint receives the webhook, and does not respond
    command = [sys.executable, "-m", "tests.support.uses.sender", database_url]
    with subprocess.Popen(command, env={**os.environ, "HOOK": SECRET}) as sender:
        wait_until(lambda: len(hooks.receiver.bodies) > 0, what="the endpoint has the webhook")
        sender.kill()
    hooks.is_open.set()
    assert [row.state for row in hooks.pending()] == ["pending"]
    hooks.clock.time = datetime.now(UTC) + DELIVERY_LEASE_TIME + timedelta(seconds=1)
    hooks.deliver()
    assert [row.state for row in hooks.pending()] == ["delivered"]
    ids, bodies = hooks.webhook_ids(), hooks.receiver.bodies
    assert (len(ids), len(set(ids)), len(set(bodies))) == (2, 1, 1)


def test_a_delivery_that_no_attempt_finished_for_a_week_fails(hooks: UploadHooks) -> None:
    hooks.store(hooks.issue_one())
    hooks.clock.forward(seconds=EVENT_LIFETIME.total_seconds() - 1)
    clean_up_webhooks(hooks.context)
    assert [row.state for row in hooks.pending()] == ["pending"]
    hooks.clock.forward(seconds=2)
    clean_up_webhooks(hooks.context)
    (row,) = hooks.pending()
    assert (row.state, row.problem) == ("failed", "the endpoint did not take it within 7 days")


def test_an_endpoint_receives_no_uploads_of_types_that_it_does_not_name(hooks: UploadHooks) -> None:
    grant_id = hooks.issue_one()
    (hook,) = hooks.context.config.current().tenants["acme"].endpoints.values()
    hooks.apply(tenant_config(endpoints={"hook": replace(hook, events=("upload.unused",))}))
    hooks.store(grant_id)
    assert hooks.pending() == []
    assert settle(hooks, "0")
