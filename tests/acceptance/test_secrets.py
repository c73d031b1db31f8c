"""Whoever holds a URL or a form may use it: neither may be found where it does not belong."""

import re
import sqlite3

import pytest
import redis

from tests.acceptance.conftest import SECRET, Service
from tests.waiting import wait_until
from valetkey import Grant

SIGNATURE = re.compile(r"X-Amz-Signature|x-amz-signature|X-Amz-Credential|eyJleHBpcmF0aW9u")


@pytest.fixture(scope="module")
def used(service: Service) -> list[str]:
    """The signatures of grants of each kind, one of which went through a webhook."""
    before = len(service.receiver.bodies)
    with service.client() as client:
        link = client.download("demo", "acme/secret.txt", callback="hook").result()
        form = client.upload("demo", "acme/secret.txt", max_size=10).result()
        put = client.put("demo", "acme/secret.bin", size=10).result()
        begun = client.multipart("demo", "acme/secret.bin", size=10)
        part = next(iter(begun.parts()))
    wait_until(lambda: len(service.receiver.bodies) > before, what="the webhook came")
    assert isinstance(part, Grant)
    urls = [link.url, put.url, begun.result().url, part.url]
    return [form.fields["x-amz-signature"], *(url.rpartition("=")[2] for url in urls)]


def test_no_log_holds_a_signature_or_a_secret(service: Service, used: list[str]) -> None:
    assert SIGNATURE.search(service.written) is None
    assert not [secret for secret in (*used, SECRET) if secret in service.written]


def test_no_table_holds_a_signature_or_a_secret(service: Service, used: list[str]) -> None:
    path = service.up.running.database_url.removeprefix("sqlite:///")
    connection = sqlite3.connect(path)
    stored = "\n".join(connection.iterdump())
    connection.close()
    assert "acme/secret.txt" in stored
    assert SIGNATURE.search(stored) is None
    assert not [secret for secret in (*used, SECRET) if secret in stored]


def test_redis_forgets_every_answer_by_the_time_its_grants_end(service: Service) -> None:
    results = redis.Redis.from_url(service.up.running.result_url)
    with service.client() as client:
        client.download("demo", "acme/secret.txt", expires_in=60).result()
        newest = wait_until(
            lambda: [key for key in results.scan_iter() if 0 < results.ttl(key) <= 60],
            what="the answer's life is shortened",
        )
    lives = [results.ttl(key) for key in results.scan_iter()]
    results.close()
    assert newest
    assert all(0 < seconds <= 900 for seconds in lives)


def test_a_grant_prints_no_url() -> None:
    grant = Grant(
        id="1.0",
        key="k",
        method="GET",
        url="https://secret.example/",
        expires_at="2026-11-24T00:00:00Z",  # type: ignore[arg-type]
        limited_by="request",
    )
    assert "secret.example" not in f"{grant!r}{grant}"
