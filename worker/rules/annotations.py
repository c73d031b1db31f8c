"""Texts of producers about a request or an item, which may be personal, and commitments to them.

The log has the text beside a random salt, and its record has only the commitment to both. Once the
text is erased, the commitment replaces the salt: the record stays what it was, and nobody can
confirm a guess of the text.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from hashlib import sha256
from secrets import token_bytes
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, Self, TypedDict, get_args

if TYPE_CHECKING:  # audit commands read records without pydantic
    from valetkey.wire.messages import Item

TextName = Literal["recipient", "reason", "ref"]
ANNOTATION_FIELDS: tuple[TextName, ...] = get_args(TextName)
"""The fields of an item that are texts for the audit log. Nothing of them is signed."""

BATCH_TEXTS: tuple[TextName, ...] = ("recipient", "reason")
"""Those that a request can have for all its items. Texts of an item take precedence."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ItemTexts:
    """A value for each text about an item, None if there is none."""

    recipient: str | None = None
    reason: str | None = None
    ref: str | None = None


class TextValues(TypedDict, total=False):
    """The same as a dict."""

    recipient: str | None
    reason: str | None
    ref: str | None


SALT_SUFFIX = "_salt"
"""The end of the name of the column with the salt of a text, or with its commitment."""

_SALT_BYTES = 16
_HASH_BYTES = 32


def new_salt() -> bytes:
    """Return random bytes that nobody can guess."""
    return token_bytes(_SALT_BYTES)


def salted(texts: Mapping[str, str | None]) -> dict[str, Any]:
    """Return columns with texts, and beside each one a column with a new salt for it."""
    columns: dict[str, Any] = {}
    for name, text in texts.items():
        columns[name] = text
        columns[name + SALT_SUFFIX] = None if text is None else new_salt()
    return columns


def commitment(text: str | None, salt: bytes | None) -> bytes | None:
    """Return the SHA-256 of a salt and a text; that of an erased text is stored as its salt.

    None if there is and was no text. Raises ValueError for a salt of another length: the beginning
    of a text, moved to the end of its salt, would have the same commitment.
    """
    if text is None and salt is None:
        return None
    if salt is None or len(salt) != (_SALT_BYTES if text is not None else _HASH_BYTES):
        raise ValueError("a text has no salt, or one of another length")
    return salt if text is None else sha256(salt + text.encode()).digest()


class SaltedTexts(NamedTuple):
    """The texts about one item with their salts, as stored."""

    recipient: str | None
    recipient_salt: bytes | None
    reason: str | None
    reason_salt: bytes | None
    ref: str | None
    ref_salt: bytes | None

    @classmethod
    def of(cls, item: "Item") -> Self | None:
        """Return the texts of an item with new salts, or None if it has none."""
        if item.model_fields_set.isdisjoint(ANNOTATION_FIELDS):
            return None
        texts: dict[str, str | None] = {name: getattr(item, name) for name in ANNOTATION_FIELDS}
        return None if set(texts.values()) == {None} else cls(**salted(texts))

    @property
    def own(self) -> dict[str, str | None]:
        """The texts that there are, and None for each that was erased, by their field."""
        texts = zip(ANNOTATION_FIELDS, self[::2], self[1::2], strict=True)
        return {name: text for name, text, salt in texts if salt is not None}

    @property
    def commitments(self) -> dict[str, str]:
        """The commitments to the texts that there are or were, in the order of a record's names."""
        values: dict[str, str] = {}
        columns: tuple[Any, ...] = self
        for name, number in _IN_RECORD:  # six hundred times for each chunk
            if (hash_ := commitment(columns[number], columns[number + 1])) is not None:
                values[name] = hash_.hex()
        return values


_IN_RECORD = [(name, SaltedTexts._fields.index(name)) for name in sorted(ANNOTATION_FIELDS)]

Annotations = Mapping[int, SaltedTexts]
"""The texts about the items of a chunk, by item number. Most items have none."""

NO_ANNOTATIONS: Annotations = {}


def with_refs(
    results: Sequence[dict[str, Any]], refs: Iterable[str | None]
) -> Sequence[dict[str, Any]]:
    """Return the results of items with the producer's references, by which they are joined."""
    refs = list(refs)
    if not any(refs):  # as in most chunks
        return results
    pairs = zip(results, refs, strict=True)
    return [result if ref is None else result | {"ref": ref} for result, ref in pairs]
