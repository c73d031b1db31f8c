"""Which tokens are taken: of one form and algorithm, of JSON, and of today."""

import hmac
import json
from hashlib import sha256
from typing import Any

import pytest

from tests import keys
from tests.judging import (
    ASKED,
    GENUINE,
    HEADER,
    IAT,
    content,
    judged,
    refused,
)
from tests.signed import base64, forged
from tests.speaking import OURS, THEIRS
from valetkey.sealing import LARGEST_MESSAGE, sign
from worker.core.identity import LONGEST_WAY, SKEW, Genuine, Rejected

CRITICAL: list[Any] = [[], 7, [[]], ["exp"], {"b64": 1}]


NO_TOKENS = {
    "nothing": "",
    "a dot": ".",
    "two dots": "..",
    "a text": "text",
    "no ASCII": "é.é.é",
    "half a character": "\ud800",
    "the message": json.dumps(ASKED),
    "another serialization": json.dumps({"payload": base64(content()), "signatures": []}),
    "five parts": f"{GENUINE}.AAAA.AAAA",
    "padding": f"{GENUINE}=",
    "a space before": f" {GENUINE}",
    "a line's end": f"{GENUINE}\n",
}


@pytest.mark.parametrize("name", NO_TOKENS)
def test_what_is_no_compact_token_of_three_parts_is_refused(name: str) -> None:
    assert refused(NO_TOKENS[name])[0] in {"token_invalid", "signature_invalid"}


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
    assert refused(forged(header, content(), OURS)) == ("token_invalid", "")


def test_a_header_may_say_more_and_is_not_listened_to() -> None:
    jwk = THEIRS.signing.as_dict(private=False)
    more = {"typ": "JOSE", "jwk": jwk, "x5u": "https://evil.example/", "nonce": 7}
    assert isinstance(judged(forged(HEADER | more, content(), OURS)), Genuine)
    assert refused(forged(HEADER | more, content(), THEIRS)) == ("signature_invalid", "")


@pytest.mark.parametrize("alg", ["none", "None", "", "HS256", "RS256", "ES256", "PS512", 7, None])
def test_a_token_of_another_algorithm_is_refused_and_told_which_is_used(alg: Any) -> None:
    found = judged(forged(HEADER | {"alg": alg}, content(), OURS))
    assert isinstance(found, Rejected)
    assert (found.refusal.code.value, found.refusal.field) == ("algorithm_not_allowed", "alg")
    assert found.refusal.limit == ["Ed25519", "EdDSA"]


def test_a_token_without_a_signature_is_nobodys() -> None:
    head, body, _ = GENUINE.split(".")
    assert refused(f"{head}.{body}.") == ("signature_invalid", "")
    none = base64(json.dumps(HEADER | {"alg": "none"}).encode())
    assert refused(f"{none}.{body}.") == ("algorithm_not_allowed", "alg")


def test_the_public_key_is_no_secret_to_sign_with() -> None:
    text = f"{base64(json.dumps(HEADER | {'alg': 'HS256'}).encode())}.{base64(content())}"
    secret = keys.declared(OURS).sign.encode()
    made = base64(hmac.digest(secret, text.encode(), sha256))
    assert refused(f"{text}.{made}") == ("algorithm_not_allowed", "alg")


@pytest.mark.parametrize("iat", [None, True, -1, -(2**80), 1.5, float(IAT), str(IAT), [IAT]])
def test_a_time_that_is_no_whole_number_of_seconds_is_refused(iat: Any) -> None:
    assert refused(sign(content(iat=iat), OURS)) == ("claim_missing", "iat")


def test_a_message_without_a_time_is_refused() -> None:
    assert refused(sign(json.dumps(ASKED).encode(), OURS)) == ("claim_missing", "iat")


@pytest.mark.parametrize(
    ("iat", "code", "limit"),
    [
        (IAT - LONGEST_WAY - 1, "message_expired", 86_400),
        (0, "message_expired", 86_400),
        (IAT + SKEW + 1, "message_from_future", 60),
        (2**63, "message_from_future", 60),
        (10**4_000, "message_from_future", 60),
    ],
)
def test_a_message_of_another_time_is_refused_with_the_limit(
    iat: int, code: str, limit: int
) -> None:
    found = judged(sign(content(iat=iat), OURS))
    assert isinstance(found, Rejected)
    assert (found.refusal.code.value, found.refusal.field) == (code, "iat")
    assert found.refusal.limit == limit


@pytest.mark.parametrize("iat", [IAT - LONGEST_WAY, IAT, IAT + SKEW])
def test_a_message_within_the_limits_of_time_is_taken(iat: int) -> None:
    assert isinstance(judged(sign(content(iat=iat), OURS)), Genuine)


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
    assert refused(sign(NO_OBJECTS[name], OURS)) == ("token_invalid", "")


def test_of_members_that_come_twice_the_last_one_counts_for_all_that_follows() -> None:
    twice = content()[:-1] + b', "tenant": "globex"}'
    assert refused(sign(twice, OURS)) == ("tenant_mismatch", "tenant")
    found = judged(sign(b'{"tenant": "globex", ' + content()[1:], OURS))
    assert isinstance(found, Genuine)
    assert found.content == ASKED


def test_half_a_character_is_one_keys_trouble_and_not_the_batchs() -> None:
    found = judged(sign(content(items=[{"key": "acme/\ud800"}]), OURS))
    assert isinstance(found, Genuine)
    assert found.content["items"] == [{"key": "acme/\ud800"}]


def test_a_token_larger_than_any_message_is_refused_unread() -> None:
    found = judged("A" * (LARGEST_MESSAGE * 2))
    assert isinstance(found, Rejected)
    assert (found.refusal.code.value, found.refusal.limit) == ("token_too_large", LARGEST_MESSAGE)
    assert refused(forged(HEADER | {"kid": "k" * 10**6}, content(), OURS))[0] == "token_too_large"


def test_the_largest_message_is_taken() -> None:
    room = LARGEST_MESSAGE - len(content(reason=""))
    assert isinstance(judged(sign(content(reason="x" * room), OURS)), Genuine)
