"""Accepts only tokens of one form and algorithm, with JSON content and a recent time.

Strangers do not learn from a rejection which tenants and keys exist. Parts of a rejected message
are counted and sent back.
"""

import json
from dataclasses import replace
from datetime import timedelta
from hashlib import sha256, sha512
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.support.builders.messages import grant_message
from tests.support.crypto.authentication import (
    CONFIG,
    EXPIRED_KEY,
    HEADER,
    IAT,
    MESSAGE,
    NOW,
    REVOKED_KEY,
    VALID_TOKEN,
    authenticate_token,
    payload,
    rejection_of,
)
from tests.support.crypto.tenants import ACME_KEY, ACME_SPARE_KEY, GLOBEX_KEY, IMPOSTOR_KEY
from tests.support.crypto.tokens import base64url, forge_token
from valetkey.crypto.jose import MAX_MESSAGE_BYTES, SignedToken, sign
from valetkey.crypto.keys import PrivateKey, PublicKey, build_public_key
from valetkey.wire.messages import MAX_BATCH_ITEMS
from valetkey.wire.refusals import Code, Refusal
from valetkey.wire.replies import Outcome
from valetkey.wire.terms import NAME_PATTERN
from worker.clock import MAX_CLOCK_SKEW
from worker.rules import authentication
from worker.rules.authentication import (
    MAX_MESSAGE_AGE,
    AuthenticatedMessage,
    Rejection,
    authenticate,
    message_digest,
    parse_claimed_chunk,
)

CRITICAL: list[Any] = [[], 7, [[]], ["exp"], {"b64": 1}]


def rejection(raw: Any) -> Rejection:
    result = authenticate_token(raw)
    assert isinstance(result, Rejection)
    return result


def accepted(raw: Any) -> dict[str, Any]:
    """Return the content of a message that is authenticated."""
    result = authenticate_token(raw)
    assert isinstance(result, AuthenticatedMessage)
    content: dict[str, Any] = result.content
    return content


@pytest.mark.parametrize(
    "text",
    [
        *("é.é.é", f"{VALID_TOKEN}=", f"{VALID_TOKEN}\n"),
        json.dumps({"payload": base64url(payload()), "signatures": []}),
    ],
    ids=["no ASCII", "padding", "a line's end", "another serialization"],
)
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
    assert accepted(own) == MESSAGE
    assert rejection_of(forged) == ("signature_invalid", "")


@pytest.mark.parametrize("alg", ["none", "None", "", "HS256", "ES256", 7, None])
def test_a_token_of_another_algorithm_is_refused_with_the_allowed_ones(alg: Any) -> None:
    refusal = rejection(forge_token(HEADER | {"alg": alg}, payload(), ACME_KEY)).refusal
    assert (str(refusal.code), refusal.field) == ("algorithm_not_allowed", "alg")
    assert refusal.limit == ["Ed25519", "EdDSA"]


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
    refusal = rejection(sign(payload(iat=iat), ACME_KEY)).refusal
    assert (str(refusal.code), refusal.field, refusal.limit) == (code, "iat", limit)


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
    assert accepted(sign(payload(iat=iat), ACME_KEY)) == MESSAGE


NO_OBJECTS = {
    "a byte order mark": b"\xef\xbb\xbf{}",
    "UTF-16": "{}".encode("utf-16"),
    "a number": b"7",
    "a list": b"[]",
    "objects in objects": b'{"a":' * 100_000,
    "a long number": b"1" * 100_000,
    "NaN": b'{"a": NaN}',
    "infinite": b'{"a": 1e999}',
    "a tenant twice": b'{"tenant": "globex", "tenant": "acme"}',
    "a key twice": b'{"items": [{"key": "acme/a", "k\\u0065y": "globex/a"}]}',
}


@pytest.mark.parametrize("content", NO_OBJECTS.values(), ids=NO_OBJECTS)
def test_a_payload_that_is_no_json_object_is_refused(content: bytes) -> None:
    assert rejection_of(sign(content, ACME_KEY)) == ("token_invalid", "")


def test_a_lone_surrogate_in_an_object_key_does_not_refuse_the_batch() -> None:
    items = [{"key": "acme/\ud800"}]
    assert accepted(sign(payload(items=items), ACME_KEY))["items"] == items


def test_a_token_larger_than_the_largest_message_is_refused() -> None:
    refusal = rejection("A" * (MAX_MESSAGE_BYTES * 2)).refusal
    assert (refusal.code, refusal.limit) == ("token_too_large", MAX_MESSAGE_BYTES)
    reason = "x" * (MAX_MESSAGE_BYTES - len(payload(reason="")))
    assert accepted(sign(payload(reason=reason), ACME_KEY))["reason"] == reason


KEYED_TENANTS = ("acme", "globex")
CONFIGURED_KEYS = (ACME_KEY, ACME_SPARE_KEY, GLOBEX_KEY, EXPIRED_KEY, REVOKED_KEY)
ORDER = 2**252 + 27742317777372353535851937790883648493  # of the base point of Ed25519

any_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(st.characters()),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
)
json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=5,
)
contents = st.dictionaries(st.sampled_from([*MESSAGE, "ask", "deadline"]) | st.text(), json_values)
unknown_names = st.from_regex(NAME_PATTERN, fullmatch=True).filter(
    lambda name: name not in CONFIG.tenants
)
unknown_ids = st.text().filter(lambda kid: kid not in {key.id for key in CONFIGURED_KEYS})


@given(contents, unknown_names, st.sampled_from(KEYED_TENANTS))
def test_an_unsigned_message_has_the_same_answer_whether_or_not_its_tenant_exists(
    content: dict[str, Any], unknown: str, known: str
) -> None:
    for message in (content, MESSAGE | content):
        strangers, owners = (rejection(message | {"tenant": name}) for name in (unknown, known))
        assert strangers.refusal.model_dump_json() == owners.refusal.model_dump_json()
        assert owners.refusal.code == "signature_required"
        assert (strangers.cause, strangers.tenant_id) == ("tenant_unknown", None)
        assert (owners.cause, owners.tenant_id) == ("signature_required", known)


@given(
    st.dictionaries(st.text(), json_values),
    st.binary(max_size=100),
    unknown_ids,
    st.sampled_from(CONFIGURED_KEYS),
)
def test_a_forged_token_has_the_same_answer_whether_or_not_its_key_exists(
    header: dict[str, Any], content: bytes, unknown: str, known: PrivateKey
) -> None:
    lengths = {kid: len(json.dumps(kid)) for kid in (unknown, known.id)}
    pads = {kid: "x" * (max(lengths.values()) - length) for kid, length in lengths.items()}
    strangers, owners = (
        rejection(
            forge_token(header | HEADER | {"kid": kid, "pad": pads[kid]}, content, IMPOSTOR_KEY)
        )
        for kid in (unknown, known.id)
    )
    assert strangers.refusal.model_dump_json() == owners.refusal.model_dump_json()
    known_causes = {"key_unknown": "signature_invalid"}
    assert owners.cause == known_causes.get(strangers.cause, strangers.cause)


@pytest.mark.parametrize(
    ("key", "code"), [(EXPIRED_KEY, "key_expired"), (REVOKED_KEY, "key_revoked")]
)
def test_a_key_is_called_expired_or_revoked_only_to_those_who_hold_it(
    key: PrivateKey, code: str
) -> None:
    own, forged = (
        rejection(forge_token(HEADER | {"kid": key.id}, payload(), signer))
        for signer in (key, IMPOSTOR_KEY)
    )
    assert (str(own.refusal.code), own.refusal.field) == (code, "kid")
    assert forged.refusal.code == "signature_invalid"


def test_a_signature_by_the_key_that_stands_in_for_unknown_ones_is_rejected() -> None:
    sign, seal = authentication._NOBODYS_KEY
    head = base64url(json.dumps(HEADER | {"kid": "nobody/main"}).encode())
    signing_input = f"{head}.{base64url(payload())}".encode()
    # With the private scalar 1 and the nonce 0, R is the identity and S the challenge: RFC 8032.
    identity, public = b"\x01" + bytes(31), b"\x58" + b"\x66" * 31
    challenge = int.from_bytes(sha512(identity + public + signing_input).digest(), "little") % ORDER
    token = f"{signing_input.decode()}.{base64url(identity + challenge.to_bytes(32, 'little'))}"
    assert SignedToken(token).verify(build_public_key(sign, seal)) == payload()
    result = rejection(token)
    assert (result.refusal.code, result.cause) == ("signature_invalid", "key_unknown")


def test_an_unknown_key_is_verified_against_like_a_known_one(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    verified: list[PublicKey] = []
    verify = SignedToken.verify

    def record_and_verify(token: SignedToken, key: PublicKey) -> bytes:
        verified.append(key)
        return verify(token, key)

    monkeypatch.setattr(SignedToken, "verify", record_and_verify)
    for kid in ("nobody/main", "acme/none", ACME_KEY.id):
        rejection(forge_token(HEADER | {"kid": kid}, payload(), IMPOSTOR_KEY))
    assert len(verified) == 3


def test_the_answer_says_what_a_legitimate_sender_has_to_check() -> None:
    forged = rejection(forge_token(HEADER, payload(), IMPOSTOR_KEY)).refusal.message
    assert all(text in forged for text in ("TENANT/NAME", "tenants.toml", "applied", "altered"))
    unsigned = rejection(grant_message()).refusal.message
    assert all(text in unsigned for text in ("name", "tenant's key"))


BATCH = "019ab1f0-5c00-7000-8000-000000000001"


def nested_list(depth: int) -> list[Any]:
    value: list[Any] = []
    for _ in range(depth):
        value = [value]
    return value


def test_the_digest_of_a_message_is_that_of_its_text() -> None:
    assert message_digest("a.b.c") == sha256(b"a.b.c").digest()
    assert message_digest({"items": [b"x"]}) == sha256(b'{"items": ["b\'x\'"]}').digest()


def test_equal_messages_have_equal_digests_in_any_order_of_members() -> None:
    assert message_digest({"v": 1, "tenant": "acme"}) == message_digest({"tenant": "acme", "v": 1})
    assert message_digest({"v": 1}) != message_digest({"v": 2})


def test_messages_that_are_nested_too_deeply_have_the_same_digest() -> None:
    assert message_digest(nested_list(100_000)) == message_digest(nested_list(200_000))


@given(any_values)
def test_every_message_has_a_digest(raw: Any) -> None:
    assert len(message_digest(raw)) == 32


@pytest.mark.parametrize("content", [None, 7, "a.b.c", [], ["batch"], {}, {"chunk": None}])
def test_a_message_without_a_batch_claims_none(content: Any) -> None:
    assert parse_claimed_chunk(content) == ("", 0)


@pytest.mark.parametrize(
    ("batch", "expected"),
    [
        (7, ""),
        ([BATCH], ""),
        ("x" * 1_000_000, "x" * 36),
        ("a\0b", "a\\0b"),
        ("a\ud800b", "a\\ud800b"),
    ],
)
def test_a_batch_id_is_cut_and_made_printable(batch: Any, expected: str) -> None:
    assert parse_claimed_chunk({"batch": batch, "chunk": 1}) == (expected, 1)


@pytest.mark.parametrize("chunk", [-1, MAX_BATCH_ITEMS, 2**80, True, 1.0, "1", None])
def test_an_invalid_chunk_number_is_replaced_by_0(chunk: Any) -> None:
    assert parse_claimed_chunk({"batch": BATCH, "chunk": chunk}) == (BATCH, 0)


@given(any_values, any_values)
def test_every_claim_fits_into_a_response(batch: Any, chunk: Any) -> None:
    claimed, number = parse_claimed_chunk({"batch": batch, "chunk": chunk})
    refusal = Refusal(code=Code.MALFORMED, field="", message="")
    outcome = Outcome(batch=claimed, chunk=number, status="refused", refusal=refusal)
    assert Outcome.model_validate_json(outcome.model_dump_json()) == outcome
