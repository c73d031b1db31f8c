"""What the story of a grant or batch says of revocations."""

from collections.abc import Iterator, Mapping
from typing import Any

from sqlalchemy import Connection

from worker.revoke.revocation_rows import (
    read_batch_revocations,
    read_item_revocations,
    read_storage,
)
from worker.rules.issued_grants import IssuedItem
from worker.shared.grant_items import StorySubject


def read_story(connection: Connection, subject: StorySubject) -> Mapping[str, Any]:
    """Read the revocations that cover an item, or items of a batch, the oldest first."""
    storage = read_storage(connection, subject.bucket)
    number, key = subject.item_number or 0, subject.object_key
    item = IssuedItem(subject.batch_id, number, subject.bucket, storage, key)
    if subject.item_number is not None:
        found = read_item_revocations(connection, subject.tenant, item, subject.decided_at)
    else:
        batch_number, since = subject.batch_number, subject.decided_at
        found = read_batch_revocations(connection, subject.tenant, batch_number, item, since)
    revocations = [
        {
            "at": each.revoked_at,
            "revoked_by": each.revoked_by,
            "reason": each.reason,
            "target": each.target.kind,
            "value": each.target.value,
        }
        for each in found
    ]
    return {"revocations": revocations}


def story_lines(story: Mapping[str, Any]) -> Iterator[tuple[str, str | None]]:
    """Yield a line for each revocation."""
    for each in story["revocations"]:
        reason = f": {each['reason']}" if each["reason"] else ""
        what = f"{each['target']} {each['value']}"
        yield "revoked", f"{each['at']} by {each['revoked_by']}, with {what}{reason}"
