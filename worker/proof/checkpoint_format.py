"""The format of checkpoints: signed notes with the origin, size and root of a tree.

Sources: C2SP tlog-checkpoint (c2sp.org/tlog-checkpoint) for the text, C2SP signed-note
(c2sp.org/signed-note) for notes and public keys, and Go's golang.org/x/mod/sumdb/note for the text
of private keys.
"""

import base64
import binascii
import json
import re
from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from hashlib import sha256
from typing import NamedTuple, Self

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from worker.ledger.merkle import HASH_BYTES, encode_record

MAX_NOTE_BYTES = 64 * 1024
MAX_SIGNATURES = 100
_ED25519 = b"\x01"
_KEY_ID_BYTES, _PUBLIC_BYTES, _SIGNATURE_BYTES = 4, 32, 64
_PRIVATE_PREFIX = "PRIVATE+KEY+"
_OTHER_ID = "its id does not belong to its name and key"
_is_key_id = re.compile(r"[0-9a-f]{8}").fullmatch
_has_wrong_character = re.compile(r"[\x00-\x09\x0b-\x1f\ud800-\udfff]").search
_match_signature = re.compile("\u2014 ([^ ]+) ([^ ]+)").fullmatch


class InvalidNote(ValueError):
    """The text is not a signed note, or no trusted key has signed it."""


class InvalidKey(ValueError):
    """The text is not a key that signs notes or checks their signatures."""


class Signature(NamedTuple):
    """A line below a note: the name and id of a key, and the key's signature."""

    key_name: str
    key_id: bytes
    signature: bytes


class Note(NamedTuple):
    """A text that ends with a newline, and signatures that nothing has checked yet."""

    text: str
    signatures: tuple[Signature, ...]

    @classmethod
    def parse(cls, note: str) -> Self:
        """Parse a signed note. Raises InvalidNote."""
        if len(note.encode(errors="replace")) > MAX_NOTE_BYTES:
            raise InvalidNote("it is too long for a signed note")
        if _has_wrong_character(note):  # a control character, or one that UTF-8 cannot encode
            raise InvalidNote("it contains characters that no signed note contains")
        text, separator, lines = note.rpartition("\n\n")
        if not separator or not text or not lines.endswith("\n"):
            raise InvalidNote("it has no signature lines after an empty line")
        signatures = lines.removesuffix("\n").split("\n")
        if len(signatures) > MAX_SIGNATURES:
            raise InvalidNote("it has too many signatures")
        return cls(f"{text}\n", tuple(map(_parse_signature, signatures)))


@dataclass(frozen=True, slots=True)
class VerifierKey:
    """A public key that auditors pin, with the name under which it signs.

    Its text is NAME+ID+KEY: the id in hexadecimal, and the type and bytes of the key in base64.
    """

    name: str
    public: bytes

    @classmethod
    def parse(cls, text: str) -> Self:
        """Parse NAME+ID+KEY. Raises InvalidKey."""
        name, key_id, public = _parse_key(text)
        key = cls(name, public)
        if key_id != key.id.hex():
            raise InvalidKey(_OTHER_ID)
        return key

    @property
    def id(self) -> bytes:
        """The key's id, which signatures name."""
        return sha256(self.name.encode() + b"\n" + _ED25519 + self.public).digest()[:_KEY_ID_BYTES]

    def __str__(self) -> str:
        return f"{self.name}+{self.id.hex()}+{_encode(_ED25519 + self.public)}"


@dataclass(frozen=True, slots=True)
class SignerKey:
    """A private key that signs notes under a name. Its repr does not contain the key."""

    name: str
    seed: bytes = field(repr=False)

    @classmethod
    def generate(cls, name: str) -> Self:
        """Create a key. Raises InvalidKey if the name is not allowed."""
        check_key_name(name)
        return cls(name, Ed25519PrivateKey.generate().private_bytes_raw())

    @classmethod
    def parse(cls, text: str) -> Self:
        """Parse PRIVATE+KEY+NAME+ID+KEY. Raises InvalidKey, which contains nothing of the text."""
        if not text.startswith(_PRIVATE_PREFIX):
            raise InvalidKey(f"it does not begin with {_PRIVATE_PREFIX}")
        name, key_id, seed = _parse_key(text.removeprefix(_PRIVATE_PREFIX))
        key = cls(name, seed)
        if key_id != key.verifier.id.hex():
            raise InvalidKey(_OTHER_ID)
        return key

    @property
    def verifier(self) -> VerifierKey:
        """The public key."""
        private = Ed25519PrivateKey.from_private_bytes(self.seed)
        return VerifierKey(self.name, private.public_key().public_bytes_raw())

    def dump(self) -> str:
        """Return the text of the private key."""
        key_id = self.verifier.id.hex()
        return f"{_PRIVATE_PREFIX}{self.name}+{key_id}+{_encode(_ED25519 + self.seed)}"

    def sign(self, text: str) -> str:
        """Return the signed note of a text that ends with a newline."""
        signature = Ed25519PrivateKey.from_private_bytes(self.seed).sign(text.encode())
        return f"{text}\n\u2014 {self.name} {_encode(self.verifier.id + signature)}\n"


def verify_note(note: str, keys: Sequence[VerifierKey]) -> str:
    """Return the text of a note that at least one of these keys has signed.

    Ignores the signatures of other keys. Raises InvalidNote, also if a signature of one of these
    keys is wrong.
    """
    parsed = Note.parse(note)
    trusted = {(key.name, key.id): key for key in keys}
    signers = 0
    for name, key_id, signature in parsed.signatures:
        key = trusted.get((name, key_id))
        if key is not None:
            _check_signature(key, parsed.text, signature)
            signers += 1
    if not signers:
        names = ", ".join(sorted(key.name for key in keys)) or "no key"
        raise InvalidNote(f"it is not signed by {names}")
    return parsed.text


def check_key_name(name: str) -> None:
    """Raise InvalidKey unless a key may have this name."""
    if not name or not name.isprintable() or "+" in name or any(map(str.isspace, name)):
        raise InvalidKey("a key's name has no spaces and no +, like audit.example.com/valetkey")


def _check_signature(key: VerifierKey, text: str, signature: bytes) -> None:
    try:
        Ed25519PublicKey.from_public_bytes(key.public).verify(signature, text.encode())
    except InvalidSignature:
        raise InvalidNote(f"the signature of {key.name} is wrong") from None


def _parse_signature(line: str) -> Signature:
    match = _match_signature(line)
    decoded = None if match is None else _decode(match[2])
    if match is None or decoded is None or len(decoded) <= _KEY_ID_BYTES:
        raise InvalidNote("a line below the last empty line is not a signature")
    try:
        check_key_name(match[1])
    except InvalidKey:
        raise InvalidNote("a signature names no possible key") from None
    return Signature(match[1], decoded[:_KEY_ID_BYTES], decoded[_KEY_ID_BYTES:])


def _parse_key(text: str) -> tuple[str, str, bytes]:
    """Return the name, the id in hexadecimal and the bytes of a key."""
    name, key_id, encoded = (*text.split("+", 2), "", "")[:3]
    decoded = _decode(encoded)
    if decoded is None or not _is_key_id(key_id):
        raise InvalidKey("it is not NAME+ID+KEY, with an id of 8 hexadecimal digits")
    check_key_name(name)
    if decoded[:1] != _ED25519 or len(decoded) != 1 + _PUBLIC_BYTES:
        raise InvalidKey("it is not an Ed25519 key")
    return name, key_id, decoded[1:]


def _encode(data: bytes) -> str:
    return base64.b64encode(data).decode()


def _decode(text: str) -> bytes | None:
    """Return the bytes of a base64 text, or None if they have another or no such text."""
    try:
        data = base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):  # ValueError: not ASCII
        return None
    return data if _encode(data) == text else None


_LINES = 3
_MAX_SIZE = 2**63
_is_tenant_id = re.compile(r"[a-z0-9~][a-z0-9_~-]{0,62}").fullmatch
_is_size = re.compile(r"0|[1-9][0-9]{0,18}").fullmatch


class CheckpointText(NamedTuple):
    """The head of the tree that an origin names.

    The origin of a tenant's tree is the name of the signing key, a slash, and the tenant's id.
    """

    origin: str
    size: int
    root: bytes

    @classmethod
    def parse(cls, text: str) -> Self:
        """Parse the text of a note. Raises InvalidNote, also for extension lines."""
        lines = text.split("\n")
        if len(lines) != _LINES + 1 or not all(lines[:_LINES]) or lines[-1]:
            raise InvalidNote("its text is not the three lines of a checkpoint")
        origin, size, encoded = lines[:_LINES]
        if not _is_size(size) or int(size) >= _MAX_SIZE:
            raise InvalidNote("its second line is not the size of a tree")
        root = _decode(encoded)
        if root is None or len(root) != HASH_BYTES:
            raise InvalidNote("its third line is not the root of a tree")
        return cls(origin, int(size), root)

    def __str__(self) -> str:
        return f"{self.origin}\n{self.size}\n{_encode(self.root)}\n"


def names_a_tree(tenant_id: str) -> bool:
    """Return whether a tenant can have this id.

    One with a line break would put further lines into what is signed, one with a slash leave the
    folder of checkpoints.
    """
    return _is_tenant_id(tenant_id) is not None


def tree_origin(key_name: str, tenant_id: str) -> str:
    """Return the origin of a tenant's tree, whose checkpoints the key of this name signs."""
    return f"{key_name}/{tenant_id}"


def tenant_of(origin: str, key_name: str) -> str | None:
    """Return the id of the tenant of an origin, or None if it belongs to another key."""
    prefix = tree_origin(key_name, "")
    tenant_id = origin.removeprefix(prefix)
    return tenant_id if origin.startswith(prefix) and names_a_tree(tenant_id) else None


def open_checkpoint(note: str, keys: Sequence[VerifierKey] = ()) -> tuple[CheckpointText, str]:
    """Return what a signed checkpoint says, and the id of its tenant. Raises InvalidNote.

    One of the keys must have signed it. Without keys, no signature is verified.
    """
    content = CheckpointText.parse(verify_note(note, keys) if keys else Note.parse(note).text)
    names = [key.name for key in keys] or [content.origin.rpartition("/")[0]]
    tenant_ids = (tenant_of(content.origin, name) for name in names)
    tenant_id = next(filter(None, tenant_ids), None)
    if tenant_id is None:
        raise InvalidNote(f"it is the checkpoint of another log: {content.origin}")
    return content, tenant_id


class Fork(NamedTuple):
    """The statement that a tree does not continue some checkpoints, which are signed notes.

    Its record is the reference of its leaf, so there is no row beside it.
    """

    tenant: str
    contradicted: list[str]
    reason: str
    declared_by: str
    declared_at: str

    @classmethod
    def parse(cls, record: str) -> Self:
        """Parse a record. Raises ValueError, TypeError and AttributeError."""
        try:
            values = json.loads(record)
        except RecursionError:
            raise ValueError("it is nested too deeply") from None
        fork = cls(**{name: values.get(name) for name in cls._fields})
        if not fork.heads or fork.record != record:
            raise ValueError("it is not the record of a fork")
        return fork

    @property
    def record(self) -> str:
        """The canonical JSON that the leaf covers."""
        return encode_record("fork", self._asdict()).decode()

    @property
    def heads(self) -> list[CheckpointText]:
        """The heads that the tree does not continue."""
        return [open_checkpoint(note)[0] for note in self.contradicted]


def readable_forks(records: Iterable[str | None]) -> list[Fork]:
    """Return the forks of these records, without those that the service does not write."""
    forks = []
    for record in records:
        with suppress(TypeError, AttributeError, ValueError):
            forks.append(Fork.parse(record or ""))
    return forks
