"""What reaches the queue from a stranger: it is refused or thrown away, and the worker lives."""

import hmac
import json
import pickle
import sqlite3
from base64 import b64encode
from collections.abc import Callable
from contextlib import closing
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
import redis
from celery import Celery

from tests.acceptance.conftest import KEY, VAULT, Service
from tests.support.builders.messages import grant_message, upload_message
from tests.support.crypto.tokens import base64, forge_token, open_result, sign_message
from tests.support.crypto.tokens import tenant_keys as public
from tests.support.servers.waiting import wait_until
from valetkey.crypto.keys import generate_key

PICKLE = b64encode(pickle.dumps(grant_message())).decode()


@pytest.fixture(scope="module")
def producer(service: Service) -> Celery:
    """Any Celery application: it knows the broker, and nothing of ours."""
    running = service.up.running
    return Celery("anyone", broker=running.broker_url, backend=running.result_url)


def sent(producer: Celery, *args: Any, **kwargs: Any) -> dict[str, Any]:
    task = producer.send_task("valetkey.issue", args=args, kwargs=kwargs, queue="valetkey")
    outcome: dict[str, Any] = task.get(timeout=15)
    return outcome


def put(service: Service, body: str, content_type: str, **headers: Any) -> None:
    """Put a raw message into the queue, in kombu's frame on Redis."""
    frame = {
        "body": body,
        "content-type": content_type,
        "content-encoding": "utf-8",
        "headers": {"task": "valetkey.issue", "id": "hostile"} | headers,
        "properties": {"delivery_tag": "t", "delivery_info": {"exchange": "", "routing_key": ""}},
    }
    broker = redis.Redis.from_url(service.up.running.broker_url)
    broker.lpush("valetkey", json.dumps(frame))
    wait_until(lambda: broker.llen("valetkey") == 0, what="the message is taken")
    broker.close()


def test_a_plain_celery_producer_is_answered(producer: Celery) -> None:
    assert sent(producer, grant_message())["items"][0]["method"] == "GET"
    assert sent(producer, upload_message(["acme/x.png"]))["items"][0]["method"] == "POST"


@pytest.mark.parametrize(
    ("args", "kwargs", "code"),
    [
        ((), {}, "malformed"),
        ((grant_message(), 2), {}, "malformed"),
        ((), {"message": grant_message()}, "malformed"),
        (([],), {}, "malformed"),
        (("text",), {}, "token_invalid"),
    ],
    ids=["none", "two", "by name", "a list", "a text"],
)
def test_wrong_arguments_are_refused_by_a_code(
    producer: Celery, args: tuple[Any, ...], kwargs: dict[str, Any], code: str
) -> None:
    assert sent(producer, *args, **kwargs)["refusal"]["code"] == code


ASKED = grant_message(["vault/a"], tenant="vault")
HEADER = {"alg": "Ed25519", "kid": VAULT.id}
STRANGER = generate_key(VAULT.id)


def genuine() -> str:
    return sign_message(ASKED, VAULT, datetime.now(UTC))


def spliced() -> str:
    head, _, signature = genuine().split(".")
    return ".".join([head, base64(json.dumps(ASKED | {"reason": "mine"}).encode()), signature])


def with_the_public_key() -> str:
    text = genuine().rpartition(".")[0].partition(".")[2]
    text = f"{base64(json.dumps(HEADER | {'alg': 'HS256'}).encode())}.{text}"
    secret = public(VAULT)["tests"].sign.encode()
    return f"{text}.{base64(hmac.digest(secret, text.encode(), 'sha256'))}"


FORGED: dict[str, tuple[Callable[[], Any], str]] = {
    "nothing": (lambda: "", "token_invalid"),
    "the message as text": (lambda: json.dumps(ASKED), "token_invalid"),
    "five parts": (lambda: f"{genuine()}.AAAA.AAAA", "token_invalid"),
    "no signature": (lambda: genuine().rpartition(".")[0] + ".", "signature_invalid"),
    "algorithm none": (
        lambda: forge_token(HEADER | {"alg": "none"}, b"{}", VAULT),
        "algorithm_not_allowed",
    ),
    "the public key as a secret": (with_the_public_key, "algorithm_not_allowed"),
    "a stranger's key": (
        lambda: sign_message(ASKED, STRANGER, datetime.now(UTC)),
        "signature_invalid",
    ),
    "other content": (spliced, "signature_invalid"),
    "a key that is not declared": (
        lambda: forge_token(HEADER | {"kid": "vault/../acme"}, b"{}", VAULT),
        "key_unknown",
    ),
    "another tenant's key": (
        lambda: sign_message(ASKED, KEY, datetime.now(UTC)),
        "tenant_mismatch",
    ),
    "a critical extension": (
        lambda: forge_token(HEADER | {"crit": ["b64"], "b64": False}, b"{}", VAULT),
        "token_invalid",
    ),
    "content nested beyond reason": (
        lambda: forge_token(HEADER, b"[" * 100_000, VAULT),
        "token_invalid",
    ),
    "yesterday's": (
        lambda: sign_message(ASKED, VAULT, datetime.now(UTC) - timedelta(hours=25)),
        "message_expired",
    ),
    "tomorrow's": (
        lambda: sign_message(ASKED, VAULT, datetime.now(UTC) + timedelta(hours=25)),
        "message_from_future",
    ),
    "six megabytes": (lambda: "A" * 6_000_000, "token_too_large"),
    "unsigned": (lambda: ASKED, "signature_required"),
}


@pytest.fixture(scope="module")
def outcomes(producer: Celery) -> dict[str, dict[str, Any]]:
    """How each of them is answered, one after the other."""
    return {name: sent(producer, make()) for name, (make, _) in FORGED.items()}


@pytest.mark.parametrize("name", FORGED)
def test_what_the_tenants_key_did_not_sign_is_refused_and_granted_nothing(
    outcomes: dict[str, dict[str, Any]], name: str
) -> None:
    found = outcomes[name]
    assert (found["refusal"]["code"], found["items"]) == (FORGED[name][1], [])


def test_forgeries_are_counted_and_no_request_in_the_log(
    service: Service, outcomes: dict[str, dict[str, Any]]
) -> None:
    path = service.up.running.database_url.removeprefix("sqlite:///")
    with closing(sqlite3.connect(path)) as connection:
        ids = connection.execute("SELECT id FROM batches").fetchall()
        counted = connection.execute("SELECT DISTINCT code FROM rejections").fetchall()
    assert (ASKED["batch"],) not in ids
    assert {(found["refusal"]["code"],) for found in outcomes.values()} <= set(counted)


@pytest.mark.usefixtures("outcomes")
def test_after_all_that_the_key_is_answered(producer: Celery) -> None:
    asked = sign_message(grant_message(["vault/b"], tenant="vault"), VAULT, datetime.now(UTC))
    task = producer.send_task("valetkey.issue", args=[asked], queue="valetkey")
    assert open_result(task.get(timeout=15), VAULT)["items"][0]["method"] == "GET"


@pytest.mark.parametrize(
    ("body", "content_type"),
    [
        ("{not json", "application/json"),
        (PICKLE, "application/x-python-serialize"),
        ("- yaml", "application/x-yaml"),
        ("[" * 100_000, "application/json"),
        ("null", "application/json"),
        ("7", "application/json"),
        ('{"no": "arguments"}', "application/json"),
        ('{"args": 7}', "application/json"),
        ("[1, 2]", "application/json"),
        ("[[], [], []]", "application/json"),
    ],
)
def test_a_body_that_is_no_json_call_is_thrown_away(
    service: Service, producer: Celery, body: str, content_type: str
) -> None:
    put(service, body, content_type)
    assert sent(producer, grant_message())["status"] == "issued"


@pytest.mark.parametrize(
    "headers",
    [
        {"id": None},
        {"id": ["a"]},
        {"task": ["valetkey.issue"]},
        {"task": None},
        {"timelimit": "soon"},
        {"timelimit": ["soon", 1]},
        {"eta": "soon"},
        {"eta": 7},
        {"expires": "never"},
        {"expires": {}},
        {"retries": "often"},
        {"shadow": []},
    ],
)
def test_headers_that_celery_would_not_send_are_thrown_away(
    service: Service, producer: Celery, headers: dict[str, Any]
) -> None:
    put(service, json.dumps([[grant_message()], {}, None]), "application/json", **headers)
    assert sent(producer, grant_message())["status"] == "issued"


def test_a_task_that_does_not_exist_is_thrown_away(producer: Celery) -> None:
    producer.send_task("os.system", args=["true"], queue="valetkey")
    assert sent(producer, grant_message())["status"] == "issued"


def test_a_refusal_reaches_the_caller_without_a_traceback(producer: Celery) -> None:
    task = producer.send_task("valetkey.issue", args=[grant_message(v=9)], queue="valetkey")
    assert task.get(timeout=15)["refusal"]["code"] == "version_unknown"
    assert task.traceback is None


def test_a_token_in_a_frame_that_is_thrown_away_is_in_no_log(
    service: Service, producer: Celery
) -> None:
    captured = genuine()
    put(service, json.dumps([[captured], {}, None]), "application/json", timelimit="soon")
    put(service, json.dumps([[captured], {}, None]), "application/json", task="os.system")
    put(service, captured, "application/json")
    assert sent(producer, grant_message())["status"] == "issued"
    assert not any(part in service.written for part in captured.split("."))
    assert "[hidden]" in service.written
