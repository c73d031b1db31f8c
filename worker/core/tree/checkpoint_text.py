"""The text of a checkpoint: the origin, size and root of a tree (c2sp.org/tlog-checkpoint)."""

import base64
import binascii
import re
from typing import NamedTuple, Self

from worker.core.tree.merkle import HASH_BYTES
from worker.core.tree.signed_note import InvalidNote

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
        try:
            root = base64.b64decode(encoded, validate=True)
        except (binascii.Error, ValueError):  # ValueError: not ASCII
            root = b""
        if len(root) != HASH_BYTES or base64.b64encode(root).decode() != encoded:
            raise InvalidNote("its third line is not the root of a tree")
        return cls(origin, int(size), root)

    def __str__(self) -> str:
        return f"{self.origin}\n{self.size}\n{base64.b64encode(self.root).decode()}\n"


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
    return tenant_id if origin.startswith(prefix) and tenant_id else None
