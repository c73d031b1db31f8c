"""Accepts only tokens of one form and algorithm, with JSON content and a recent time."""

import json
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest

from tests.support.crypto.authentication import (
    CONFIG,
    HEADER,
    IAT,
    MESSAGE,
    NOW,
    VALID_TOKEN,
    authenticate_token,
    payload,
    rejection_of,
)
from tests.support.crypto.tenants import ACME_KEY, GLOBEX_KEY
from tests.support.crypto.tokens import base64url, forge_token
from valetkey.crypto.jose import MAX_MESSAGE_BYTES, sign
from worker.core.authentication import (
    MAX_CLOCK_SKEW,
    MAX_MESSAGE_AGE,
    AuthenticatedMessage,
    Rejection,
    authenticate,
)

CRITICAL: list[Any] = [[], 7, [[]], ["exp"], {"b64": 1}]


NO_TOKENS = {
    "no ASCII": "é.é.é",
    "another serialization": json.dumps({"payload": base64url(payload()), "signatures": []}),
    "padding": f"{VALID_TOKEN}=",
    "a line's end": f"{VALID_TOKEN}\n",
}


@pytest.mark.parametrize("text", NO_TOKENS.values(), ids=NO_TOKENS)
def test_a_text_that_is_no_compact_token_of_three_parts_is_refused(text: str) -> None:
    assert rejection_of(text)[0] in {"token_invalid", "signature_invalid"}


@pytest.mark.parametrize(
    "header",
    [
        *(["alg", "kid"], "alg", None, 7, {}, {"kid": ACME_KEY.id}),
        *({**HEADER, "crit": crit} for crit in CRITICAL),
        {**HEADER, "crit": ["exp"], "exp": 1},
        {**HEADER, "b64": True},
        {**HEADER, "b64": False},
        {**HEADER, "typ": 7},
        {**HEADER, "jku": "ftp://example.com/"},
    ],
)
def test_an_invalid_or_extended_header_is_refused(header: Any) -> None:
    assert rejection_of(forge_token(header, payload(), ACME_KEY)) == ("token_invalid", "")


def test_additional_header_members_are_ignored() -> None:
    jwk = GLOBEX_KEY.signing_key.as_dict(private=False)
    header = HEADER | {"typ": "JOSE", "jwk": jwk, "x5u": "https://evil.example/", "nonce": 7}
    own, forged = (forge_token(header, payload(), key) for key in (ACME_KEY, GLOBEX_KEY))
    assert isinstance(authenticate_token(own), AuthenticatedMessage)
    assert rejection_of(forged) == ("signature_invalid", "")


@pytest.mark.parametrize("alg", ["none", "None", "", "HS256", "ES256", 7, None])
def test_a_token_of_another_algorithm_is_refused_with_the_allowed_ones(alg: Any) -> None:
    result = authenticate_token(forge_token(HEADER | {"alg": alg}, payload(), ACME_KEY))
    assert isinstance(result, Rejection)
    assert (str(result.refusal.code), result.refusal.field) == ("algorithm_not_allowed", "alg")
    assert result.refusal.limit == ["Ed25519", "EdDSA"]


@pytest.mark.parametrize(
    "content",
    [
        pytest.param(json.dumps(MESSAGE).encode(), id="none"),
        *(payload(iat=iat) for iat in (None, True, -1, -(2**80), 1.5, float(IAT), str(IAT), [IAT])),
    ],
)
def test_an_iat_that_is_no_whole_number_of_seconds_is_refused(content: bytes) -> None:
    assert rejection_of(sign(content, ACME_KEY)) == ("claim_missing", "iat")


@pytest.mark.parametrize(
    ("iat", "code", "limit"),
    [
        (IAT - MAX_MESSAGE_AGE - 1, "message_expired", 86_400),
        (IAT + MAX_CLOCK_SKEW + 1, "message_from_future", 60),
        (10**4_000, "message_from_future", 60),
    ],
)
def test_a_message_that_is_too_old_or_from_the_future_is_refused_with_the_limit(
    iat: int, code: str, limit: int
) -> None:
    result = authenticate_token(sign(payload(iat=iat), ACME_KEY))
    assert isinstance(result, Rejection)
    assert (str(result.refusal.code), result.refusal.field) == (code, "iat")
    assert result.refusal.limit == limit


@pytest.mark.parametrize(
    ("tenant_id", "created_after", "code"),
    [
        ("acme~2", 1, "message_expired"),
        ("acme~2", 0.9, None),  # iat has whole seconds
        ("acme~2", -1, None),
        ("acme", 1, None),  # the first of its name: no earlier tenant can have signed
    ],
)
def test_a_message_signed_before_its_tenant_replaced_another_is_refused(
    tenant_id: str, created_after: float, code: str | None
) -> None:
    created_at = NOW + timedelta(seconds=created_after)
    acme = replace(CONFIG.tenants["acme"], id=tenant_id, created_at=created_at)
    config = replace(CONFIG, tenants={**CONFIG.tenants, "acme": acme})
    result = authenticate(VALID_TOKEN, config, created_at)
    assert (result.refusal.code if isinstance(result, Rejection) else None) == code


@pytest.mark.parametrize("iat", [IAT - MAX_MESSAGE_AGE, IAT, IAT + MAX_CLOCK_SKEW])
def test_a_message_within_the_time_limits_is_accepted(iat: int) -> None:
    assert isinstance(authenticate_token(sign(payload(iat=iat), ACME_KEY)), AuthenticatedMessage)


NO_OBJECTS = {
    "a byte order mark": b"\xef\xbb\xbf{}",
    "UTF-16": "{}".encode("utf-16"),
    "a number": b"7",
    "a list": b"[]",
    "objects in objects": b'{"a":' * 100_000,
    "a long number": b"1" * 100_000,
    "NaN": b'{"a": NaN}',
}


@pytest.mark.parametrize("content", NO_OBJECTS.values(), ids=NO_OBJECTS)
def test_a_payload_that_is_no_json_object_is_refused(content: bytes) -> None:
    assert rejection_of(sign(content, ACME_KEY)) == ("token_invalid", "")


def test_the_last_of_duplicate_members_counts() -> None:
    twice = payload()[:-1] + b', "tenant": "globex"}'
    assert rejection_of(sign(twice, ACME_KEY)) == ("tenant_mismatch", "tenant")
    result = authenticate_token(sign(b'{"tenant": "globex", ' + payload()[1:], ACME_KEY))
    assert isinstance(result, AuthenticatedMessage)
    assert result.content == MESSAGE


def test_a_lone_surrogate_in_an_object_key_does_not_refuse_the_batch() -> None:
    result = authenticate_token(sign(payload(items=[{"key": "acme/\ud800"}]), ACME_KEY))
    assert isinstance(result, AuthenticatedMessage)
    assert result.content["items"] == [{"key": "acme/\ud800"}]


def test_a_token_larger_than_any_message_is_refused() -> None:
    result = authenticate_token("A" * (MAX_MESSAGE_BYTES * 2))
    assert isinstance(result, Rejection)
    assert (result.refusal.code, result.refusal.limit) == ("token_too_large", MAX_MESSAGE_BYTES)


def test_the_largest_message_is_accepted() -> None:
    length = MAX_MESSAGE_BYTES - len(payload(reason=""))
    token = sign(payload(reason="x" * length), ACME_KEY)
    assert isinstance(authenticate_token(token), AuthenticatedMessage)
