"""Strangers do not learn from a rejection which tenants and keys exist."""

import json
from hashlib import sha512
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.support.builders.messages import grant_message
from tests.support.crypto.authentication import (
    CONFIG,
    EXPIRED_KEY,
    HEADER,
    MESSAGE,
    REVOKED_KEY,
    authenticate_token,
    payload,
)
from tests.support.crypto.tenants import ACME_KEY, ACME_SPARE_KEY, GLOBEX_KEY, IMPOSTOR_KEY
from tests.support.crypto.tokens import base64url, forge_token
from valetkey.crypto.jose import SignedToken
from valetkey.crypto.keys import PrivateKey, PublicKey, build_public_key
from valetkey.wire.terms import NAME_PATTERN
from worker.core import authentication
from worker.core.authentication import Rejection

KEYED_TENANTS = ("acme", "globex")
CONFIGURED_KEYS = (ACME_KEY, ACME_SPARE_KEY, GLOBEX_KEY, EXPIRED_KEY, REVOKED_KEY)
ORDER = 2**252 + 27742317777372353535851937790883648493  # of the base point of Ed25519

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


def rejection(raw: Any) -> Rejection:
    result = authenticate_token(raw)
    assert isinstance(result, Rejection)
    return result


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
