"""Uploads of expired grants are aborted; storage that does not respond delays only its own."""

from collections import Counter
from datetime import timedelta
from threading import Event
from typing import Any
from unittest.mock import Mock

import pytest
from sqlalchemy import insert
from structlog.testing import capture_logs

from models import MultipartUpload
from tests.support.builders.messages import Clock, grant_message, tenant_config
from tests.support.builders.services import InProcessService
from tests.support.servers.waiting import wait_until
from worker.aborts import multipart_aborts
from worker.aborts.multipart_aborts import GIVE_UP_AFTER, abort_expired_uploads
from worker.base.database_engine import write_transaction
from worker.base.jobs import SingleFlight
from worker.errors import Transient
from worker.issue.cleanup import clean_up
from worker.ledger.multipart_rows import UploadRecord


@pytest.fixture
def service(service: InProcessService, clock: Clock) -> InProcessService:
    """The service with expired uploads: ten in a bucket that is dead, and ten in one alive."""
    service.apply(tenant_config())
    service.issue(grant_message())
    common = {"batch_number": 1, "tenant": "acme", "upload_id": "u", "size": 1, "part_size": 1}
    common |= {"object_key": "acme/a", "expires_at": clock(), "state": "open"}
    with write_transaction(service.engine) as connection:
        for number in range(20):
            place = {"item_number": number, "bucket": "dead" if number < 10 else "alive"}
            connection.execute(insert(MultipartUpload), common | place)
    return service


class FakeAbort:
    """Aborts uploads of the bucket profile `alive`, and calls a function for the others."""

    def __init__(self, on_dead: Any) -> None:
        self.calls: list[str] = []
        self._on_dead = on_dead

    def __call__(self, record: UploadRecord, *_: object) -> None:
        self.calls.append(record.bucket)
        if record.bucket == "dead":
            self._on_dead()


def open_buckets(service: InProcessService) -> Counter[str]:
    return Counter(row.bucket for row in service.rows(MultipartUpload) if row.state == "open")


def test_storage_that_does_not_respond_delays_neither_other_buckets_nor_the_releases(
    service: InProcessService, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    gate = Event()
    monkeypatch.setattr(multipart_aborts, "_abort", FakeAbort(lambda: gate.wait(30)))
    job = SingleFlight("aborts", lambda run: abort_expired_uploads(service.context, run))
    clock.forward(minutes=5)
    job.trigger()
    try:
        wait_until(lambda: open_buckets(service) == {"dead": 10})
        assert clean_up(service.context)["released"] == 1
    finally:
        gate.set()
        job.join(30)
    assert open_buckets(service) == {}


def test_a_bucket_that_fails_is_left_for_the_next_run(
    service: InProcessService, monkeypatch: pytest.MonkeyPatch
) -> None:
    abort = FakeAbort(Mock(side_effect=Transient))
    monkeypatch.setattr(multipart_aborts, "_abort", abort)
    assert abort_expired_uploads(service.context) == {"ended": 10, "postponed": 3}
    assert Counter(abort.calls) == {"alive": 10, "dead": 3}
    assert open_buckets(service) == {"dead": 10}


@pytest.mark.parametrize("error", [Transient, OverflowError])
def test_an_upload_that_cannot_be_aborted_for_a_week_is_given_up(
    service: InProcessService, clock: Clock, monkeypatch: pytest.MonkeyPatch, error: type[Exception]
) -> None:
    monkeypatch.setattr(multipart_aborts, "_abort", FakeAbort(Mock(side_effect=error)))
    with capture_logs():
        abort_expired_uploads(service.context)
        assert open_buckets(service) == {"dead": 10}
        clock.time += GIVE_UP_AFTER - timedelta(seconds=1)
        abort_expired_uploads(service.context)
        assert open_buckets(service) == {"dead": 10}
        clock.forward(seconds=1)
        for _run in range(4):
            abort_expired_uploads(service.context)
    assert open_buckets(service) == {}


def test_storage_that_is_away_after_a_week_costs_few_uploads_their_abort(
    service: InProcessService, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(multipart_aborts, "_abort", FakeAbort(Mock(side_effect=Transient)))
    clock.time += GIVE_UP_AFTER
    with capture_logs() as logs:
        abort_expired_uploads(service.context)
    assert open_buckets(service) == {"dead": 7}
    assert [entry["event"] for entry in logs].count("upload_left") == 3
    monkeypatch.setattr(multipart_aborts, "_abort", FakeAbort(lambda: None))
    abort_expired_uploads(service.context)
    assert open_buckets(service) == {}
