import gzip
import json
import warnings
from base64 import urlsafe_b64decode, urlsafe_b64encode
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from joserfc import jwe, jws
from joserfc.jwk import ECKey, OKPKey

from tests.support.crypto.tokens import public_key
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
from worker.issue.dispatch import seal

KEY, OTHER_KEY = generate_key("acme/2026-11"), generate_key("acme/2026-11")
LONG_CONTENT = b'{"items": []}' * 1_000  # compressed before it is sealed


def encode_header(header: Any) -> str:
    return urlsafe_b64encode(json.dumps(header).encode()).decode().rstrip("=")


def flip_bit(token: str, segment: int, bit: int) -> str:
    """Flip one bit of a segment's decoded content."""
    parts = token.split(".")
    content = bytearray(urlsafe_b64decode(parts[segment] + "==="))
    content[bit // 8 % len(content)] ^= 1 << bit % 8
    parts[segment] = urlsafe_b64encode(content).decode().rstrip("=")
    return ".".join(parts)


@given(st.binary(max_size=2_000))
def test_signing_and_verifying_returns_the_content(content: bytes) -> None:
    signed = SignedToken(sign(content, KEY))
    assert (signed.key_id, signed.verify(public_key(KEY))) == (KEY.id, content)


@given(st.binary(max_size=2_000) | st.just(LONG_CONTENT))
def test_sealing_and_unsealing_returns_the_content(content: bytes) -> None:
    token = seal(content, KEY.id, public_key(KEY))
    assert (recipient_key_id(token), unseal(token, KEY)) == (KEY.id, content)


@given(st.sampled_from([0, 2, 3, 4]), st.integers(0, 10_000))
def test_a_sealed_token_with_one_bit_changed_is_refused(segment: int, bit: int) -> None:
    token = flip_bit(seal(b'{"status": "issued"}', KEY.id, public_key(KEY)), segment, bit)
    with pytest.raises(InvalidToken):
        unseal(token, KEY)


def test_another_key_neither_verifies_nor_decrypts() -> None:
    sealed = seal(b"{}", KEY.id, public_key(KEY))
    with pytest.raises(WrongKey):
        SignedToken(sign(b"{}", OTHER_KEY)).verify(public_key(KEY))
    with pytest.raises(WrongKey):
        unseal(sealed, OTHER_KEY)
    with pytest.raises(InvalidToken):  # a key for signatures
        unseal(sealed, PrivateKey(KEY.id, KEY.signing_key, OKPKey.generate_key("Ed25519")))


def test_both_names_of_the_algorithm_are_accepted() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        header = {"alg": "EdDSA", "kid": KEY.id}
        token = jws.serialize_compact(header, b"{}", KEY.signing_key, algorithms=["EdDSA"])
    assert SignedToken(token).verify(public_key(KEY)) == b"{}"


@pytest.mark.parametrize(
    ("algorithms", "recipient", "error"),
    [
        (("ECDH-ES+A128KW", "A128GCM"), public_key(KEY).encryption_key, WrongAlgorithm),
        (("ECDH-ES", "A256GCM"), ECKey.generate_key("P-256"), WrongKey),
    ],
    ids=["another algorithm", "another curve"],
)
def test_a_result_that_is_sealed_otherwise_is_refused(
    algorithms: tuple[str, str], recipient: Any, error: type[InvalidToken]
) -> None:
    header = {"alg": algorithms[0], "enc": algorithms[1], "kid": KEY.id}
    token = jwe.encrypt_compact(header, b"{}", recipient, algorithms=list(algorithms))
    with pytest.raises(error):
        unseal(token, KEY)


def test_a_sealed_result_over_the_size_limit_is_refused_undecrypted() -> None:
    max_length = jose.JWE_REGISTRY.max_ciphertext_length
    header = encode_header({"alg": "ECDH-ES", "enc": "A256GCM", "kid": KEY.id})
    with pytest.raises(TokenTooLarge):
        unseal(f"{header}..{'A' * 16}.{'A' * (max_length + 1)}.{'A' * 22}", KEY)


def test_a_sealed_result_that_decompresses_over_the_size_limit_is_refused() -> None:
    bomb = gzip.compress(bytes(jose.MAX_RESPONSE_BYTES + 1))
    header = {"alg": "ECDH-ES", "enc": "A256GCM", "kid": KEY.id, "cty": "gzip"}
    recipient = public_key(KEY).encryption_key
    token = jwe.encrypt_compact(header, bomb, recipient, registry=jose.JWE_REGISTRY)
    with pytest.raises(TokenTooLarge):
        unseal(token, KEY)


HEADERS: st.SearchStrategy[Any] = st.dictionaries(
    st.sampled_from(["alg", "enc", "kid", "epk", "crit", "b64", "cty", "zip", "apu", "typ"]),
    st.sampled_from(["Ed25519", "ECDH-ES", "A256GCM", "gzip", "DEF", "", 7, None, [], {}])
    | st.fixed_dictionaries({"kty": st.sampled_from(["OKP", "EC", "oct", 1]), "x": st.text()}),
)
TOKENS = st.builds(
    lambda header, segments: ".".join([encode_header(header), *segments]),
    HEADERS,
    st.lists(st.sampled_from(["", "e30", "A" * 16, "A" * 22, "A" * 86, "é", "="]), max_size=5),
)


@settings(max_examples=300)
@given(st.text(max_size=200) | TOKENS)
def test_any_other_text_is_refused(token: str) -> None:
    with pytest.raises(InvalidToken):
        SignedToken(token).verify(public_key(KEY))
    with pytest.raises(InvalidToken):
        unseal(token, KEY)


@pytest.mark.parametrize(
    "header", ["", "é", "AAAA", *map(encode_header, ([], {}, "kid", "[" * 5_000))]
)
def test_a_token_without_a_key_id_is_refused(header: str) -> None:
    with pytest.raises(InvalidToken):
        recipient_key_id(f"{header}....")


@pytest.mark.parametrize("segment", [0, 1, 2])
@pytest.mark.parametrize("extra", ["=", "\n", "*", "AAAA\n"])
def test_a_signed_token_that_is_not_strict_base64url_is_refused(segment: int, extra: str) -> None:
    parts = sign(b"{}", KEY).split(".")
    parts[segment] = parts[segment][:2] + extra + parts[segment][2:]
    with pytest.raises(InvalidToken):
        SignedToken(".".join(parts))


def test_another_spelling_of_a_signature_is_refused() -> None:
    token = sign(b"{}", KEY)  # 64 bytes: the last character has two bits of them
    with pytest.raises(InvalidToken):
        SignedToken(token[:-1] + chr(ord(token[-1]) + 1))


def test_a_header_with_a_member_twice_is_refused() -> None:
    header = urlsafe_b64encode(b'{"alg":"Ed25519","kid":"acme/x","kid":"acme/y"}').decode()
    for parse in (SignedToken, recipient_key_id):
        with pytest.raises(InvalidToken):
            parse(f"{header.rstrip('=')}.e30.{'A' * 86}")


def test_a_deeply_nested_header_is_refused() -> None:
    header = urlsafe_b64encode(b"[" * 100_000).decode()
    for parse in (recipient_key_id, SignedToken, lambda token: unseal(token, KEY)):
        with pytest.raises(InvalidToken):
            parse(f"{header}....")
