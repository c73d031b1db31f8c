"""The webhook about uploads that a delivery sends, from the rows that it tells of."""

from typing import NamedTuple

from valetkey.wire.upload_events import UploadEvent, UploadEventData
from worker.context import Context
from worker.db.engine import autocommit_read
from worker.db.outbox import DeliveryLease
from worker.db.uses.deliveries import read_upload_news
from worker.errors import Malformed


class UploadMessage(NamedTuple):
    """A webhook about uploads. bucket is the bucket profile; message_id is the same each time."""

    message_id: str
    bucket: str
    body: bytes


def upload_message(delivery: DeliveryLease, context: Context) -> UploadMessage:
    """Build the message of a delivery that has an event: the same for each attempt.

    Raises Malformed if the rows or the tenant are not there.
    """
    with autocommit_read(context.engine) as connection:
        news = read_upload_news(connection, delivery)
    if news is None or delivery.event is None:
        raise Malformed("there is nothing to tell of")
    tenant = context.config.current().tenant_by_id(delivery.endpoint.owner)
    if tenant is None:
        raise Malformed("the tenant was removed")
    data = UploadEventData(
        tenant=tenant.name,
        batch=news.batch_id,
        chunk=delivery.chunk_number,
        uploads=list(news.uploads),
    )
    event = UploadEvent(type=delivery.event, timestamp=news.recorded_at, data=data)
    body = event.model_dump_json(exclude_defaults=True).encode()
    # Standard Webhooks allows no dot in an id. The group tells webhooks of one chunk apart.
    suffix = "-".join(filter(None, (delivery.event.rpartition(".")[2], delivery.group_id)))
    return UploadMessage(f"{news.batch_id}-{delivery.chunk_number}-{suffix}", news.bucket, body)
