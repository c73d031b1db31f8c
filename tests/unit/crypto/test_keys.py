"""Who may speak for a tenant: whoever holds its key, and nobody else whatever they send."""

from datetime import timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.support.builders.messages import grant_message
from tests.support.crypto import keys
from tests.support.crypto.authentication import (
    CONFIG,
    HEADER,
    LOST,
    MESSAGE,
    NOW,
    OLD,
    VALID_TOKEN,
    authenticate_token,
    content,
    rejection_of,
)
from tests.support.crypto.tenants import OURS, QUEUES, SPARE, THEIRS
from tests.support.crypto.tokens import forge_token, sign_message
from valetkey.crypto.jose import sign
from valetkey.crypto.keys import PrivateKey
from worker.core.auth.authenticate import Authenticated, Rejection, authenticate


def test_a_signed_message_is_its_keys_and_says_no_more_than_the_message() -> None:
    assert authenticate_token(VALID_TOKEN) == Authenticated(
        MESSAGE, CONFIG.tenants["acme"], keys.tenant_key(OURS)
    )


def test_each_key_of_a_tenant_speaks_for_it() -> None:
    found = authenticate_token(sign_message(MESSAGE, SPARE, NOW))
    assert isinstance(found, Authenticated)
    assert found.key == keys.tenant_key(SPARE)


def test_a_signed_message_of_a_tenant_that_trusts_the_queue_is_held_against_its_key() -> None:
    asked = grant_message(tenant="queueing")
    found = authenticate_token(sign_message(asked, QUEUES, NOW))
    assert isinstance(found, Authenticated)
    assert found.key == keys.tenant_key(QUEUES)
    stranger = PrivateKey(QUEUES.id, THEIRS.signing, THEIRS.opening)
    assert rejection_of(sign_message(asked, stranger, NOW)) == ("signature_invalid", "")


def test_an_unsigned_message_is_vouched_for_by_the_queue_only_where_the_tenant_trusts_it() -> None:
    asked = grant_message(tenant="queueing")
    assert authenticate_token(asked) == Authenticated(asked, CONFIG.tenants["queueing"], None)
    assert rejection_of(MESSAGE) == ("signature_required", "")


@pytest.mark.parametrize("raw", [None, [], 7, b"x", {}, {"tenant": 7}, {"tenant": ["acme"]}])
def test_what_names_no_tenant_speaks_for_none(raw: Any) -> None:
    assert authenticate_token(raw) == Authenticated(raw, None, None)


@given(st.integers(0, len(VALID_TOKEN) - 1), st.sampled_from("AZaz09-_.=+/ é"))
def test_no_token_with_another_character_is_accepted(place: int, character: str) -> None:
    altered = VALID_TOKEN[:place] + character + VALID_TOKEN[place + 1 :]
    assert isinstance(authenticate_token(altered), Rejection) == (altered != VALID_TOKEN)


@given(st.integers(0, len(VALID_TOKEN)), st.text(min_size=1, max_size=3))
def test_no_token_that_is_longer_is_accepted(place: int, more: str) -> None:
    assert isinstance(
        authenticate_token(VALID_TOKEN[:place] + more + VALID_TOKEN[place:]), Rejection
    )


@given(st.integers(0, len(VALID_TOKEN) - 1), st.integers(0, len(VALID_TOKEN) - 1))
def test_no_part_of_a_token_is_accepted(start: int, end: int) -> None:
    assert isinstance(authenticate_token(VALID_TOKEN[start:end]), Rejection)


@given(st.lists(st.sampled_from([OURS, SPARE, THEIRS, QUEUES]), min_size=3, max_size=3))
def test_no_token_of_other_tokens_parts_is_accepted(signers: list[PrivateKey]) -> None:
    tokens = [
        sign_message(grant_message(tenant=key.tenant), key, NOW).split(".") for key in signers
    ]
    mixed = ".".join(parts[place] for place, parts in enumerate(tokens))
    # Each message has a batch of its own: one whose parts come from three tokens is nobody's.
    assert isinstance(authenticate_token(mixed), Rejection)


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
        lambda inner: st.lists(inner) | st.dictionaries(st.text() | st.just("tenant"), inner),
        max_leaves=8,
    )
)
def test_whatever_comes_is_somebodys_or_refused_and_no_failure(raw: Any) -> None:
    found = authenticate_token(raw)
    assert isinstance(found, Rejection) == isinstance(raw, str)
    assert not isinstance(found, Authenticated) or found.key is None


@pytest.mark.parametrize(
    "kid",
    [
        *("", "/", "acme", "acme/", "/main", "acme/other", "nobody/main", "ACME/main"),
        *("acme/../globex", "acme/main/", "acme//main", "acme/main\0", " acme/main", "globex/../x"),
    ],
)
def test_a_key_that_is_not_declared_speaks_for_nobody(kid: str) -> None:
    assert rejection_of(forge_token(HEADER | {"kid": kid}, content(), OURS)) == (
        "key_unknown",
        "kid",
    )


@pytest.mark.parametrize("kid", [7, None, True, [OURS.id], {"a": 1}])
def test_what_is_no_name_of_a_key_is_refused(kid: Any) -> None:
    assert rejection_of(forge_token(HEADER | {"kid": kid}, content(), OURS)) == (
        "key_unknown",
        "kid",
    )


def test_a_token_that_names_no_key_is_refused() -> None:
    assert rejection_of(forge_token({"alg": "EdDSA"}, content(), OURS)) == ("key_unknown", "kid")


def test_another_keys_name_does_not_make_its_signature() -> None:
    for kid in (SPARE.id, THEIRS.id):
        assert (
            rejection_of(forge_token(HEADER | {"kid": kid}, content(), OURS))[0]
            == "signature_invalid"
        )


def test_a_key_speaks_for_its_own_tenant_alone() -> None:
    found = authenticate_token(sign(content(tenant="globex"), OURS))
    assert isinstance(found, Rejection)
    assert (found.refusal.code.value, found.refusal.limit) == ("tenant_mismatch", "acme")


@pytest.mark.parametrize("tenant", [None, 7, ["acme"], "", "ACME", "acme ", {"acme": 1}])
def test_a_message_says_for_whom_it_is_in_just_the_keys_own_word(tenant: Any) -> None:
    assert rejection_of(sign(content(tenant=tenant), OURS)) == ("tenant_mismatch", "tenant")


def test_a_key_that_has_expired_or_is_revoked_is_refused_as_what_it_is() -> None:
    assert rejection_of(sign_message(MESSAGE, OLD, NOW)) == ("key_expired", "kid")
    assert rejection_of(sign_message(MESSAGE, LOST, NOW)) == ("key_revoked", "kid")


def test_a_key_is_good_until_the_moment_that_it_expires() -> None:
    asked = sign_message(MESSAGE, OLD, NOW - timedelta(seconds=1))
    found = authenticate(asked, CONFIG, NOW - timedelta(microseconds=1))
    assert isinstance(found, Authenticated)


def test_a_rejection_names_the_declared_tenant_that_a_token_claims_and_no_other() -> None:
    def claimed(kid: str) -> str | None:
        found = authenticate_token(forge_token(HEADER | {"kid": kid}, content(), THEIRS))
        assert isinstance(found, Rejection)
        return found.tenant

    assert claimed(OURS.id) == "acme"
    assert claimed("acme/other") == "acme"
    assert claimed("nobody/main") is None
