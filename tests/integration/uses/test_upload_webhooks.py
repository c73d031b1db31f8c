"""Webhooks about uploads: inserted with what they tell of, and sent until they are taken."""

from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest
from click.testing import CliRunner
from sqlalchemy import insert, select

from models import Batch, Settlement
from tests.support.builders.messages import grant_message, split_chunks
from tests.support.cli.operator import json_rows
from tests.support.uses.notified import (
    ALL_EVENTS,
    notified_upload,
)
from tests.support.uses.reports import deleted, stored
from tests.support.uses.upload_hooks import UploadHooks
from worker.commands.audit.group import audit
from worker.commands.deliveries import deliveries
from worker.core.uses.reports import UseReport
from worker.db.engine import read_transaction, write_transaction
from worker.db.uses.deliveries import insert_unused_delivery
from worker.db.uses.used_grants import read_chunk_grants

KEY = "acme/a.png"


def settle(hooks: UploadHooks, unused: str) -> bool:
    """Settle the only chunk as the settlement does, and return whether a delivery was inserted."""
    with write_transaction(hooks.engine) as connection:
        number, tenant = connection.execute(select(Batch.batch_number, Batch.tenant)).one()
        values = {"batch_number": number, "chunk_number": 0, "tenant": tenant, "unused": unused}
        values |= {"used_bytes": 0, "returned_bytes": 0, "settled_at": hooks.clock()}
        connection.execute(insert(Settlement), values)
        config = hooks.context.config.current()
        grant = read_chunk_grants(connection, number, 0, config)[0]
        return insert_unused_delivery(connection, grant, hooks.clock())


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


def test_operators_see_the_type_of_each_webhook(
    hooks: UploadHooks, monkeypatch: pytest.MonkeyPatch
) -> None:
    url = hooks.engine.url.render_as_string(hide_password=False)
    monkeypatch.setenv("VALETKEY_DATABASE_URL", url)
    (grant_id,) = hooks.issue(notified_upload())
    hooks.record(stored(grant_id, KEY, hooks.clock()))
    hooks.deliver()
    listed = json_rows(CliRunner().invoke(deliveries, ["list", "--json"]))
    assert [row["event"] for row in listed] == ["upload.stored", None]
    shown = CliRunner().invoke(audit, ["show", grant_id]).output
    assert "upload.stored of chunk 0 to endpoint hook, delivered" in shown
