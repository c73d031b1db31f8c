"""Tokens that the tenant's key did not sign: the service issues nothing for any of them."""

import json
import random
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from celery import Celery

from tests.attacks.conftest import GUARDED_KEY as KEY
from tests.attacks.conftest import SEED, AttackTable
from tests.support.builders.messages import grant_message
from tests.support.crypto.tokens import base64url, forge_token, sign_message
from valetkey.crypto.keys import generate_key
from worker.dev.stack import Stack

TAMPERED = 60
ALGORITHMS: list[Any] = [
    *("none", "None", "HS256", "HS512", "RS256", "ES256", "Ed448", ""),
    *(None, 7, []),
]
KEY_IDS: list[Any] = [
    *("acme/tests", "guarded/other", "guarded", "/", "", "guarded/../acme/x"),
    *(None, 7, []),
]
EXTRA_HEADERS: list[dict[str, Any]] = [
    {"crit": ["b64"], "b64": False},
    {"crit": []},
    {"jwk": {"kty": "OKP"}},
    {"zip": "DEF"},
]
PAYLOADS = ("[", "7", "null", "[]", "{}", "[" * 50_000, '{"tenant": "guarded"}', '{"iat": 1e400}')


@pytest.fixture(scope="module")
def producer(stack: Stack) -> Iterator[Celery]:
    with Celery(broker=stack.info.broker_url, backend=stack.info.result_url) as producer:
        yield producer


def message(**changes: Any) -> dict[str, Any]:
    return {**grant_message(["guarded/a.pdf"], tenant="guarded"), **changes}


def tampered_tokens() -> Iterator[str]:
    """Yield a genuine token with one character changed, at random places."""
    randomness = random.Random(SEED)
    token = sign_message(message(), KEY, datetime.now(UTC))
    for _ in range(TAMPERED):
        place = randomness.randrange(len(token) - 2)  # the last characters have unused bits
        other = randomness.choice([c for c in "AZaz09-_." if c != token[place]])
        yield token[:place] + other + token[place + 1 :]


def forged_tokens() -> Iterator[str]:
    """Yield tokens of another form, algorithm, key, time or tenant."""
    now, stranger = datetime.now(UTC), generate_key(KEY.id)
    payload = json.dumps({**message(), "iat": int(now.timestamp())}).encode()
    genuine = sign_message(message(), KEY, now)
    first, content, signature = genuine.split(".")
    yield from ("", ".", "..", "...", genuine + ".", f"{first}.{content}.", f"{first}.{content}")
    yield from (f".{content}.{signature}", f"{first}..{signature}", genuine.upper(), genuine[::-1])
    yield from (json.dumps(message()), "e30.e30.e30", "A" * 10_000, "\x00", "é", genuine * 2)
    for algorithm in ALGORITHMS:
        yield forge_token({"alg": algorithm, "kid": KEY.id}, payload, KEY)
    for key_id in KEY_IDS:
        yield forge_token({"alg": "Ed25519", "kid": key_id}, payload, KEY)
    for extra in EXTRA_HEADERS:
        yield forge_token({"alg": "Ed25519", "kid": KEY.id, **extra}, payload, stranger)
    for text in PAYLOADS:
        yield forge_token({"alg": "Ed25519", "kid": KEY.id}, text.encode(), KEY)
    for shift in (timedelta(hours=-25), timedelta(minutes=5), timedelta(days=9_000)):
        yield sign_message(message(), KEY, now + shift)
    yield sign_message(message(), stranger, now)
    yield sign_message(message(tenant="acme"), KEY, now)
    yield f"{base64url(b'[' * 50_000)}.{content}.{signature}"


def answers(producer: Celery, tokens: list[str]) -> list[Any]:
    tasks = [
        producer.send_task("valetkey.issue", args=[token], queue="valetkey") for token in tokens
    ]
    return [task.get(timeout=60) for task in tasks]


def test_no_token_that_the_key_did_not_sign_is_granted(
    producer: Celery, attack_table: AttackTable
) -> None:
    tokens = [*tampered_tokens(), *forged_tokens()]
    granted = [
        token
        for token, answer in zip(tokens, answers(producer, tokens), strict=True)
        if not isinstance(answer, dict) or answer["status"] != "refused" or answer["items"]
    ]
    attack_table.add("tampered and forged tokens", len(tokens), len(granted))
    assert len(tokens) >= 100
    assert granted == []


def test_a_genuine_token_is_granted_after_all_of_them(producer: Celery) -> None:
    (answer,) = answers(producer, [sign_message(message(), KEY, datetime.now(UTC))])
    assert isinstance(answer, str)  # sealed
