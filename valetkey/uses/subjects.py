"""Names of grants and batches, as the methods that ask about them take them."""

from typing import NamedTuple, Protocol

from valetkey.wire.grant_ids import split_grant_id
from valetkey.wire.messages import grant_id
from valetkey.wire.replies import Grant


class SingleHandle(Protocol):
    """A handle of one grant, such as a GrantHandle."""

    @property
    def id(self) -> str:
        """The batch id of its request."""

    @property
    def batch(self) -> object:
        """The handle of its batch."""


class WholeHandle(Protocol):
    """A handle of a batch, such as a BatchHandle."""

    @property
    def id(self) -> str:
        """The batch id."""

    @property
    def total(self) -> int:
        """The number of its items."""


class Subject(NamedTuple):
    """A batch, and the number of the item that is meant, if it is a single one."""

    batch_id: str
    item: int | None = None


def read_subject(
    subject: str | Grant | SingleHandle | WholeHandle, argument: str = "subject"
) -> Subject:
    """Return the batch and item that are named by a grant, a handle, a grant id or a batch id.

    Raises ValueError for a text that is no id, and TypeError that names the argument for any other
    value.
    """
    if isinstance(subject, str):
        return read_id(subject)
    if isinstance(subject, Grant):
        return read_id(subject.id)
    is_single = hasattr(subject, "batch")
    if not hasattr(subject, "id") or not (is_single or hasattr(subject, "total")):
        name = type(subject).__name__
        raise TypeError(f"{argument} must be a grant, a handle or an id, and is a {name}")
    return Subject(subject.id, 0 if is_single else None)


def read_grant_id(subject: str | Grant | SingleHandle) -> str:
    """Return the id of a grant, or of the grant of a handle.

    Raises as read_subject does, and ValueError for a batch id.
    """
    batch_id, item = read_subject(subject, "grant")
    if item is None:
        raise ValueError(f"{batch_id!r} is the id of a batch: add a dot and the item's number")
    return grant_id(batch_id, item)


def read_id(text: str) -> Subject:
    """Return the batch and item of a grant id or a batch id. Raises ValueError for other texts."""
    if "." not in text:
        return Subject(text)
    try:
        return Subject(*split_grant_id(text))
    except ValueError:
        raise ValueError(f"{text!r} is neither a grant id nor a batch id") from None
