from typing import Any

import httpx

from tests.acceptance.conftest import SECRET, Service
from tests.support.servers.waiting import wait_until
from valetkey.webhooks import parse_upload_event, verify


def received(service: Service, grant_id: str) -> list[dict[str, Any]]:
    """Return the payloads of the webhooks about a grant, verified."""
    receiver = service.receiver
    return [
        verify(body, receiver.headers[number], SECRET)
        for number, body in enumerate(tuple(receiver.bodies))
        if grant_id.encode() in body
    ]


def test_an_outcome_is_sent_by_webhook_after_the_commit(service: Service) -> None:
    with service.client() as client:
        grant = client.download("demo", "acme/a.txt", callback="hook").result()
    (outcome,) = wait_until(lambda: received(service, grant.id), what="the webhook has arrived")
    assert outcome["items"][0]["url"] == grant.url


def test_an_upload_is_told_by_webhook_when_a_probe_finds_it(service: Service) -> None:
    with service.client() as client:
        handle = client.upload(
            "demo", "acme/told.txt", max_size=10, callback="hook", notify=["upload.stored"]
        )
        form = handle.result()
        file = {"file": b"12345"}
        httpx.post(form.url, data=form.fields, files=file, trust_env=False).raise_for_status()
        stored = handle.stored()
    wait_until(
        lambda: len(received(service, form.id)) > 1,
        what="the outcome and the webhook about the upload have arrived",
    )
    (event,) = filter(None, map(parse_upload_event, received(service, form.id)))
    (upload,) = event.data.uploads
    assert (event.type, event.data.tenant, upload.key) == ("upload.stored", "acme", form.key)
    assert (upload.size, upload.etag, upload.stored_at) == (5, stored.etag, stored.stored_at)
