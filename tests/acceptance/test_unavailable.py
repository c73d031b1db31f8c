"""The service tells waiting producers that its database or its credentials are away."""

import json
import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager

import pytest
from celery import Celery

from tests.support.builders.messages import grant_message
from tests.support.faults.service import ACME_KEY, FaultyService, faulty_service
from tests.support.servers.waiting import wait_until
from valetkey import Client, ServiceUnavailable
from valetkey.crypto.keys import dump_private_key

SECONDS = 60.0  # a worker waits for a locked database, also for earlier messages


@pytest.fixture(scope="module")
def faulty(tmp_path_factory: pytest.TempPathFactory) -> Iterator[FaultyService]:
    with faulty_service(tmp_path_factory.mktemp("unavailable")) as service:
        with Client(service.broker.url(0), key=dump_private_key(ACME_KEY)) as client:
            client.usage(60)  # the worker is up
        yield service


@contextmanager
def locked_database(service: FaultyService) -> Iterator[None]:
    """Let no other process use the service's database."""
    with closing(sqlite3.connect(service.disk / "valetkey.db", isolation_level=None)) as database:
        database.execute("BEGIN EXCLUSIVE")
        yield


def test_a_client_is_told_that_the_database_is_away_and_is_answered_once_it_is_back(
    faulty: FaultyService,
) -> None:
    with Client(faulty.broker.url(0), key=dump_private_key(ACME_KEY)) as client:
        with locked_database(faulty):
            handle = client.download("demo", "acme/a.pdf")
            with pytest.raises(ServiceUnavailable, match=r"database is unavailable") as caught:
                handle.result(20)
        assert caught.value.retry_in is not None
        assert handle.result(60).key == "acme/a.pdf"


def test_a_plain_celery_producer_reads_the_reason_and_keeps_waiting(faulty: FaultyService) -> None:
    app = Celery(broker=faulty.broker.url(0), backend=faulty.broker.url(1), set_as_current=False)
    message = grant_message(["queueing/a.pdf"], tenant="queueing")
    with locked_database(faulty):
        result = app.send_task(
            "valetkey.issue", [message], task_id=f"{message['batch']}.0", queue="valetkey"
        )
        wait_until(lambda: result.state == "RETRY", SECONDS)
        reason, raw = result.result, app.backend.get(f"celery-task-meta-{result.id}")
    assert str(reason).startswith("the service's database is unavailable; it tries again in ")
    assert json.loads(raw)["traceback"] is None
    assert "sqlite" not in raw.decode() + repr(reason)
    assert result.get(timeout=60)["status"] == "issued"
    app.close()
