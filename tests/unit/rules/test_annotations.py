"""Texts about items: their salts, and the commitments that the log has of them."""

from hashlib import sha256
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from valetkey.wire.messages import Item
from worker.rules.annotations import SaltedTexts, commitment, salted

_TEXTS = st.text(st.characters(exclude_categories=["Cs"]), min_size=1)


def annotation(**texts: str) -> SaltedTexts:
    """Return the stored texts of an item."""
    stored = SaltedTexts.of(Item.model_validate({"key": "acme/a", **texts}))
    assert stored is not None
    return stored


@given(_TEXTS, st.binary(min_size=16, max_size=16))
def test_a_commitment_is_the_hash_of_the_salt_and_the_text(text: str, salt: bytes) -> None:
    assert commitment(text, salt) == sha256(salt + text.encode()).digest()


def test_an_erased_text_has_the_commitment_that_it_had() -> None:
    columns = salted({"recipient": "ann"})
    before = commitment(columns["recipient"], columns["recipient_salt"])
    assert commitment(None, before) == before


def test_no_text_has_no_commitment() -> None:
    assert commitment(None, None) is None


@pytest.mark.parametrize(
    ("text", "salt"),
    [
        pytest.param("ann", None, id="no salt"),
        pytest.param("nn", b"1" * 16 + b"a", id="the beginning of the text in the salt"),
        pytest.param(None, b"1" * 16, id="a salt without its text"),
    ],
)
def test_a_salt_of_another_length_is_refused(text: str | None, salt: bytes | None) -> None:
    with pytest.raises(ValueError, match="of another length"):
        commitment(text, salt)


def test_equal_texts_have_different_commitments() -> None:
    first, second = annotation(recipient="ann"), annotation(recipient="ann")
    assert first.commitments["recipient"] != second.commitments["recipient"]


def test_each_text_of_an_item_has_a_salt_of_its_own() -> None:
    stored = annotation(recipient="ann", reason="ann", ref="ann")
    assert len({stored.recipient_salt, stored.reason_salt, stored.ref_salt}) == 3


@pytest.mark.parametrize(
    "texts", [{}, {"recipient": None}, {"recipient": None, "reason": None, "ref": None}]
)
def test_an_item_without_texts_has_no_row(texts: dict[str, Any]) -> None:
    assert SaltedTexts.of(Item(key="acme/a", **texts)) is None
