"""Whoever holds a URL or a form may use it: neither may be found where it does not belong."""

import json
import re
import sqlite3
from contextlib import closing
from datetime import UTC, datetime
from typing import Any

import pytest
import redis
from celery import Celery

from tests.acceptance.conftest import SECRET, VAULT, Service
from tests.support.builders.messages import grant_message
from tests.support.crypto.tokens import open_result, sign_message
from tests.support.servers.waiting import wait_until
from valetkey import Grant
from valetkey.crypto.keys import dump_private_key

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


def asked(service: Service, raw: dict[str, Any]) -> tuple[str, dict[str, Any]]:
    """Ask in the vault's name: the token that was sent, and what its sealed answer says."""
    running = service.up.running
    sent = sign_message(raw, VAULT, datetime.now(UTC))
    producer = Celery("vault", broker=running.broker_url, backend=running.result_url)
    task = producer.send_task("valetkey.issue", args=[sent], queue="valetkey")
    return sent, open_result(task.get(timeout=15), VAULT)


def wanted(kind: str, **terms: Any) -> dict[str, Any]:
    grant = {"kind": kind, "bucket": "demo", "expires_in": 300, **terms}
    size = {} if kind in {"download", "upload"} else {"size": 10}
    items = [{"key": "vault/secret.txt", **size}]
    return grant_message(tenant="vault", grant=grant, items=items, callback="hook")


def notified(service: Service) -> set[str]:
    """The ids of all webhooks that came, of which any may come again."""
    return {headers["webhook-id"] for headers in service.receiver.headers}


@pytest.fixture(scope="module")
def hidden(service: Service) -> list[str]:
    """All that a tenant with a key has to hide once it has asked for everything there is."""
    before = len(notified(service))
    raws = [wanted("download"), *(wanted(kind, max_size=10) for kind in ("upload", "put"))]
    raws.append(wanted("multipart", max_size=10))
    raws.append({"v": 1, "ask": "usage", "tenant": "vault"})
    raws.append(raws[0] | {"ask": "explain"})
    cancel = {"v": 1, "ask": "cancel", "tenant": "vault", "requested_by": "tests"}
    raws.append(cancel | {"batch": raws[0]["batch"]})
    tokens, answers = zip(*(asked(service, raw) for raw in raws), strict=True)
    grants = [item for answer in answers for item in answer.get("items", ())]
    urls = [grant["url"] for grant in grants if "fields" not in grant]
    signatures = [url.rpartition("=")[2] for url in urls]
    forms = [grant["fields"]["x-amz-signature"] for grant in grants if "fields" in grant]
    told = before + len(grants)
    wait_until(lambda: len(notified(service)) == told, what="the webhooks came")
    private = [key["d"] for key in json.loads(dump_private_key(VAULT))["keys"]]
    assert (len(signatures), len(forms)) == (3, 1)
    parts = [part for sent in tokens for part in sent.split(".")[1:]]
    return [*urls, *signatures, *forms, *private, *parts, SECRET]


def test_nothing_that_a_signing_tenant_hides_is_in_a_log(
    service: Service, hidden: list[str]
) -> None:
    assert '"answered"' in service.written
    assert [secret for secret in hidden if secret in service.written] == []


def test_nothing_that_a_signing_tenant_hides_is_in_a_table(
    service: Service, hidden: list[str]
) -> None:
    path = service.up.running.database_url.removeprefix("sqlite:///")
    with closing(sqlite3.connect(path)) as connection:
        stored = "\n".join(connection.iterdump())
    assert "vault/secret.txt" in stored
    assert [secret for secret in hidden if secret in stored] == []


def test_redis_holds_only_sealed_answers_of_a_signing_tenant(
    service: Service, hidden: list[str]
) -> None:
    running, told = service.up.running, [*hidden, "vault"]
    for url in (running.broker_url, running.result_url):
        with closing(redis.Redis.from_url(url, decode_responses=True)) as server:
            wait_until(lambda: not found(told, kept(server)), what="the messages are done with")


def found(words: list[str], text: str) -> list[str]:
    return [word for word in words if word in text]


def kept(server: Any) -> str:
    """All that a server holds, as text."""
    read = {
        "string": server.get,
        "hash": server.hgetall,
        "zset": lambda key: server.zrange(key, 0, -1),
    }
    read |= {"list": lambda key: server.lrange(key, 0, -1), "set": server.smembers}
    read["none"] = lambda _key: None  # a message that was done with since it was found
    return repr({key: read[server.type(key)](key) for key in server.scan_iter()})


def test_redis_forgets_every_answer_by_the_time_its_grants_end(service: Service) -> None:
    results = redis.Redis.from_url(service.up.running.result_url)
    with service.client() as client:
        client.download("demo", "acme/secret.txt", expires_in=60).result()
        newest = wait_until(
            lambda: [key for key in results.scan_iter() if 0 < results.ttl(key) <= 60],
            what="the answer's life is shortened",
        )
    lives = [results.pttl(key) for key in results.scan_iter()]
    results.close()
    assert newest
    assert all(0 < left <= 900_000 for left in lives if left != -2)  # gone since it was found


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
