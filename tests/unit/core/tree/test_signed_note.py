"""Tests signed notes, with the example of Go's sumdb/note and hostile texts."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from worker.core.tree.signed_note import (
    InvalidKey,
    InvalidNote,
    Note,
    SignerKey,
    VerifierKey,
    verify_note,
)

# The example in the documentation of golang.org/x/mod/sumdb/note.
GO_PUBLIC = "PeterNeumann+c74f20a3+ARpc2QcUPDhMQegwxbzhKqiBfsVkmqq/LDE4izWy10TW"
GO_PRIVATE = "PRIVATE+KEY+PeterNeumann+c74f20a3+AYEKFALVFGyNhPJEMzD1QIDr+Y7hfZx09iUvxdXHKDFz"
GO_TEXT = (
    "If you think cryptography is the answer to your problem,\n"
    "then you don't know what your problem is.\n"
)
GO_SIGNATURE = (
    "\u2014 PeterNeumann x08go/ZJkuBS9UG/SffcvIAQxVBtiFupLLr8pAcElZInNIuGUgYN1FFYC2pZSNXgKvqfqdng"
    "otpRZb6KE6RyyBwJnAM=\n"
)
GO_NOTE = f"{GO_TEXT}\n{GO_SIGNATURE}"
KEY = SignerKey("audit.example.com/valetkey", bytes(range(32)))
NOTE = KEY.sign("a text\n\nin two paragraphs\n")


def test_the_private_key_of_the_example_signs_the_same_note() -> None:
    assert SignerKey.parse(GO_PRIVATE).sign(GO_TEXT) == GO_NOTE


def test_the_public_key_of_the_example_verifies_its_note() -> None:
    assert verify_note(GO_NOTE, [VerifierKey.parse(GO_PUBLIC)]) == GO_TEXT


@pytest.mark.parametrize("key", [KEY, SignerKey.generate("x"), SignerKey.parse(GO_PRIVATE)])
def test_keys_survive_their_text(key: SignerKey) -> None:
    assert SignerKey.parse(key.dump()) == key
    assert VerifierKey.parse(str(key.verifier)) == key.verifier


def test_the_text_of_a_note_may_have_empty_lines() -> None:
    assert verify_note(NOTE, [KEY.verifier]) == "a text\n\nin two paragraphs\n"


def test_signatures_of_unknown_keys_are_ignored() -> None:
    line = GO_SIGNATURE.replace("PeterNeumann", "witness.example")
    assert verify_note(NOTE + line, [KEY.verifier]) == verify_note(NOTE, [KEY.verifier])


def test_a_wrong_signature_of_a_known_key_refuses_the_note() -> None:
    wrong = KEY.sign("another text\n").rpartition("\n\n")[2]
    with pytest.raises(InvalidNote, match="is wrong"):
        verify_note(NOTE + wrong, [KEY.verifier])


@pytest.mark.parametrize("keys", [[], [VerifierKey.parse(GO_PUBLIC)]])
def test_a_note_needs_the_signature_of_a_known_key(keys: list[VerifierKey]) -> None:
    with pytest.raises(InvalidNote, match="is not signed by"):
        verify_note(NOTE, keys)


def test_a_key_of_the_same_name_and_another_id_is_another_key() -> None:
    other = SignerKey.generate(KEY.name)
    with pytest.raises(InvalidNote, match="is not signed by"):
        verify_note(NOTE, [other.verifier])


@given(st.data())
def test_a_note_with_a_changed_byte_is_refused(data: st.DataObject) -> None:
    note = bytearray(GO_NOTE.encode())
    position = data.draw(st.integers(0, len(note) - 1))
    note[position] ^= data.draw(st.integers(1, 255))
    changed = note.decode(errors="surrogateescape")
    with pytest.raises(InvalidNote):
        verify_note(changed, [VerifierKey.parse(GO_PUBLIC)])


@given(st.text(st.characters(), max_size=200) | st.text("\u2014 A+=\n", max_size=60))
def test_any_other_text_is_refused(text: str) -> None:
    with pytest.raises(InvalidNote):
        verify_note(text, [KEY.verifier])


@pytest.mark.parametrize(
    "note",
    [
        "",
        "\n",
        "\n\n",
        "a text\n",
        GO_TEXT + GO_SIGNATURE,
        f"\n\n{GO_SIGNATURE}",
        GO_NOTE.removesuffix("\n"),
        GO_NOTE + "\n",
        GO_NOTE.replace("\u2014", "-"),
        GO_NOTE.replace("\n", "\r\n"),
        GO_NOTE.replace("problem,", "pro\x00blem,"),
        GO_NOTE.replace("\u2014 PeterNeumann ", "\u2014 PeterNeumann  "),
        GO_NOTE.replace("\u2014 PeterNeumann", "\u2014 Peter+Neumann"),
        GO_NOTE.replace("\u2014 PeterNeumann", "\u2014 Peter\u2003Neumann"),
        GO_NOTE.replace("wJnAM=", "wJnAN="),
        GO_NOTE.replace("wJnAM=", "wJnAM"),
        f"{GO_TEXT}\n\u2014 PeterNeumann AAAA\n",
        GO_NOTE + GO_SIGNATURE * 100,
        "x" * 70_000 + GO_NOTE,
    ],
)
def test_what_is_no_signed_note_is_refused(note: str) -> None:
    with pytest.raises(InvalidNote):
        Note.parse(note)


@pytest.mark.parametrize(
    "key",
    [
        "",
        "+",
        "PeterNeumann",
        GO_PUBLIC.replace("PeterNeumann", ""),
        GO_PUBLIC.replace("PeterNeumann", "Peter Neumann"),
        GO_PUBLIC.replace("c74f20a3", "c74f20a4"),
        GO_PUBLIC.replace("c74f20a3", "C74F20A3"),
        GO_PUBLIC.replace("+ARpc", "+BBpc"),
        GO_PUBLIC.replace("+ARpc", "+ARpd"),
        GO_PUBLIC[:-4],
        GO_PUBLIC + "\n",
        GO_PRIVATE,
    ],
)
def test_what_is_no_public_key_is_refused(key: str) -> None:
    with pytest.raises(InvalidKey):
        VerifierKey.parse(key)


@pytest.mark.parametrize(
    "key",
    [GO_PUBLIC, "", GO_PRIVATE[:-4], GO_PRIVATE.replace("c74f20a3", "c74f20a4"), GO_PRIVATE + "\n"],
)
def test_what_is_no_private_key_is_refused_without_repeating_it(key: str) -> None:
    with pytest.raises(InvalidKey) as error:
        SignerKey.parse(key)
    assert not key or key[-20:] not in str(error.value)


@pytest.mark.parametrize("name", ["", "a b", "a+b", "a\nb", "a\u2003b"])
def test_a_key_has_a_name_that_fits_into_a_line(name: str) -> None:
    with pytest.raises(InvalidKey, match="no spaces and no"):
        SignerKey.generate(name)


def test_the_repr_of_a_private_key_does_not_contain_it() -> None:
    assert repr(KEY) == "SignerKey(name='audit.example.com/valetkey')"
