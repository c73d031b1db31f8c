"""The fate of two upload slots: one is used, and one is not."""

import subprocess
import sys
from collections.abc import Callable

from examples.demo.output import check, show_heading, show_success
from examples.demo.webhook_receiver import WebhookReceiver
from valetkey import Client, Grant
from valetkey.webhooks import UploadStored, unwrap
from worker.dev.stack import Stack

KIB = 1024
_TIMEOUT = 15  # seconds


def show_stored_upload(
    client: Client, post: Callable[[Grant, bytes], object], receiver: WebhookReceiver, secret: str
) -> None:
    """Upload a file, and get the report from the client and by a webhook."""
    show_heading("Upload a file, and get a report that it is stored")
    handle = client.upload(
        *("demo", "acme/photo.txt"),
        max_size=500 * KIB,
        content_type="text/plain",
        callback="demo",
        notify=["upload.stored"],
    )
    post(handle.result(), bytes(48_211))
    stored = handle.stored(_TIMEOUT)
    show_success(f"the program knows: {stored.key} is stored, {stored.size:,} bytes")
    (upload,) = _next_upload(receiver, secret).data.uploads
    check(upload.size == stored.size, "the webhook upload.stored reports the same size")


def _next_upload(receiver: WebhookReceiver, secret: str) -> UploadStored:
    """Return the next webhook about an upload; others come to the same endpoint."""
    while True:
        event = unwrap(*receiver.requests.get(timeout=_TIMEOUT), secret)
        if isinstance(event, UploadStored):
            return event


def show_unused_slot(client: Client, stack: Stack) -> None:
    """Request a slot for one second, use it for nothing, and see its bytes given back."""
    show_heading("Request an upload slot that nobody uses")
    before = _charged_bytes(client)
    impatient = client.with_options(min_left=0)  # returns a grant that has ended meanwhile
    handle = impatient.upload(
        "demo", "acme/never.txt", max_size=500 * KIB, content_type="text/plain", expires_in=1
    )
    grant = handle.result()
    check(_charged_bytes(client) == before + 500 * KIB, "its 500 KiB are charged to the quota")
    command = [sys.executable, "-m", "examples.demo.settle_early"]
    settled = subprocess.run(command, env=stack.environ, check=True, stdout=subprocess.PIPE)
    state = client.status(grant.id).state
    if state != "unused":
        sys.stderr.buffer.write(settled.stdout)  # the log says why storage was not asked
    check(state == "unused", "on a clock that is past its end, storage is asked: it is unused")
    check(_charged_bytes(client) == before, "its 500 KiB are given back")


def _charged_bytes(client: Client) -> int:
    """Return the bytes of uploads that are charged to the tenant today."""
    quotas = client.usage()
    return sum(q.used for q in quotas if (q.metric, q.window) == ("upload_bytes", "day"))
