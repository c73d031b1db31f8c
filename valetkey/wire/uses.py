"""States and uses of grants: the reply to a StatusMessage. Wire version 1."""

from datetime import datetime
from typing import Annotated, Literal

from pydantic import Field

from valetkey.wire.terms import Kind, ReplyModel

State = Literal[
    "open",
    "used",
    "unused",
    "late",
    "mismatched",
    "overwritten",
    "unknown",
    "refused",
    "undecided",
]

_IN_ORDER = Field(union_mode="left_to_right")  # text only if it is none of the known values


class UseState(ReplyModel):
    """The state of one item, and its newest use.

    item: the number of the item in its batch.
    state: `open` while the grant can be used and no use of it is known; `used` as granted, once or
    more; `unused` if an upload slot ended and storage has no object of it; `late` if the object was
    stored after the end of the grant; `mismatched` if the object has another size, type or checksum
    than granted; `overwritten` if another grant stored an object under the key later; `unknown` if
    the grant has ended and no use of it is known. `refused` for an item that was not granted, and
    `undecided` for one that is not decided yet.
    key: the object key; absent if the item is undecided.
    expires_at: the end of the grant.
    uses: the number of known uses.
    size, etag, version, checksum, content_type: those of the newest object that the grant stored,
    as far as they are known.
    stored_at: the time at which that object was stored, as storage tells it.
    problem: for `mismatched`, the limits of the grant that the object exceeds.
    """

    item: int
    state: Annotated[State | str, _IN_ORDER]
    key: str | None = None
    expires_at: Annotated[datetime, Field(strict=False)] | None = None
    uses: int = 0
    size: int | None = None
    etag: str | None = None
    version: str | None = None
    checksum: str | None = None
    content_type: str | None = None
    stored_at: Annotated[datetime, Field(strict=False)] | None = None
    problem: str | None = None


class UseStates(ReplyModel):
    """The reply to a StatusMessage: what became of the grants of a batch, as far as it is known.

    batch, kind, bucket, total: as in the batch's own messages.
    items: the states of the items of the message, in its order.
    counts: for a message without items; the number of items by state, of those that there are.
    """

    status: Literal["states"] = "states"
    batch: str
    kind: Annotated[Kind | str, _IN_ORDER]
    bucket: str
    total: int = Field(ge=1)
    items: list[UseState] = Field(default_factory=list)
    counts: dict[str, int] = Field(default_factory=dict)

    @property
    def state(self) -> str | None:
        """The state of the grant, if the message was about a single one."""
        return self.items[0].state if len(self.items) == 1 else None
