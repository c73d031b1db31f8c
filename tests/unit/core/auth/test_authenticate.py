"""Which tokens are taken: of one form and algorithm, of JSON, and of today."""

import hmac
import json
from hashlib import sha256
from typing import Any

import pytest

from tests.support.crypto import keys
from tests.support.crypto.authentication import (
    HEADER,
    IAT,
    MESSAGE,
    VALID_TOKEN,
    authenticate_token,
    content,
    rejection_of,
)
from tests.support.crypto.tenants import OURS, THEIRS
from tests.support.crypto.tokens import base64, forge_token
from valetkey.crypto.jose import MAX_MESSAGE_BYTES, sign
from worker.core.auth.authenticate import MAX_CLOCK_SKEW, MAX_MESSAGE_AGE, Authenticated, Rejection

CRITICAL: list[Any] = [[], 7, [[]], ["exp"], {"b64": 1}]


NO_TOKENS = {
    "nothing": "",
    "a dot": ".",
    "two dots": "..",
    "a text": "text",
    "no ASCII": "é.é.é",
    "half a character": "\ud800",
    "the message": json.dumps(MESSAGE),
    "another serialization": json.dumps({"payload": base64(content()), "signatures": []}),
    "five parts": f"{VALID_TOKEN}.AAAA.AAAA",
    "padding": f"{VALID_TOKEN}=",
    "a space before": f" {VALID_TOKEN}",
    "a line's end": f"{VALID_TOKEN}\n",
}


@pytest.mark.parametrize("name", NO_TOKENS)
def test_what_is_no_compact_token_of_three_parts_is_refused(name: str) -> None:
    assert rejection_of(NO_TOKENS[name])[0] in {"token_invalid", "signature_invalid"}


@pytest.mark.parametrize(
    "header",
    [
        *(["alg", "kid"], "alg", None, 7, {}, {"kid": OURS.id}),
        *({**HEADER, "crit": crit} for crit in CRITICAL),
        {**HEADER, "crit": ["exp"], "exp": 1},
        {**HEADER, "b64": True},
        {**HEADER, "b64": False},
        {**HEADER, "b64": False, "crit": ["b64"]},
        {**HEADER, "typ": 7},
        {**HEADER, "jku": "ftp://example.com/"},
    ],
)
def test_a_header_that_is_not_a_tokens_or_extends_it_is_refused(header: Any) -> None:
    assert rejection_of(forge_token(header, content(), OURS)) == ("token_invalid", "")


def test_a_header_may_say_more_and_is_not_listened_to() -> None:
    jwk = THEIRS.signing.as_dict(private=False)
    more = {"typ": "JOSE", "jwk": jwk, "x5u": "https://evil.example/", "nonce": 7}
    assert isinstance(
        authenticate_token(forge_token(HEADER | more, content(), OURS)), Authenticated
    )
    assert rejection_of(forge_token(HEADER | more, content(), THEIRS)) == ("signature_invalid", "")


@pytest.mark.parametrize("alg", ["none", "None", "", "HS256", "RS256", "ES256", "PS512", 7, None])
def test_a_token_of_another_algorithm_is_refused_and_told_which_is_used(alg: Any) -> None:
    found = authenticate_token(forge_token(HEADER | {"alg": alg}, content(), OURS))
    assert isinstance(found, Rejection)
    assert (found.refusal.code.value, found.refusal.field) == ("algorithm_not_allowed", "alg")
    assert found.refusal.limit == ["Ed25519", "EdDSA"]


def test_a_token_without_a_signature_is_nobodys() -> None:
    head, body, _ = VALID_TOKEN.split(".")
    assert rejection_of(f"{head}.{body}.") == ("signature_invalid", "")
    none = base64(json.dumps(HEADER | {"alg": "none"}).encode())
    assert rejection_of(f"{none}.{body}.") == ("algorithm_not_allowed", "alg")


def test_the_public_key_is_no_secret_to_sign_with() -> None:
    text = f"{base64(json.dumps(HEADER | {'alg': 'HS256'}).encode())}.{base64(content())}"
    secret = keys.tenant_key(OURS).sign.encode()
    made = base64(hmac.digest(secret, text.encode(), sha256))
    assert rejection_of(f"{text}.{made}") == ("algorithm_not_allowed", "alg")


@pytest.mark.parametrize("iat", [None, True, -1, -(2**80), 1.5, float(IAT), str(IAT), [IAT]])
def test_a_time_that_is_no_whole_number_of_seconds_is_refused(iat: Any) -> None:
    assert rejection_of(sign(content(iat=iat), OURS)) == ("claim_missing", "iat")


def test_a_message_without_a_time_is_refused() -> None:
    assert rejection_of(sign(json.dumps(MESSAGE).encode(), OURS)) == ("claim_missing", "iat")


@pytest.mark.parametrize(
    ("iat", "code", "limit"),
    [
        (IAT - MAX_MESSAGE_AGE - 1, "message_expired", 86_400),
        (0, "message_expired", 86_400),
        (IAT + MAX_CLOCK_SKEW + 1, "message_from_future", 60),
        (2**63, "message_from_future", 60),
        (10**4_000, "message_from_future", 60),
    ],
)
def test_a_message_of_another_time_is_refused_with_the_limit(
    iat: int, code: str, limit: int
) -> None:
    found = authenticate_token(sign(content(iat=iat), OURS))
    assert isinstance(found, Rejection)
    assert (found.refusal.code.value, found.refusal.field) == (code, "iat")
    assert found.refusal.limit == limit


@pytest.mark.parametrize("iat", [IAT - MAX_MESSAGE_AGE, IAT, IAT + MAX_CLOCK_SKEW])
def test_a_message_within_the_limits_of_time_is_taken(iat: int) -> None:
    assert isinstance(authenticate_token(sign(content(iat=iat), OURS)), Authenticated)


NO_OBJECTS = {
    "nothing": b"",
    "a text": b"text",
    "half of one": b"{",
    "no UTF-8": b"\xff",
    "a byte order mark": b"\xef\xbb\xbf{}",
    "UTF-16": "{}".encode("utf-16"),
    "a number": b"7",
    "null": b"null",
    "a list": b"[]",
    "a string": b'"acme"',
    "lists in lists": b"[" * 100_000,
    "objects in objects": b'{"a":' * 100_000,
    "a long number": b"1" * 100_000,
    "NaN": b'{"a": NaN}',
    "infinity": b'{"a": -Infinity}',
}


@pytest.mark.parametrize("name", NO_OBJECTS)
def test_what_was_signed_and_is_no_json_object_is_refused(name: str) -> None:
    assert rejection_of(sign(NO_OBJECTS[name], OURS)) == ("token_invalid", "")


def test_of_members_that_come_twice_the_last_one_counts_for_all_that_follows() -> None:
    twice = content()[:-1] + b', "tenant": "globex"}'
    assert rejection_of(sign(twice, OURS)) == ("tenant_mismatch", "tenant")
    found = authenticate_token(sign(b'{"tenant": "globex", ' + content()[1:], OURS))
    assert isinstance(found, Authenticated)
    assert found.content == MESSAGE


def test_half_a_character_is_one_keys_trouble_and_not_the_batchs() -> None:
    found = authenticate_token(sign(content(items=[{"key": "acme/\ud800"}]), OURS))
    assert isinstance(found, Authenticated)
    assert found.content["items"] == [{"key": "acme/\ud800"}]


def test_a_token_larger_than_any_message_is_refused_unread() -> None:
    found = authenticate_token("A" * (MAX_MESSAGE_BYTES * 2))
    assert isinstance(found, Rejection)
    assert (found.refusal.code.value, found.refusal.limit) == ("token_too_large", MAX_MESSAGE_BYTES)
    assert (
        rejection_of(forge_token(HEADER | {"kid": "k" * 10**6}, content(), OURS))[0]
        == "token_too_large"
    )


def test_the_largest_message_is_taken() -> None:
    room = MAX_MESSAGE_BYTES - len(content(reason=""))
    assert isinstance(authenticate_token(sign(content(reason="x" * room), OURS)), Authenticated)
