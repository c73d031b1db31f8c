"""What the story of a grant or batch says of webhooks and the manifest."""

from collections.abc import Iterator, Mapping
from typing import Any

from sqlalchemy import Connection, select

from models import Delivery, Manifest
from worker.shared.grant_items import StorySubject

_MANIFEST = select(
    *(Manifest.object_key, Manifest.state, Manifest.attempts, Manifest.issued, Manifest.refused),
    *(Manifest.bytes, Manifest.problem, Manifest.created_at, Manifest.finished_at),
)
_DELIVERIES = select(
    *(Delivery.chunk_number, Delivery.endpoint, Delivery.state, Delivery.attempts),
    *(Delivery.status, Delivery.problem, Delivery.created_at, Delivery.finished_at),
    *(Delivery.next_attempt_at, Delivery.event, Delivery.page, Delivery.pages),
).order_by(Delivery.delivery_number)


def read_story(connection: Connection, subject: StorySubject) -> Mapping[str, Any]:
    """Read the manifest of a batch, and the webhooks of its chunks, or of the chunk of an item."""
    deliveries = _DELIVERIES.where(Delivery.batch_number == subject.batch_number)
    if subject.chunk_number is not None:
        deliveries = deliveries.where(Delivery.chunk_number == subject.chunk_number)
    manifest = _MANIFEST.where(Manifest.batch_number == subject.batch_number)
    row = connection.execute(manifest).mappings().first()
    return {
        "manifest": None if row is None else dict(row),
        "deliveries": [dict(each) for each in connection.execute(deliveries).mappings()],
    }


def story_lines(story: Mapping[str, Any]) -> Iterator[tuple[str, str | None]]:
    """Yield a line for each webhook, and one for the manifest."""
    deliveries = story["deliveries"]
    if story["callback"] and all(row["event"] != "grants.decided" for row in deliveries):
        yield "delivery", f"none, though the request names the endpoint {story['callback']}"
    for row in deliveries:
        yield "delivery", _describe_delivery(row)
    if story["manifest"]:
        yield "manifest", _describe_manifest(story["manifest"])


def _describe_delivery(row: Mapping[str, Any]) -> str:
    at = f" at {row['finished_at']}" if row["finished_at"] else ""
    attempts = f"{row['attempts']} attempt{'s' * (row['attempts'] != 1)}"
    status = f", HTTP {row['status']}" if row["status"] is not None else ""
    problem = f": {row['problem']}" if row["problem"] else ""
    chunk = "the batch" if row["chunk_number"] is None else f"chunk {row['chunk_number']}"
    page = f", page {row['page']} of {row['pages']}," if row["pages"] > 1 else ""
    webhook = f"{row['event']} of {chunk}{page} to endpoint {row['endpoint']}"
    return f"{webhook}, {row['state']}{at} after {attempts}{status}{problem}"


def _describe_manifest(row: Mapping[str, Any]) -> str:
    at = f" at {row['finished_at']}" if row["finished_at"] else ""
    problem = f": {row['problem']}" if row["problem"] else ""
    return f"{row['object_key']}, {row['state']}{at}{problem}"
