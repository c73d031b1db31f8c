"""Signed notes and checkpoints: the examples of their specifications, and hostile texts."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from worker.proof.checkpoint_format import (
    CheckpointText,
    InvalidKey,
    InvalidNote,
    Note,
    SignerKey,
    VerifierKey,
    tenant_of,
    tree_origin,
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
TEXT = "a text\n\nin two paragraphs\n"
NOTE = KEY.sign(TEXT)


def test_the_private_key_of_the_example_signs_the_same_note() -> None:
    assert SignerKey.parse(GO_PRIVATE).sign(GO_TEXT) == GO_NOTE


def test_the_public_key_of_the_example_verifies_its_note() -> None:
    assert verify_note(GO_NOTE, [VerifierKey.parse(GO_PUBLIC)]) == GO_TEXT


@pytest.mark.parametrize("key", [KEY, SignerKey.generate("x"), SignerKey.parse(GO_PRIVATE)])
def test_keys_survive_their_text(key: SignerKey) -> None:
    assert SignerKey.parse(key.dump()) == key
    assert VerifierKey.parse(str(key.verifier)) == key.verifier


def test_signatures_of_unknown_keys_are_ignored() -> None:
    line = GO_SIGNATURE.replace("PeterNeumann", "witness.example")
    assert verify_note(NOTE + line, [KEY.verifier]) == TEXT


def test_a_wrong_signature_of_a_known_key_refuses_the_note() -> None:
    wrong = KEY.sign("another text\n").rpartition("\n\n")[2]
    with pytest.raises(InvalidNote, match="is wrong"):
        verify_note(NOTE + wrong, [KEY.verifier])


@pytest.mark.parametrize(
    "keys",
    [
        pytest.param([], id="no key"),
        pytest.param([VerifierKey.parse(GO_PUBLIC)], id="another key"),
        pytest.param([SignerKey.generate(KEY.name).verifier], id="another key of the same name"),
    ],
)
def test_a_note_needs_the_signature_of_a_known_key(keys: list[VerifierKey]) -> None:
    with pytest.raises(InvalidNote, match="is not signed by"):
        verify_note(NOTE, keys)


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
        "a text\n",
        f"\n\n{GO_SIGNATURE}",
        GO_NOTE.removesuffix("\n"),
        GO_NOTE + "\n",
        GO_NOTE.replace("\n", "\r\n"),
        GO_NOTE.replace("problem,", "pro\x00blem,"),
        GO_NOTE.replace("\u2014 PeterNeumann ", "\u2014 PeterNeumann  "),
        GO_NOTE.replace("\u2014 PeterNeumann", "\u2014 Peter+Neumann"),
        GO_NOTE.replace("\u2014 PeterNeumann", "\u2014 Peter\u2003Neumann"),
        GO_NOTE.replace("wJnAM=", "wJnAN="),
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
        GO_PUBLIC.replace("PeterNeumann", ""),
        GO_PUBLIC.replace("PeterNeumann", "Peter Neumann"),
        GO_PUBLIC.replace("c74f20a3", "c74f20a4"),
        GO_PUBLIC.replace("c74f20a3", "C74F20A3"),
        GO_PUBLIC.replace("+ARpc", "+BBpc"),
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


# The example of c2sp.org/tlog-checkpoint.
CHECKPOINT = "example.com/behind-the-sofa\n20852163\nCsUYapGGPo4dkMgIAUqom/Xajj7h2fB2MPA3j2jxq2I=\n"


def test_the_example_of_the_specification_is_read_and_written() -> None:
    checkpoint = CheckpointText.parse(CHECKPOINT)
    assert (checkpoint.origin, checkpoint.size) == ("example.com/behind-the-sofa", 20_852_163)
    assert checkpoint.root.hex().startswith("0ac5186a91863e8e")
    assert str(checkpoint) == CHECKPOINT


@pytest.mark.parametrize(
    "text",
    [
        "",
        CHECKPOINT.removesuffix("\n"),
        CHECKPOINT + "\n",
        CHECKPOINT + "an extension\n",
        CHECKPOINT.replace("20852163", ""),
        CHECKPOINT.replace("20852163", "020852163"),
        CHECKPOINT.replace("20852163", "1e3"),
        CHECKPOINT.replace("20852163", str(2**63)),
        CHECKPOINT.replace("20852163", "9" * 5_000),
        CHECKPOINT.replace("q2I=", "q2J="),
        CHECKPOINT.replace("CsUY", "\u00e4sUY"),
        CHECKPOINT.replace("example.com/behind-the-sofa", ""),
    ],
)
def test_a_text_that_is_no_checkpoint_is_refused(text: str) -> None:
    with pytest.raises(InvalidNote):
        CheckpointText.parse(text)


def test_an_origin_names_the_tenant_below_the_key() -> None:
    origin = tree_origin("audit.example.com/valetkey", "acme~2")
    assert origin == "audit.example.com/valetkey/acme~2"
    assert tenant_of(origin, "audit.example.com/valetkey") == "acme~2"


@pytest.mark.parametrize(
    ("origin", "key_name"),
    [
        ("audit.example.com/valetkey/acme", "audit.example.com/valetke"),
        ("audit.example.com/valetkey/acme", "acme"),
        ("audit.example.com/valetkey/acme", ""),
        ("audit.example.com/valetkey/", "audit.example.com/valetkey"),
        ("audit.example.com/valetkey/acme", "audit.example.com"),
    ],
)
def test_the_origin_of_another_key_or_of_the_key_alone_names_no_tenant(
    origin: str, key_name: str
) -> None:
    assert tenant_of(origin, key_name) is None
