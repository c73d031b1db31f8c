"""A demonstration of the service on embedded servers, in half a minute: `make demo`."""

import base64
import os
import re
import secrets
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import redis

from examples.demo.output import (
    check,
    check_storage_refuses,
    console,
    expect_grants,
    fail,
    show_heading,
    show_progress,
    show_success,
)
from examples.demo.uploads import show_stored_upload, show_unused_slot
from examples.demo.webhook_receiver import WebhookReceiver, running_receiver
from valetkey import Client, Grant, Refused
from valetkey.crypto.keys import dump_private_key, generate_key, public_key_line
from valetkey.webhooks import GrantsDecided, unwrap
from valetkey.wire.messages import Item
from worker.dev.stack import Stack, running_stack

ROOT = Path(__file__).parents[2]
DOWNLOADS = 10_000
STORED_OBJECTS = 20  # the first of the downloads, which are uploaded and fetched
KIB = 1024
KEYS = {tenant: generate_key(f"{tenant}/demo") for tenant in ("acme", "globex")}

http = httpx.Client(trust_env=False)


def main() -> None:
    """Start the servers, demonstrate the service, and remove everything again."""
    start = time.monotonic()
    secret = "whsec_" + base64.b64encode(secrets.token_bytes(32)).decode()
    with (
        tempfile.TemporaryDirectory(prefix="valetkey-demo-") as folder,
        running_receiver() as receiver,
    ):
        tenants = _write_tenants_file(Path(folder), receiver.url)
        with _running_stack(Path(folder), tenants, secret) as stack:
            _show_upload(stack)
            _show_many_downloads(stack)
            _show_storage_refusals(stack)
            _show_quota_refusal(stack)
            _show_forgery(stack)
            _show_webhook(stack, receiver, secret)
            with _client(stack) as client:
                show_stored_upload(client, _post, receiver, secret)
                show_unused_slot(client, stack)
            _show_audit(stack)
            console.print("\nStopping.")
    console.print(f"Done in {time.monotonic() - start:.0f} s. Nothing is left running.")
    console.print("\nNext, start the service yourself, and run valetkey in a second terminal:\n")
    console.print("  .venv/bin/python -m worker dev")
    console.print("  .venv/bin/valetkey upload demo acme/hello.txt --max-size 500KiB --curl")
    console.print("\nThe tour in docs/tour.md continues from there.")


def _write_tenants_file(folder: Path, webhook_url: str) -> Path:
    """Write examples/tenants.toml with keys, and with a webhook endpoint in this process."""
    example = (ROOT / "examples" / "tenants.toml").read_text(encoding="utf-8")
    config = example.replace('trust = "queue"\n', "")  # require signed messages
    keys = [f"[tenants.{key.tenant}.keys]\n{public_key_line(key)}\n" for key in KEYS.values()]
    endpoint = f'[tenants.acme.endpoints.demo]\nurl = "{webhook_url}"\nsecret = "env:DEMO_SECRET"\n'
    path = folder / "tenants.toml"
    path.write_text("\n".join([config, *keys, endpoint]), encoding="utf-8")
    return path


@contextmanager
def _running_stack(folder: Path, tenants: Path, secret: str) -> Iterator[Stack]:
    show_heading("Start a broker, S3 storage, a database and workers, all installed with pip")
    start = time.monotonic()
    environ = dict(os.environ) | {"DEMO_SECRET": secret}
    with (
        console.status("") as status,
        running_stack(folder / "data", tenants, environ, on_step=status.update) as stack,
    ):
        status.stop()
        show_success(
            f"Valkey, SeaweedFS, SQLite and Celery, ready after {time.monotonic() - start:.1f} s"
        )
        yield stack


def _client(stack: Stack, tenant: str = "acme") -> Client:
    info, key = stack.info, dump_private_key(KEYS[tenant])
    return Client(info.broker_url, info.result_url, key=key, requested_by="demo")


def _post(form: Grant, content: bytes) -> httpx.Response:
    return http.post(form.url, data=form.fields, files={"file": content})


def _show_upload(stack: Stack) -> None:
    show_heading("Request an upload form, and upload a real file with it")
    content = (ROOT / "LICENSE").read_bytes()
    with _client(stack) as client:
        form = client.upload(
            "demo", "acme/licence.txt", max_size=500 * KIB, content_type="text/plain"
        ).result()
        show_success(
            f"a form for {form.key}, up to 500 KiB, valid until {form.expires_at:%H:%M:%S} UTC"
        )
        check(_post(form, content).is_success, f"storage accepted {len(content):,} bytes")
        link = client.download("demo", form.key, filename="licence.txt").result()
    check(http.get(link.url).content == content, "a download link returns the same bytes")


def _show_many_downloads(stack: Stack) -> None:
    show_heading(f"Request {DOWNLOADS:,} download links, each with its own audit row")
    keys = [f"acme/statements/{number:05}.txt" for number in range(DOWNLOADS)]
    with _client(stack) as client:
        forms = client.upload_many(
            "demo", keys[:STORED_OBJECTS], max_size=KIB, content_type="text/plain"
        )
        for form in expect_grants(forms):
            _post(form, form.key.encode())
        items = [Item(key=key, filename=f"statement-{key[-9:]}") for key in keys]
        start = time.monotonic()
        batch = client.download_many("demo", items, reason="statements 11/2026")
        links = list(show_progress(expect_grants(batch), DOWNLOADS))
    seconds = time.monotonic() - start
    show_success(f"{len(links):,} links in {seconds:.2f} s: {len(links) / seconds:,.0f} per second")
    matches = [http.get(link.url).content == link.key.encode() for link in links[:STORED_OBJECTS]]
    check(all(matches), f"{STORED_OBJECTS} of them fetched, each with the bytes that were uploaded")


def _show_storage_refusals(stack: Stack) -> None:
    show_heading("Change a link, and upload more than was granted: the storage itself refuses")
    with _client(stack) as client:
        link = client.download("demo", "acme/licence.txt").result()
        form = client.upload("demo", "acme/big.bin", max_size=KIB).result()
    other_key = link.url.replace("licence.txt", "statements/00001.txt")
    check_storage_refuses(http.get(other_key), "the link with another object key")
    longer = re.sub(r"X-Amz-Expires=\d+", "X-Amz-Expires=604800", link.url)
    check_storage_refuses(http.get(longer), "the link with a longer lifetime")
    check_storage_refuses(_post(form, bytes(2 * KIB)), "2 KiB with a form for 1 KiB")


def _show_quota_refusal(stack: Stack) -> None:
    show_heading("Request 101 links as the tenant globex, whose quota is 100 per hour")
    with _client(stack, "globex") as client:
        batch = client.download_many("demo", [f"globex/{number}" for number in range(101)])
        list(batch)
    quota = batch.refusal.quota if batch.refusal else None
    if quota is None or batch.issued:
        fail("the batch was granted although it exceeds the quota")
    show_success(
        f"all are refused: limit {quota.limit}, used {quota.used}, requested {quota.asked}, "
        f"resets at {quota.resets_at:%H:%M} UTC"
    )


def _show_forgery(stack: Stack) -> None:
    show_heading("Search Redis for links, and send a request as acme with a key that is not acme's")
    with _client(stack) as client:
        url = client.download("demo", "acme/licence.txt").result().url
    with redis.Redis.from_url(stack.info.result_url) as server:
        results = [server.get(name) or b"" for name in server.keys("celery-task-meta-*")]
    leaks = [url.encode() in result or b"X-Amz-Signature" in result for result in results]
    check(not any(leaks), f"{len(results)} results are stored there, all encrypted")
    info, key = stack.info, dump_private_key(generate_key("acme/demo"))
    with Client(info.broker_url, info.result_url, key=key, requested_by="mallory") as forger:
        try:
            forger.download("demo", "acme/licence.txt").result()
        except Refused as error:
            show_success(f"the forged request is refused: {error.refusal.code}")
        else:
            fail("a forged request was granted")


def _show_webhook(stack: Stack, receiver: WebhookReceiver, secret: str) -> None:
    show_heading("Receive a result by webhook, and verify its signature")
    with _client(stack) as client:
        grant = client.download("demo", "acme/licence.txt", callback="demo").result()
    event = unwrap(*receiver.requests.get(timeout=15), secret)
    check(
        isinstance(event, GrantsDecided) and event.data.items == [grant],
        "the signature is valid, and the webhook contains the same link",
    )


def _show_audit(stack: Stack) -> None:
    show_heading("Query the audit log")
    for words in ("summary", "list --tenant acme --limit 3"):
        console.print(f"  [dim]$ python -m worker audit {words}[/]")
        command = [sys.executable, "-m", "worker", "audit", *words.split()]
        subprocess.run(command, env=stack.environ, cwd=ROOT, check=True)


if __name__ == "__main__":
    main()
