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

from tests.keys import public
from valetkey import sealing
from valetkey.identity import PrivateKey, generate
from valetkey.sealing import (
    BadToken,
    NotItsKey,
    Signed,
    TooLarge,
    WrongAlgorithm,
    sealed_to,
    sign,
    unseal,
)
from worker.core.sealing import seal

OURS, THEIRS = generate("acme/2026-11"), generate("acme/2026-11")
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
    signed = Signed(sign(content, OURS))
    assert (signed.key_id, signed.content(public(OURS))) == (OURS.id, content)


@given(st.binary(max_size=2_000) | st.just(LONG))
def test_what_was_sealed_comes_out_as_it_went_in(content: bytes) -> None:
    token = seal(content, OURS.id, public(OURS))
    assert (sealed_to(token), unseal(token, OURS)) == (OURS.id, content)


@given(st.integers(0, 2), st.integers(0, 10_000))
def test_a_signed_token_with_one_bit_changed_is_refused(segment: int, bit: int) -> None:
    token = flipped(sign(b'{"v": 1}', OURS), segment, bit)
    with pytest.raises(BadToken):
        Signed(token).content(public(OURS))


@given(st.sampled_from([0, 2, 3, 4]), st.integers(0, 10_000))
def test_a_sealed_token_with_one_bit_changed_is_refused(segment: int, bit: int) -> None:
    token = flipped(seal(b'{"status": "issued"}', OURS.id, public(OURS)), segment, bit)
    with pytest.raises(BadToken):
        unseal(token, OURS)


def test_nobody_elses_key_verifies_or_opens() -> None:
    with pytest.raises(NotItsKey):
        Signed(sign(b"{}", THEIRS)).content(public(OURS))
    with pytest.raises(NotItsKey):
        unseal(seal(b"{}", OURS.id, public(OURS)), THEIRS)


def test_a_key_that_a_token_brings_along_is_not_believed() -> None:
    header = {"alg": "Ed25519", "kid": OURS.id, "jwk": THEIRS.signing.as_dict(private=False)}
    token = jws.serialize_compact(header, b"{}", THEIRS.signing, algorithms=["Ed25519"])
    with pytest.raises(NotItsKey):
        Signed(token).content(public(OURS))


@pytest.mark.parametrize("algorithm", ["none", "None", "HS256", "RS256", "ES256", "Ed448", "", 7])
def test_a_token_of_another_algorithm_is_refused_whatever_its_signature(algorithm: Any) -> None:
    signature = sign(b"{}", OURS).rpartition(".")[2]
    for last in (signature, ""):
        token = f"{encoded({'alg': algorithm, 'kid': OURS.id})}.e30.{last}"
        with pytest.raises(WrongAlgorithm):
            Signed(token)


def test_the_public_key_is_no_secret_to_sign_with() -> None:
    secret = OctKey.import_key(str(OURS.signing.as_dict(private=False)["x"]))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # joserfc itself advises against such a secret
        token = jws.serialize_compact({"alg": "HS256", "kid": OURS.id}, b"{}", secret)
    with pytest.raises(WrongAlgorithm):
        Signed(token)


def test_the_algorithm_has_two_names() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        header = {"alg": "EdDSA", "kid": OURS.id}
        token = jws.serialize_compact(header, b"{}", OURS.signing, algorithms=["EdDSA"])
    assert Signed(token).content(public(OURS)) == b"{}"


def test_an_answer_sealed_by_another_algorithm_is_refused() -> None:
    header = {"alg": "ECDH-ES+A128KW", "enc": "A128GCM", "kid": OURS.id}
    algorithms = ["ECDH-ES+A128KW", "A128GCM"]
    token = jwe.encrypt_compact(header, b"{}", public(OURS).sealing, algorithms=algorithms)
    with pytest.raises(WrongAlgorithm):
        unseal(token, OURS)


def test_an_answer_sealed_on_another_curve_is_refused() -> None:
    key = ECKey.generate_key("P-256")
    token = jwe.encrypt_compact({"alg": "ECDH-ES", "enc": "A256GCM"}, b"{}", key)
    with pytest.raises(NotItsKey):
        unseal(token, OURS)


def test_a_message_larger_than_any_is_refused_unread() -> None:
    largest = sealing._JWS.max_payload_length
    with pytest.raises(TooLarge):
        Signed(f"{encoded({'alg': 'Ed25519', 'kid': OURS.id})}.{'A' * (largest + 1)}.AAAA")


def test_an_answer_larger_than_any_is_refused_unopened() -> None:
    largest = sealing.JWE.max_ciphertext_length
    head = encoded({"alg": "ECDH-ES", "enc": "A256GCM", "kid": OURS.id})
    with pytest.raises(TooLarge):
        unseal(f"{head}..{'A' * 16}.{'A' * (largest + 1)}.{'A' * 22}", OURS)


def test_an_answer_that_unfolds_to_more_than_any_is_refused() -> None:
    bomb = gzip.compress(bytes(sealing.LARGEST_ANSWER + 1))
    header = {"alg": "ECDH-ES", "enc": "A256GCM", "kid": OURS.id, "cty": "gzip"}
    token = jwe.encrypt_compact(header, bomb, public(OURS).sealing, registry=sealing.JWE)
    with pytest.raises(TooLarge):
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
    with pytest.raises(BadToken):
        Signed(token).content(public(OURS))
    with pytest.raises(BadToken):
        unseal(token, OURS)


@pytest.mark.parametrize(
    "header", ["", "é", "AAAA", encoded([]), encoded({}), encoded("kid"), encoded("[" * 5_000)]
)
def test_a_token_that_names_no_key_is_refused(header: str) -> None:
    with pytest.raises(BadToken):
        sealed_to(f"{header}....")


def test_a_header_nested_beyond_reason_is_refused() -> None:
    header = urlsafe_b64encode(b"[" * 100_000).decode()
    for read in (sealed_to, Signed, lambda token: unseal(token, OURS)):
        with pytest.raises(BadToken):
            read(f"{header}....")


def test_a_key_for_one_purpose_is_none_for_the_other() -> None:
    wrong = PrivateKey(OURS.id, OURS.signing, OKPKey.generate_key("Ed25519", private=True))
    with pytest.raises(BadToken):
        unseal(seal(b"{}", OURS.id, public(OURS)), wrong)
