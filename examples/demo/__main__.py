"""The main job on embedded parts, in half a minute: `make demo`."""

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

from examples.demo.receiver import Received, receiving
from examples.demo.stage import (
    check,
    console,
    fail,
    good,
    granted,
    headline,
    refused,
    with_progress,
)
from valetkey import Client, Grant, Refused
from valetkey.crypto.keys import dump_private_key, generate_key, public_key_line
from valetkey.webhooks import verify
from valetkey.wire.messages import Item
from worker.devstack.stack import Stack, running_stack

ROOT = Path(__file__).parents[2]
MANY = 10_000
STORED = 20  # of the many, objects that are really there
KIB = 1024
KEYS = {tenant: generate_key(f"{tenant}/demo") for tenant in ("acme", "globex")}

http = httpx.Client(trust_env=False)


def main() -> None:
    """Start everything, show the main job, and leave nothing behind."""
    began = time.monotonic()
    secret = "whsec_" + base64.b64encode(secrets.token_bytes(32)).decode()
    with tempfile.TemporaryDirectory(prefix="valetkey-demo-") as folder, receiving() as received:
        tenants = _tenants(Path(folder), received.url)
        with _running(Path(folder), tenants, secret) as up:
            _upload(up)
            _many_downloads(up)
            _refused_by_storage(up)
            _refused_by_quota(up)
            _forged(up)
            _webhook(up, received, secret)
            _audit(up)
            console.print("\nStopping.")
    console.print(f"Done in {time.monotonic() - began:.0f} s. Nothing is left running.")
    console.print("\nNext, keep it running, and ask it from a second terminal:\n")
    console.print("  .venv/bin/python -m worker dev")
    console.print("  .venv/bin/valetkey upload demo acme/hello.txt --max-size 500KiB --curl")
    console.print("\nThe tour in README.md goes on from there.")


def _tenants(folder: Path, webhook_url: str) -> Path:
    """Write the example's tenants, their keys, and an endpoint that calls this program back."""
    example = (ROOT / "examples" / "tenants.toml").read_text(encoding="utf-8")
    signed = example.replace('trust = "queue"\n', "")
    keys = [f"[tenants.{key.tenant}.keys]\n{public_key_line(key)}\n" for key in KEYS.values()]
    endpoint = f'[tenants.acme.endpoints.demo]\nurl = "{webhook_url}"\nsecret = "env:DEMO_SECRET"\n'
    path = folder / "tenants.toml"
    path.write_text("\n".join([signed, *keys, endpoint]), encoding="utf-8")
    return path


@contextmanager
def _running(folder: Path, tenants: Path, secret: str) -> Iterator[Stack]:
    headline("Start a broker, a storage, a database and workers, all from wheels")
    began = time.monotonic()
    environ = dict(os.environ) | {"DEMO_SECRET": secret}
    with (
        console.status("") as status,
        running_stack(folder / "data", tenants, environ, say=status.update) as up,
    ):
        status.stop()
        good(f"Valkey, SeaweedFS, SQLite and Celery, ready after {time.monotonic() - began:.1f} s")
        yield up


def _client(up: Stack, tenant: str = "acme") -> Client:
    running, key = up.running, dump_private_key(KEYS[tenant])
    return Client(running.broker_url, running.result_url, key=key, requested_by="demo")


def _post(form: Grant, content: bytes) -> httpx.Response:
    return http.post(form.url, data=form.fields, files={"file": content})


def _upload(up: Stack) -> None:
    headline("Ask for an upload slot, and put a real file through it")
    content = (ROOT / "LICENSE").read_bytes()
    with _client(up) as client:
        slot = client.upload(
            "demo", "acme/licence.txt", max_size=500 * KIB, content_type="text/plain"
        ).result()
        good(f"a form for {slot.key}, up to 500 KiB, until {slot.expires_at:%H:%M:%S} UTC")
        check(_post(slot, content).is_success, f"storage took {len(content):,} bytes")
        link = client.download("demo", slot.key, filename="licence.txt").result()
    check(http.get(link.url).content == content, "a download link gives the same bytes back")


def _many_downloads(up: Stack) -> None:
    headline(f"Ask for {MANY:,} download links, each with its own audit row")
    keys = [f"acme/statements/{number:05}.txt" for number in range(MANY)]
    with _client(up) as client:
        forms = client.upload_many("demo", keys[:STORED], max_size=KIB, content_type="text/plain")
        for form in granted(forms):
            _post(form, form.key.encode())
        items = [Item(key=key, filename=f"statement-{key[-9:]}") for key in keys]
        began = time.monotonic()
        batch = client.download_many("demo", items, reason="statements 11/2026")
        links = list(with_progress(granted(batch), MANY))
    took = time.monotonic() - began
    good(f"{len(links):,} links in {took:.2f} s: {len(links) / took:,.0f} a second")
    same = [http.get(link.url).content == link.key.encode() for link in links[:STORED]]
    check(all(same), f"{STORED} of them fetched, every byte as it was uploaded")


def _refused_by_storage(up: Stack) -> None:
    headline("Tamper with a link, and send more than was granted: storage itself refuses")
    with _client(up) as client:
        link = client.download("demo", "acme/licence.txt").result()
        slot = client.upload("demo", "acme/big.bin", max_size=KIB).result()
    other = link.url.replace("licence.txt", "statements/00001.txt")
    refused(http.get(other), "the link with another key in it")
    longer = re.sub(r"X-Amz-Expires=\d+", "X-Amz-Expires=604800", link.url)
    refused(http.get(longer), "the link with a longer life")
    refused(_post(slot, bytes(2 * KIB)), "2 KiB through a form for 1 KiB")


def _refused_by_quota(up: Stack) -> None:
    headline("Ask for 101 links as globex, which may have 100 an hour")
    with _client(up, "globex") as client:
        batch = client.download_many("demo", [f"globex/{number}" for number in range(101)])
        list(batch)
    quota = batch.refusal.quota if batch.refusal else None
    if quota is None or batch.issued:
        fail("the quota did not refuse")
    good(
        f"refused as a whole, nothing charged: limit {quota.limit}, used {quota.used}, "
        f"asked {quota.asked}, starts again at {quota.resets_at:%H:%M} UTC"
    )


def _forged(up: Stack) -> None:
    headline("Look into Redis, and ask as acme with a key that is not acme's")
    with _client(up) as client:
        url = client.download("demo", "acme/licence.txt").result().url
    with redis.Redis.from_url(up.running.result_url) as store:
        answers = [store.get(name) or b"" for name in store.keys("celery-task-meta-*")]
    leaks = [url.encode() in answer or b"X-Amz-Signature" in answer for answer in answers]
    check(not any(leaks), f"{len(answers)} answers lie there, and none can be read")
    running, key = up.running, dump_private_key(generate_key("acme/demo"))
    with Client(running.broker_url, running.result_url, key=key, requested_by="mallory") as forger:
        try:
            forger.download("demo", "acme/licence.txt").result()
        except Refused as error:
            good(f"the forged request: {error.refusal.code}")
        else:
            fail("a forged request was granted")


def _webhook(up: Stack, received: Received, secret: str) -> None:
    headline("Have an answer pushed to a webhook, and verify its signature")
    with _client(up) as client:
        grant = client.download("demo", "acme/licence.txt", callback="demo").result()
    body, headers = received.requests.get(timeout=15)
    told = verify(body, headers, secret)
    check(told["items"][0]["url"] == grant.url, "a genuine webhook, with the very same link")


def _audit(up: Stack) -> None:
    headline("Ask the audit log who was given what")
    for words in ("summary", "list --tenant acme --limit 3"):
        console.print(f"  [dim]$ python -m worker audit {words}[/]")
        command = [sys.executable, "-m", "worker", "audit", *words.split()]
        subprocess.run(command, env=up.environ, cwd=ROOT, check=True)


if __name__ == "__main__":
    main()
