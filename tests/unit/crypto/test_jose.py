import gzip
import json
import warnings
from base64 import urlsafe_b64decode, urlsafe_b64encode
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from joserfc import jwe, jws
from joserfc.jwk import ECKey, OctKey, OKPKey

from tests.support.crypto.keys import public_half
from valetkey.crypto import jose
from valetkey.crypto.jose import (
    InvalidToken,
    SignedToken,
    TokenTooLarge,
    WrongAlgorithm,
    WrongKey,
    recipient_key_id,
    sign,
    unseal,
)
from valetkey.crypto.keys import PrivateKey, generate_key
from worker.core.auth.seal import seal

OURS, THEIRS = generate_key("acme/2026-11"), generate_key("acme/2026-11")
LONG = b'{"items": []}' * 1_000  # compressed before it is sealed


def encoded(header: Any) -> str:
    return urlsafe_b64encode(json.dumps(header).encode()).decode().rstrip("=")


def flipped(token: str, segment: int, bit: int) -> str:
    """A token with one bit of what it decodes to changed."""
    parts = token.split(".")
    content = bytearray(urlsafe_b64decode(parts[segment] + "==="))
    content[bit // 8 % len(content)] ^= 1 << bit % 8
    parts[segment] = urlsafe_b64encode(content).decode().rstrip("=")
    return ".".join(parts)


@given(st.binary(max_size=2_000))
def test_what_was_signed_comes_out_as_it_went_in(content: bytes) -> None:
    signed = SignedToken(sign(content, OURS))
    assert (signed.key_id, signed.content(public_half(OURS))) == (OURS.id, content)


@given(st.binary(max_size=2_000) | st.just(LONG))
def test_what_was_sealed_comes_out_as_it_went_in(content: bytes) -> None:
    token = seal(content, OURS.id, public_half(OURS))
    assert (recipient_key_id(token), unseal(token, OURS)) == (OURS.id, content)


@given(st.integers(0, 2), st.integers(0, 10_000))
def test_a_signed_token_with_one_bit_changed_is_refused(segment: int, bit: int) -> None:
    token = flipped(sign(b'{"v": 1}', OURS), segment, bit)
    with pytest.raises(InvalidToken):
        SignedToken(token).content(public_half(OURS))


@given(st.sampled_from([0, 2, 3, 4]), st.integers(0, 10_000))
def test_a_sealed_token_with_one_bit_changed_is_refused(segment: int, bit: int) -> None:
    token = flipped(seal(b'{"status": "issued"}', OURS.id, public_half(OURS)), segment, bit)
    with pytest.raises(InvalidToken):
        unseal(token, OURS)


def test_nobody_elses_key_verifies_or_opens() -> None:
    with pytest.raises(WrongKey):
        SignedToken(sign(b"{}", THEIRS)).content(public_half(OURS))
    with pytest.raises(WrongKey):
        unseal(seal(b"{}", OURS.id, public_half(OURS)), THEIRS)


def test_a_key_that_a_token_brings_along_is_not_believed() -> None:
    header = {"alg": "Ed25519", "kid": OURS.id, "jwk": THEIRS.signing.as_dict(private=False)}
    token = jws.serialize_compact(header, b"{}", THEIRS.signing, algorithms=["Ed25519"])
    with pytest.raises(WrongKey):
        SignedToken(token).content(public_half(OURS))


@pytest.mark.parametrize("algorithm", ["none", "None", "HS256", "RS256", "ES256", "Ed448", "", 7])
def test_a_token_of_another_algorithm_is_refused_whatever_its_signature(algorithm: Any) -> None:
    signature = sign(b"{}", OURS).rpartition(".")[2]
    for last in (signature, ""):
        token = f"{encoded({'alg': algorithm, 'kid': OURS.id})}.e30.{last}"
        with pytest.raises(WrongAlgorithm):
            SignedToken(token)


def test_the_public_key_is_no_secret_to_sign_with() -> None:
    secret = OctKey.import_key(str(OURS.signing.as_dict(private=False)["x"]))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # joserfc itself advises against such a secret
        token = jws.serialize_compact({"alg": "HS256", "kid": OURS.id}, b"{}", secret)
    with pytest.raises(WrongAlgorithm):
        SignedToken(token)


def test_the_algorithm_has_two_names() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        header = {"alg": "EdDSA", "kid": OURS.id}
        token = jws.serialize_compact(header, b"{}", OURS.signing, algorithms=["EdDSA"])
    assert SignedToken(token).content(public_half(OURS)) == b"{}"


def test_an_answer_sealed_by_another_algorithm_is_refused() -> None:
    header = {"alg": "ECDH-ES+A128KW", "enc": "A128GCM", "kid": OURS.id}
    algorithms = ["ECDH-ES+A128KW", "A128GCM"]
    token = jwe.encrypt_compact(header, b"{}", public_half(OURS).sealing, algorithms=algorithms)
    with pytest.raises(WrongAlgorithm):
        unseal(token, OURS)


def test_an_answer_sealed_on_another_curve_is_refused() -> None:
    key = ECKey.generate_key("P-256")
    token = jwe.encrypt_compact({"alg": "ECDH-ES", "enc": "A256GCM"}, b"{}", key)
    with pytest.raises(WrongKey):
        unseal(token, OURS)


def test_a_message_larger_than_any_is_refused_unread() -> None:
    largest = jose._JWS.max_payload_length
    with pytest.raises(TokenTooLarge):
        SignedToken(f"{encoded({'alg': 'Ed25519', 'kid': OURS.id})}.{'A' * (largest + 1)}.AAAA")


def test_an_answer_larger_than_any_is_refused_unopened() -> None:
    largest = jose.JWE_REGISTRY.max_ciphertext_length
    head = encoded({"alg": "ECDH-ES", "enc": "A256GCM", "kid": OURS.id})
    with pytest.raises(TokenTooLarge):
        unseal(f"{head}..{'A' * 16}.{'A' * (largest + 1)}.{'A' * 22}", OURS)


def test_an_answer_that_unfolds_to_more_than_any_is_refused() -> None:
    bomb = gzip.compress(bytes(jose.MAX_RESPONSE_BYTES + 1))
    header = {"alg": "ECDH-ES", "enc": "A256GCM", "kid": OURS.id, "cty": "gzip"}
    token = jwe.encrypt_compact(header, bomb, public_half(OURS).sealing, registry=jose.JWE_REGISTRY)
    with pytest.raises(TokenTooLarge):
        unseal(token, OURS)


HEADERS: st.SearchStrategy[Any] = st.dictionaries(
    st.sampled_from(["alg", "enc", "kid", "epk", "crit", "b64", "cty", "zip", "apu", "typ"]),
    st.sampled_from(["Ed25519", "ECDH-ES", "A256GCM", "gzip", "DEF", "", 7, None, [], {}])
    | st.fixed_dictionaries({"kty": st.sampled_from(["OKP", "EC", "oct", 1]), "x": st.text()}),
)
TOKENS = st.builds(
    lambda header, rest: ".".join([encoded(header), *rest]),
    HEADERS,
    st.lists(st.sampled_from(["", "e30", "A" * 16, "A" * 22, "A" * 86, "é", "="]), max_size=5),
)


@settings(max_examples=300)
@given(st.text(max_size=200) | TOKENS)
def test_whatever_else_stands_for_a_token_is_refused(token: str) -> None:
    with pytest.raises(InvalidToken):
        SignedToken(token).content(public_half(OURS))
    with pytest.raises(InvalidToken):
        unseal(token, OURS)


@pytest.mark.parametrize(
    "header", ["", "é", "AAAA", encoded([]), encoded({}), encoded("kid"), encoded("[" * 5_000)]
)
def test_a_token_that_names_no_key_is_refused(header: str) -> None:
    with pytest.raises(InvalidToken):
        recipient_key_id(f"{header}....")


def test_a_header_nested_beyond_reason_is_refused() -> None:
    header = urlsafe_b64encode(b"[" * 100_000).decode()
    for read in (recipient_key_id, SignedToken, lambda token: unseal(token, OURS)):
        with pytest.raises(InvalidToken):
            read(f"{header}....")


def test_a_key_for_one_purpose_is_none_for_the_other() -> None:
    wrong = PrivateKey(OURS.id, OURS.signing, OKPKey.generate_key("Ed25519", private=True))
    with pytest.raises(InvalidToken):
        unseal(seal(b"{}", OURS.id, public_half(OURS)), wrong)
