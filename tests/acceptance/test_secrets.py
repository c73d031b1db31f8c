"""URLs and forms give access to whoever has them: logs, tables and Redis must contain none."""

import json
import re
import sqlite3
import subprocess
import sys
from contextlib import closing
from datetime import UTC, datetime
from typing import Any

import httpx
import pytest
import redis
from celery import Celery
from click.testing import CliRunner

from tests.acceptance.conftest import SECRET, VAULT_KEY, Service
from tests.support.builders.messages import batch_id, grant_message
from tests.support.crypto.tokens import sign_message, unseal_result
from tests.support.docs.command_lines import ROOT
from tests.support.servers.waiting import wait_until
from valetkey import Grant
from valetkey.crypto.keys import dump_private_key
from worker.commands.audit.group import audit

SIGNATURE = re.compile(r"X-Amz-Signature|x-amz-signature|X-Amz-Credential|eyJleHBpcmF0aW9u")


def test_no_log_holds_a_signature_or_a_secret(
    service: Service, signatures_of_grants: list[str]
) -> None:
    assert SIGNATURE.search(service.logs) is None
    assert not [secret for secret in (*signatures_of_grants, SECRET) if secret in service.logs]


def test_no_table_holds_a_signature_or_a_secret(
    service: Service, signatures_of_grants: list[str]
) -> None:
    path = service.stack.info.database_url.removeprefix("sqlite:///")
    connection = sqlite3.connect(path)
    stored = "\n".join(connection.iterdump())
    connection.close()
    assert "acme/secret.txt" in stored
    assert SIGNATURE.search(stored) is None
    assert not [secret for secret in (*signatures_of_grants, SECRET) if secret in stored]


def send_request(service: Service, message: dict[str, Any]) -> tuple[str, dict[str, Any]]:
    """Send a signed request of the tenant vault; return the token and the opened result."""
    info = service.stack.info
    token = sign_message(message, VAULT_KEY, datetime.now(UTC))
    with Celery("vault", broker=info.broker_url, backend=info.result_url) as producer:
        task = producer.send_task("valetkey.issue", args=[token], queue="valetkey")
        return token, unseal_result(task.get(timeout=15), VAULT_KEY)


def grant_request(kind: str, **terms: Any) -> dict[str, Any]:
    grant = {"kind": kind, "bucket": "demo", "expires_in": 300, **terms}
    size = {} if kind in {"download", "upload"} else {"size": 10}
    items = [{"key": "vault/secret.txt", **size}]
    return grant_message(tenant="vault", grant=grant, items=items, callback="hook")


def webhook_ids(service: Service) -> set[str]:
    """Return the ids of all webhooks received; each may be received more than once."""
    return {headers["webhook-id"] for headers in service.receiver.headers}


@pytest.fixture(scope="module")
def secrets(service: Service) -> list[str]:
    """All secrets of a tenant with a key, after it has sent every kind of request."""
    before = len(webhook_ids(service))
    messages = [
        grant_request("download"),
        grant_request("upload", max_size=10) | {"notify": ["upload.stored"]},
        grant_request("put", max_size=10),
    ]
    messages.append(grant_request("multipart", max_size=10))
    messages.append({"v": 1, "ask": "usage", "tenant": "vault"})
    messages.append(messages[0] | {"ask": "explain"})
    about = {"v": 1, "tenant": "vault"}
    of = {"of": f"{messages[0]['batch']}.0", "batch": batch_id(), "requested_by": "tests"}
    messages.append(about | {"ask": "reissue"} | of)
    messages.append(about | {"ask": "status", "batch": messages[1]["batch"], "items": [0]})
    messages[-1]["probe"] = True
    cancel = {"v": 1, "ask": "cancel", "tenant": "vault", "requested_by": "tests"}
    messages.append(cancel | {"batch": messages[0]["batch"]})
    tokens, outcomes = zip(*(send_request(service, message) for message in messages), strict=True)
    grants = [item for o in outcomes for item in o.get("items", ()) if "url" in item]
    urls = [grant["url"] for grant in grants if "fields" not in grant]
    signatures = [url.rpartition("=")[2] for url in urls]
    forms = [grant["fields"]["x-amz-signature"] for grant in grants if "fields" in grant]
    expected = before + len(grants) - 1  # a fresh grant calls no endpoint
    wait_until(lambda: len(webhook_ids(service)) == expected, what="the webhooks have arrived")
    private = [key["d"] for key in json.loads(dump_private_key(VAULT_KEY))["keys"]]
    assert (len(signatures), len(forms)) == (4, 1)
    parts = [part for token in tokens for part in token.split(".")[1:]]
    secrets = [*urls, *signatures, *forms, *private, *parts, SECRET]
    check_upload_webhook(service, next(grant for grant in grants if "fields" in grant), secrets)
    return secrets


def check_upload_webhook(service: Service, form: dict[str, Any], secrets: list[str]) -> None:
    """Use a form, and check that the webhook that tells of it contains no secret."""
    file = {"file": b"12345"}
    httpx.post(form["url"], data=form["fields"], files=file, trust_env=False).raise_for_status()
    with service.signing_client(VAULT_KEY) as client:
        client.batch(form["id"].rpartition(".")[0]).stored(0)
    is_told = (form["id"].encode(), b"upload.stored")
    told = wait_until(
        lambda: [b for b in tuple(service.receiver.bodies) if all(text in b for text in is_told)],
        what="the webhook about the upload has arrived",
    )
    body = told[0].decode()
    assert [secret for secret in secrets if secret in body] == []
    assert "://" not in body


def test_whose_prints_no_secret(service: Service, secrets: list[str]) -> None:
    path = {"VALETKEY_DATABASE_URL": service.stack.info.database_url}
    environ = {"PYTHONPATH": str(ROOT), **path}
    url, token = next(text for text in secrets if text.startswith("http")), secrets[-2]
    for text in (url, url[:-1], f"{url} {url}", token, f"{url}&{token}"):
        for options in ((), ("--json",)):
            printed = subprocess.run(
                [sys.executable, "-m", "worker", "audit", "whose", "-", *options],
                env=environ,
                input=text,
                capture_output=True,
                text=True,
                check=False,
            )
            output = printed.stdout + printed.stderr
            assert output
            assert [secret for secret in secrets if secret in output] == []


def test_no_log_has_a_secret_of_a_signing_tenant(service: Service, secrets: list[str]) -> None:
    assert '"answered"' in service.logs
    assert [secret for secret in secrets if secret in service.logs] == []


def test_no_table_has_a_secret_of_a_signing_tenant(service: Service, secrets: list[str]) -> None:
    path = service.stack.info.database_url.removeprefix("sqlite:///")
    with closing(sqlite3.connect(path)) as connection:
        stored = "\n".join(connection.iterdump())
    assert "vault/secret.txt" in stored
    assert [secret for secret in secrets if secret in stored] == []


def test_no_output_of_audit_has_a_secret_of_a_signing_tenant(
    service: Service, secrets: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("VALETKEY_DATABASE_URL", service.stack.info.database_url)

    def audit_output(*words: str) -> str:
        result = CliRunner().invoke(audit, words)
        assert result.exit_code == 0, result.output
        return result.output

    # Only these: other tests request grants of the same tenant from the same service.
    key = ("--key", "vault/secret.txt")
    listed = audit_output("list", "--tenant", "vault", *key, "--all", "--json")
    grants = [json.loads(line)["grant"] for line in listed.splitlines()]
    stories = [audit_output("show", grant, *more) for grant in grants for more in ((), ["--json"])]
    printed = "\n".join((listed, *stories))
    assert printed.count("vault/secret") >= 3 * len(grants)
    assert SIGNATURE.search(printed) is None
    assert [secret for secret in secrets if secret in printed] == []


def test_redis_has_only_sealed_results_of_a_signing_tenant(
    service: Service, secrets: list[str]
) -> None:
    info, expected = service.stack.info, [*secrets, "vault"]
    for url in (info.broker_url, info.result_url):
        with closing(redis.Redis.from_url(url, decode_responses=True)) as server:
            wait_until(
                lambda: not contained_words(expected, dump_redis(server)),
                what="the messages are acknowledged",
            )


def contained_words(words: list[str], text: str) -> list[str]:
    return [word for word in words if word in text]


def dump_redis(server: Any) -> str:
    """Return the content of a Redis server as text."""
    readers = {
        "string": server.get,
        "hash": server.hgetall,
        "zset": lambda key: server.zrange(key, 0, -1),
    }
    readers |= {"list": lambda key: server.lrange(key, 0, -1), "set": server.smembers}
    readers["none"] = lambda _key: None  # a message that was acknowledged meanwhile
    return repr({key: readers[server.type(key)](key) for key in server.scan_iter()})


RESULTS = "celery-task-meta-*"


def test_redis_removes_every_result_when_its_grants_expire(service: Service) -> None:
    results = redis.Redis.from_url(service.stack.info.result_url)
    with service.client() as client:
        client.download("demo", "acme/secret.txt", expires_in=60).result()
        newest_keys = wait_until(
            lambda: [key for key in results.scan_iter(RESULTS) if 0 < results.ttl(key) <= 60],
            what="the result's lifetime is shortened",
        )
    lifetimes = [results.pttl(key) for key in results.scan_iter(RESULTS)]
    results.close()
    assert newest_keys
    assert all(
        0 < lifetime <= 900_000 for lifetime in lifetimes if lifetime != -2
    )  # -2: removed meanwhile


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
