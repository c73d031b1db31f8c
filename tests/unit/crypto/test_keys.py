"""Authentication by keys: only a tenant's own keys authenticate its messages."""

from datetime import timedelta
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
    NOW,
    VALID_TOKEN,
    authenticate_token,
    payload,
    rejection_of,
)
from tests.support.crypto.tenants import ACME_KEY, ACME_SPARE_KEY, GLOBEX_KEY, QUEUEING_KEY
from tests.support.crypto.tokens import forge_token, sign_message, tenant_key
from valetkey.crypto.jose import sign
from valetkey.crypto.keys import PrivateKey
from worker.rules.authentication import AuthenticatedMessage, Rejection, authenticate

KIDS: list[Any] = [7, None, True, [ACME_KEY.id], {"a": 1}]
TENANTS = st.sampled_from(["queueing", "acme"])


SIGNERS = st.sampled_from([ACME_KEY, ACME_SPARE_KEY, GLOBEX_KEY, QUEUEING_KEY])
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text() | st.just("tenant"), inner | TENANTS),
    max_leaves=8,
)


def test_a_signed_message_is_authenticated_without_its_iat() -> None:
    assert authenticate_token(VALID_TOKEN) == AuthenticatedMessage(
        MESSAGE, CONFIG.tenants["acme"], tenant_key(ACME_KEY)
    )


def test_a_signature_is_verified_even_if_the_tenant_trusts_the_queue() -> None:
    message = grant_message(tenant="queueing")
    result = authenticate_token(sign_message(message, QUEUEING_KEY, NOW))
    assert isinstance(result, AuthenticatedMessage)
    assert result.key == tenant_key(QUEUEING_KEY)
    impostor_key = PrivateKey(QUEUEING_KEY.id, GLOBEX_KEY.signing_key, GLOBEX_KEY.decryption_key)
    assert rejection_of(sign_message(message, impostor_key, NOW)) == ("signature_invalid", "")


@pytest.mark.parametrize("raw", [None, [], 7, b"x", {}, {"tenant": 7}, {"tenant": ["acme"]}])
def test_a_value_that_names_no_tenant_is_rejected_as_malformed(raw: Any) -> None:
    result = authenticate_token(raw)
    assert isinstance(result, Rejection)
    assert (result.refusal.code, result.cause, result.tenant_id) == ("malformed", "malformed", None)


@given(st.integers(0, len(VALID_TOKEN) - 1), st.sampled_from("AZaz09-_.=+/ é"))
def test_a_token_with_a_changed_character_is_rejected(index: int, character: str) -> None:
    altered = VALID_TOKEN[:index] + character + VALID_TOKEN[index + 1 :]
    assert isinstance(authenticate_token(altered), Rejection) == (altered != VALID_TOKEN)


@given(st.integers(0, len(VALID_TOKEN)), st.text(min_size=1, max_size=3))
def test_a_token_with_extra_characters_is_rejected(index: int, extra: str) -> None:
    longer = VALID_TOKEN[:index] + extra + VALID_TOKEN[index:]
    assert isinstance(authenticate_token(longer), Rejection)


@given(st.integers(0, len(VALID_TOKEN) - 1), st.integers(0, len(VALID_TOKEN) - 1))
def test_a_part_of_a_token_is_rejected(start: int, end: int) -> None:
    assert isinstance(authenticate_token(VALID_TOKEN[start:end]), Rejection)


@given(st.tuples(SIGNERS, SIGNERS, SIGNERS))
def test_a_token_mixed_from_other_tokens_is_rejected(signers: tuple[PrivateKey, ...]) -> None:
    messages = [(grant_message(tenant=key.tenant), key) for key in signers]
    tokens = [sign_message(message, key, NOW).split(".") for message, key in messages]
    mixed = ".".join(parts[index] for index, parts in enumerate(tokens))
    # Every message has a different batch id, so no mix of parts from several tokens is valid.
    assert isinstance(authenticate_token(mixed), Rejection)


@given(JSON)
def test_every_value_is_authenticated_or_rejected_without_an_error(raw: Any) -> None:
    result = authenticate_token(raw)
    names_queueing = isinstance(raw, dict) and raw.get("tenant") == "queueing"
    assert isinstance(result, AuthenticatedMessage) == names_queueing


@pytest.mark.parametrize(
    "kid",
    [
        *("", "/", "acme", "acme/", "/main", "acme/other", "nobody/main", "ACME/main"),
        *("acme/../globex", "acme/main/", "acme//main", "acme/main\0", " acme/main", "globex/../x"),
    ],
)
def test_a_key_that_is_not_in_the_tenant_config_is_rejected_and_counted_as_unknown(
    kid: str,
) -> None:
    result = authenticate_token(forge_token(HEADER | {"kid": kid}, payload(), ACME_KEY))
    assert isinstance(result, Rejection)
    assert (result.refusal.code, result.cause) == ("signature_invalid", "key_unknown")


@pytest.mark.parametrize(
    ("header", "code"),
    [
        *((HEADER | {"kid": kid}, "token_invalid") for kid in KIDS),
        ({"alg": "EdDSA"}, "signature_invalid"),
        (HEADER | {"kid": ACME_SPARE_KEY.id}, "signature_invalid"),
        (HEADER | {"kid": GLOBEX_KEY.id}, "signature_invalid"),
    ],
)
def test_a_token_whose_header_does_not_name_the_key_that_signed_it_is_rejected(
    header: dict[str, Any], code: str
) -> None:
    assert rejection_of(forge_token(header, payload(), ACME_KEY)) == (code, "")


@pytest.mark.parametrize("tenant", [None, 7, ["acme"], "globex", "ACME", "acme ", {"acme": 1}])
def test_the_tenant_of_the_message_must_equal_the_tenant_of_the_key(tenant: Any) -> None:
    result = authenticate_token(sign(payload(tenant=tenant), ACME_KEY))
    assert isinstance(result, Rejection)
    refusal = result.refusal
    assert (refusal.code, refusal.field, refusal.limit) == ("tenant_mismatch", "tenant", "acme")


def test_a_key_is_valid_until_the_moment_it_expires() -> None:
    token = sign_message(MESSAGE, EXPIRED_KEY, NOW - timedelta(seconds=1))
    result = authenticate(token, CONFIG, NOW - timedelta(microseconds=1))
    assert isinstance(result, AuthenticatedMessage)
