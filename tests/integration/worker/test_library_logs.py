"""The second safeguard, against what libraries really write at DEBUG."""

import io
import logging
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

import httpx
import kombu.connection
import pytest
import redis
import urllib3
from celery import Celery
from celery.contrib.testing.worker import start_worker
from sqlalchemy import Connection, text
from sqlalchemy.exc import DBAPIError

from tests.support.crypto.tokens import sign_message
from tests.support.servers.databases import open_engine
from tests.support.servers.webhook_receiver import respond_with, running_receiver
from tests.unit.worker.test_logs import restored_loggers
from valetkey.crypto.keys import generate_key
from worker import logs
from worker.base.database_engine import write_transaction
from worker.dev.embedded_servers import Storage, running_valkey
from worker.webhooks.webhook_client import WebhookClient


@dataclass
class LibraryLog:
    """What libraries wrote at DEBUG, as they wrote it and as the service's log shows it."""

    messages: list[str] = field(default_factory=list)
    stream: io.StringIO = field(default_factory=io.StringIO)

    def check_hides(self, *secrets: str) -> None:
        """Check that libraries did write each secret, and that the log shows none."""
        written, shown = "\n".join(self.messages), self.stream.getvalue()
        assert [secret for secret in secrets if secret not in written] == []
        assert [secret for secret in secrets if secret in shown] == []
        assert len(shown.splitlines()) == len(self.messages)


class _RawHandler(logging.Handler):
    def __init__(self, messages: list[str]) -> None:
        super().__init__()
        self._messages = messages

    def emit(self, record: logging.LogRecord) -> None:
        self._messages.append(self.format(record))


@pytest.fixture
def library_log() -> Iterator[LibraryLog]:
    """The log of this process, with all records of all libraries: no minimum level applies."""
    with restored_loggers():
        logs.configure_logging(logging.DEBUG)
        log = LibraryLog()
        root = logging.getLogger()
        handler = root.handlers[0]
        assert isinstance(handler, logging.StreamHandler)
        handler.removeFilter(logs.reaches_min_level)
        handler.setStream(log.stream)
        root.addHandler(_RawHandler(log.messages))
        for name in logs.MIN_LEVELS:
            logging.getLogger(name).setLevel(logging.DEBUG)
        yield log


EXTERNAL_ID = "agreed-with/acme+5ec2e7"
PASSWORD = "pass5ec2e7word"


def test_no_record_of_an_http_library_shows_a_signed_url_or_a_cookie(
    seaweed: Storage, library_log: LibraryLog
) -> None:
    url = seaweed.client().generate_presigned_url("list_buckets")
    with urllib3.PoolManager() as pool:
        pool.request("GET", url)
    httpx.get(url)
    library_log.check_hides(httpx.URL(url).params["X-Amz-Signature"])


def test_no_library_writes_a_secret_of_a_webhook(library_log: LibraryLog) -> None:
    respond = respond_with(204, Set_Cookie="session=5ec2e7")
    signature = "v1,K5oZfzN95Z9UVu1EsfQmfVNQhnkZ2pj9o9NDN/H/pI4="
    with running_receiver(respond) as receiver:
        url = f"http://127.0.0.1:{receiver.port}/hook?token=t0k5ec2e7en"
        client = WebhookClient(development=True)
        client.post(url, b'{"X-Amz-Signature": "5ec2e7"}', {"webhook-signature": signature})
    written = "\n".join(library_log.messages)
    assert "5ec2e7" not in written
    assert signature not in written


@pytest.fixture
def locked_valkey(tmp_path: Path) -> Iterator[str]:
    """The URL of a broker that requires a password."""
    with running_valkey(tmp_path) as server:
        with redis.Redis.from_url(server.url()) as client:
            client.config_set("requirepass", PASSWORD)
        yield f"redis://:{PASSWORD}@127.0.0.1:{server.port}/0"


@pytest.mark.filterwarnings("ignore:Call to deprecated setex:DeprecationWarning")  # by Celery
def test_no_record_of_celery_and_kombu_shows_a_message_or_result(
    locked_valkey: str, library_log: LibraryLog, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("celery.app.log.Logging.setup", lambda *_, **__: None)
    monkeypatch.setattr(kombu.connection, "_log_channel", True)  # as KOMBU_LOG_DEBUG does
    monkeypatch.setattr(kombu.connection, "_log_connection", True)
    app = Celery("tests", broker=locked_valkey, backend=locked_valkey, set_as_current=False)
    url = "https://s3.example/k?X-Amz-Security-Token=t0k5ec2e7en&X-Amz-Signature=516e5ec2e7"

    @app.task(name="grant")  # type: ignore[untyped-decorator]
    def grant(_message: str) -> dict[str, str]:
        return {"url": url}

    @app.task(name="fail")  # type: ignore[untyped-decorator]
    def fail(_message: str) -> None:
        raise RuntimeError({"SecretAccessKey": "key5ec2e7", "url": url, "broker": locked_valkey})

    token = sign_message({"v": 1}, generate_key("acme/tests"), datetime.now(UTC))
    with start_worker(app, perform_ping_check=False, loglevel="DEBUG"):
        assert grant.delay(token).get(timeout=15) == {"url": url}
        with pytest.raises(RuntimeError):
            fail.delay(token).get(timeout=15)
    library_log.check_hides(token, "516e5ec2e7", "t0k5ec2e7en", "key5ec2e7", PASSWORD)
    assert not any(part in library_log.stream.getvalue() for part in token.split("."))


def store_profile(connection: Connection, name: str) -> None:
    """Insert a row with a secret value."""
    values = {"name": name, "external_id": EXTERNAL_ID}
    connection.execute(text("INSERT INTO profiles VALUES (:name, :external_id)"), values)


def test_no_record_of_sqlalchemy_shows_a_value(database_url: str, library_log: LibraryLog) -> None:
    table = "CREATE TABLE profiles (name text CHECK (length(name) > 1), external_id text)"
    with open_engine(database_url) as engine:
        with write_transaction(engine) as connection:
            connection.execute(text(table))
            store_profile(connection, "reports")
            assert connection.execute(text("SELECT * FROM profiles")).all()
        try:
            with write_transaction(engine) as connection:
                store_profile(connection, "r")
        except DBAPIError:
            logging.getLogger("worker").exception("refused")
    library_log.check_hides(EXTERNAL_ID)
