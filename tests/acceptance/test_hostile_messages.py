"""Hostile messages in the queue: they are refused or discarded, and the worker stays alive."""

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

from tests.acceptance.conftest import ACME_KEY, VAULT_KEY, Service
from tests.support.builders.messages import grant_message, upload_message
from tests.support.crypto.tokens import (
    base64url,
    forge_token,
    sign_message,
    tenant_keys,
    unseal_result,
)
from tests.support.servers.waiting import wait_until
from valetkey.crypto.keys import generate_key

PICKLE = b64encode(pickle.dumps(grant_message())).decode()


@pytest.fixture(scope="module")
def producer(service: Service) -> Celery:
    """A Celery application that knows only the broker and the result store."""
    info = service.stack.info
    return Celery("anyone", broker=info.broker_url, backend=info.result_url)


def send_request(producer: Celery, *args: Any, **kwargs: Any) -> dict[str, Any]:
    task = producer.send_task("valetkey.issue", args=args, kwargs=kwargs, queue="valetkey")
    outcome: dict[str, Any] = task.get(timeout=15)
    return outcome


def put_raw_message(service: Service, body: str, content_type: str, **headers: Any) -> None:
    """Put a raw message into the queue, in the format in which kombu stores it in Redis."""
    frame = {
        "body": body,
        "content-type": content_type,
        "content-encoding": "utf-8",
        "headers": {"task": "valetkey.issue", "id": "hostile"} | headers,
        "properties": {"delivery_tag": "t", "delivery_info": {"exchange": "", "routing_key": ""}},
    }
    broker = redis.Redis.from_url(service.stack.info.broker_url)
    broker.lpush("valetkey", json.dumps(frame))
    wait_until(lambda: broker.llen("valetkey") == 0, what="the worker takes the message")
    broker.close()


def test_a_plain_celery_producer_is_answered(producer: Celery) -> None:
    assert send_request(producer, grant_message())["items"][0]["method"] == "GET"
    assert send_request(producer, upload_message(["acme/x.png"]))["items"][0]["method"] == "POST"


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
    assert send_request(producer, *args, **kwargs)["refusal"]["code"] == code


MESSAGE = grant_message(["vault/a"], tenant="vault")
TOKEN_HEADER = {"alg": "Ed25519", "kid": VAULT_KEY.id}
UNKNOWN_KEY = generate_key(VAULT_KEY.id)


def genuine_token() -> str:
    return sign_message(MESSAGE, VAULT_KEY, datetime.now(UTC))


def token_with_other_content() -> str:
    header, _, signature = genuine_token().split(".")
    return ".".join(
        [header, base64url(json.dumps(MESSAGE | {"reason": "mine"}).encode()), signature]
    )


def token_signed_with_the_public_key() -> str:
    text = genuine_token().rpartition(".")[0].partition(".")[2]
    text = f"{base64url(json.dumps(TOKEN_HEADER | {'alg': 'HS256'}).encode())}.{text}"
    secret = tenant_keys(VAULT_KEY)["tests"].sign.encode()
    return f"{text}.{base64url(hmac.digest(secret, text.encode(), 'sha256'))}"


FORGERIES: dict[str, tuple[Callable[[], Any], str]] = {
    "nothing": (lambda: "", "token_invalid"),
    "the message as text": (lambda: json.dumps(MESSAGE), "token_invalid"),
    "five parts": (lambda: f"{genuine_token()}.AAAA.AAAA", "token_invalid"),
    "no signature": (lambda: genuine_token().rpartition(".")[0] + ".", "signature_invalid"),
    "algorithm none": (
        lambda: forge_token(TOKEN_HEADER | {"alg": "none"}, b"{}", VAULT_KEY),
        "algorithm_not_allowed",
    ),
    "the public key as a secret": (token_signed_with_the_public_key, "algorithm_not_allowed"),
    "a stranger's key": (
        lambda: sign_message(MESSAGE, UNKNOWN_KEY, datetime.now(UTC)),
        "signature_invalid",
    ),
    "other content": (token_with_other_content, "signature_invalid"),
    "a key that is not configured": (
        lambda: forge_token(TOKEN_HEADER | {"kid": "vault/../acme"}, b"{}", VAULT_KEY),
        "signature_invalid",
    ),
    "another tenant's key": (
        lambda: sign_message(MESSAGE, ACME_KEY, datetime.now(UTC)),
        "tenant_mismatch",
    ),
    "a critical extension": (
        lambda: forge_token(TOKEN_HEADER | {"crit": ["b64"], "b64": False}, b"{}", VAULT_KEY),
        "token_invalid",
    ),
    "content nested beyond reason": (
        lambda: forge_token(TOKEN_HEADER, b"[" * 100_000, VAULT_KEY),
        "token_invalid",
    ),
    "yesterday's": (
        lambda: sign_message(MESSAGE, VAULT_KEY, datetime.now(UTC) - timedelta(hours=25)),
        "message_expired",
    ),
    "tomorrow's": (
        lambda: sign_message(MESSAGE, VAULT_KEY, datetime.now(UTC) + timedelta(hours=25)),
        "message_from_future",
    ),
    "six megabytes": (lambda: "A" * 6_000_000, "token_too_large"),
    "unsigned": (lambda: MESSAGE, "signature_required"),
}


@pytest.fixture(scope="module")
def outcomes(producer: Celery) -> dict[str, dict[str, Any]]:
    """The outcome of each forgery, sent one after the other."""
    return {name: send_request(producer, make()) for name, (make, _) in FORGERIES.items()}


@pytest.mark.parametrize("name", FORGERIES)
def test_a_message_that_the_tenants_key_did_not_sign_is_refused(
    outcomes: dict[str, dict[str, Any]], name: str
) -> None:
    outcome = outcomes[name]
    assert (outcome["refusal"]["code"], outcome["items"]) == (FORGERIES[name][1], [])


def test_forgeries_are_counted_but_not_recorded_as_requests(
    service: Service, outcomes: dict[str, dict[str, Any]]
) -> None:
    path = service.stack.info.database_url.removeprefix("sqlite:///")
    with closing(sqlite3.connect(path)) as connection:
        ids = connection.execute("SELECT batch_id FROM batches").fetchall()
        codes = connection.execute("SELECT DISTINCT code FROM rejections").fetchall()
    assert (MESSAGE["batch"],) not in ids
    assert {(outcome["refusal"]["code"],) for outcome in outcomes.values()} <= set(codes)


@pytest.mark.usefixtures("outcomes")
def test_after_all_forgeries_the_key_still_works(producer: Celery) -> None:
    token = sign_message(grant_message(["vault/b"], tenant="vault"), VAULT_KEY, datetime.now(UTC))
    task = producer.send_task("valetkey.issue", args=[token], queue="valetkey")
    assert unseal_result(task.get(timeout=15), VAULT_KEY)["items"][0]["method"] == "GET"


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
def test_a_body_that_is_no_json_call_is_discarded(
    service: Service, producer: Celery, body: str, content_type: str
) -> None:
    put_raw_message(service, body, content_type)
    assert send_request(producer, grant_message())["status"] == "issued"


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
def test_headers_that_celery_would_not_send_are_discarded(
    service: Service, producer: Celery, headers: dict[str, Any]
) -> None:
    put_raw_message(
        service, json.dumps([[grant_message()], {}, None]), "application/json", **headers
    )
    assert send_request(producer, grant_message())["status"] == "issued"


def test_a_task_that_does_not_exist_is_discarded(producer: Celery) -> None:
    producer.send_task("os.system", args=["true"], queue="valetkey")
    assert send_request(producer, grant_message())["status"] == "issued"


def test_a_refusal_reaches_the_caller_without_a_traceback(producer: Celery) -> None:
    task = producer.send_task("valetkey.issue", args=[grant_message(v=9)], queue="valetkey")
    assert task.get(timeout=15)["refusal"]["code"] == "version_unknown"
    assert task.traceback is None


def test_a_token_in_a_frame_that_is_discarded_is_in_no_log(
    service: Service, producer: Celery
) -> None:
    token = genuine_token()
    put_raw_message(service, json.dumps([[token], {}, None]), "application/json", timelimit="soon")
    put_raw_message(service, json.dumps([[token], {}, None]), "application/json", task="os.system")
    put_raw_message(service, token, "application/json")
    assert send_request(producer, grant_message())["status"] == "issued"
    assert not any(part in service.logs for part in token.split("."))
    assert "[hidden]" in service.logs
