"""URLs and forms give access to whoever has them: logs, tables, outputs and Redis contain none."""

import json
import re
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, NamedTuple

import httpx
import pyarrow.parquet as pq
import pytest
import redis
from celery import Celery
from click.testing import CliRunner

from tests.acceptance.conftest import SECRET, VAULT_KEY, Service
from tests.support.builders.messages import batch_id, grant_message
from tests.support.cli.listening import ListenProcess, listening
from tests.support.crypto.tokens import sign_message, unseal_result
from tests.support.servers.spans import received_spans
from tests.support.servers.waiting import wait_until
from valetkey import Grant
from valetkey.crypto.keys import dump_private_key
from worker.__main__ import main

SIGNATURE = re.compile(r"X-Amz-Signature|x-amz-signature|X-Amz-Credential|eyJleHBpcmF0aW9u")
KEYS = ("acme/secret.txt", "vault/secret.txt")
FORMS = ((), ("--json",))


class Secrets(NamedTuple):
    """The secrets of a tenant without a key, and of one with a key."""

    unsigned: list[str]
    signed: list[str]

    def contained_in(self, text: str) -> list[str]:
        return [secret for secret in (*self.unsigned, *self.signed) if secret in text]


def send_request(service: Service, message: dict[str, Any]) -> tuple[str, dict[str, Any]]:
    """Send a signed request of the tenant vault; return the token and the opened result."""
    info = service.stack.info
    token = sign_message(message, VAULT_KEY, datetime.now(UTC))
    with Celery("vault", broker=info.broker_url, backend=info.result_url) as producer:
        task = producer.send_task("valetkey.issue", args=[token], queue="valetkey")
        return token, unseal_result(task.get(timeout=15), VAULT_KEY)


def grant_request(kind: str, **terms: Any) -> dict[str, Any]:
    grant = {"kind": kind, "bucket": "demo", "expires_in": 300, **terms}
    size = {} if kind in {"download", "upload"} else {"size": 10}
    items = [{"key": "vault/secret.txt", **size}]
    return grant_message(tenant="vault", grant=grant, items=items, callback="hook")


def requests_of_every_sort() -> list[dict[str, Any]]:
    """Return a request for a grant of each kind, and each other request about them."""
    download = grant_request("download")
    upload = grant_request("upload", max_size=10) | {"notify": ["upload.stored"]}
    about = {"v": 1, "tenant": "vault"}
    requester = {"requested_by": "tests"}
    of = {"of": f"{download['batch']}.0", "batch": batch_id()}
    return [
        download,
        upload,
        grant_request("put", max_size=10),
        grant_request("multipart", max_size=10),
        about | {"ask": "usage"},
        download | {"ask": "explain"},
        about | requester | {"ask": "reissue"} | of,
        about | {"ask": "status", "batch": upload["batch"], "items": [0], "probe": True},
        about | requester | {"ask": "cancel", "batch": download["batch"]},
    ]


def webhook_count(service: Service) -> int:  # each may be received more than once
    ids = {headers["webhook-id"] for headers in service.receiver.headers}
    return sum("quota" not in name for name in ids)  # once a day: perhaps before these tests


def secrets_of_grants_without_a_key(service: Service) -> list[str]:
    with service.client() as client:
        link = client.download("demo", "acme/secret.txt", callback="hook").result()
        form = client.upload("demo", "acme/secret.txt", max_size=10).result()
        put = client.put("demo", "acme/secret.bin", size=10).result()
        upload = client.multipart("demo", "acme/secret.bin", size=10)
        part = next(iter(upload.parts()))
    assert isinstance(part, Grant)
    urls = [link.url, put.url, upload.result().url, part.url]
    return [form.fields["x-amz-signature"], *(url.rpartition("=")[2] for url in urls)]


@pytest.fixture(scope="module")
def listen(service: Service, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ListenProcess]:
    """A developer of the tenant vault, who listens to all that happens."""
    folder = tmp_path_factory.mktemp("listen")
    with listening(folder, service.producer_environ(folder, VAULT_KEY)) as listen:
        yield listen


@pytest.fixture(scope="module")
def secrets(service: Service, listen: ListenProcess) -> Secrets:
    """The secrets of both tenants, after they have sent every kind of request."""
    before = webhook_count(service)
    unsigned = secrets_of_grants_without_a_key(service)
    tokens, outcomes = zip(
        *(send_request(service, message) for message in requests_of_every_sort()), strict=True
    )
    grants = [item for o in outcomes for item in o.get("items", ()) if "url" in item]
    urls = [grant["url"] for grant in grants if "fields" not in grant]
    (form,) = (grant for grant in grants if "fields" in grant)
    signatures = [url.rpartition("=")[2] for url in urls]
    # A fresh grant calls no endpoint; the unsigned link does.
    expected = before + 2 * len(grants)  # each batch is completed
    wait_until(lambda: webhook_count(service) == expected, what="the webhooks have arrived")
    private = [key["d"] for key in json.loads(dump_private_key(VAULT_KEY))["keys"]]
    parts = [part for token in tokens for part in token.split(".")[1:]]
    signed = [*urls, *signatures, form["fields"]["x-amz-signature"], *private, *parts, SECRET]
    secrets = Secrets(unsigned, signed)
    check_upload_webhook(service, form, secrets)
    listen.wait_for("  upload.stored  ")
    return secrets


def check_upload_webhook(service: Service, form: dict[str, Any], secrets: Secrets) -> None:
    """Use a form, and check that the webhook that tells of it contains no secret."""
    httpx.post(form["url"], data=form["fields"], files={"file": b"12345"}).raise_for_status()
    with service.signing_client(VAULT_KEY) as client:
        client.batch(form["id"].rpartition(".")[0]).stored(0)
    is_told = (form["id"].encode(), b"upload.stored")
    told = wait_until(
        lambda: [b for b in tuple(service.receiver.bodies) if all(text in b for text in is_told)],
        what="the webhook about the upload has arrived",
    )
    assert secrets.contained_in(told[0].decode()) == []
    assert b"://" not in told[0]


def run_worker(service: Service, *words: str, text: str | None = None, **environ: str) -> str:
    """Run a command of the operator; return all that it prints."""
    environ = {**service.stack.environ, **environ}
    return CliRunner().invoke(main, words, input=text, env=environ).output


def dump_tables(service: Service, _: Path) -> str:
    path = service.stack.info.database_url.removeprefix("sqlite:///")
    with closing(sqlite3.connect(path)) as connection:
        return "\n".join(connection.iterdump())


def list_grants(service: Service, form: str) -> list[str]:
    # Only these keys: other tests request grants of the same tenants from the same service.
    lists = (run_worker(service, "audit", "list", "--key", key, "--all", form) for key in KEYS)
    return [line for lines in lists for line in lines.splitlines()]


def grant_ids(service: Service) -> list[str]:
    return [json.loads(line)["grant"] for line in list_grants(service, "--json")]


def list_and_show(service: Service, _: Path) -> str:
    printed = [*list_grants(service, "--json"), *list_grants(service, "--csv")]
    for grant in grant_ids(service):
        printed += [run_worker(service, "audit", "show", grant, *form) for form in FORMS]
    return "\n".join(printed)


def make_report(service: Service, _: Path) -> str:
    soon = (datetime.now(UTC) + timedelta(hours=1)).isoformat()  # a report ends before its second
    words = ("audit", "report", "--until", soon, "--out", "-", "--tenant")
    return run_worker(service, *words, "acme") + run_worker(service, *words, "vault")


def make_checkpoint_and_proofs(service: Service, folder: Path) -> str:
    key_file, checkpoints = folder / "audit.key", folder / "checkpoints"
    environ = {
        "VALETKEY_AUDIT_KEY_FILE": str(key_file),
        "VALETKEY_AUDIT_CHECKPOINTS": str(checkpoints),
    }
    printed = [run_worker(service, "audit", "key", "--new", str(key_file), **environ)]
    printed.append(run_worker(service, "audit", "checkpoint", "--json", **environ))
    printed += [run_worker(service, "audit", "prove", grant) for grant in grant_ids(service)]
    printed += [path.read_text() for path in checkpoints.rglob("*.checkpoint")]
    text = "\n".join(printed)
    assert key_file.read_text()[-20:].strip() not in text
    return text


def show_metrics(service: Service, _: Path) -> str:
    text = run_worker(service, "metrics")
    assert [word for word in ("secret.txt", "secret.bin", "://") if word in text] == []
    return text


def read_spans(service: Service, _: Path) -> str:
    spans = wait_until(
        lambda: [s for s in [received_spans(service.collector)] if "webhook" in str(s)],
        what="the spans have arrived",
    )
    text = str(spans)
    assert [word for word in ("secret.txt", "secret.bin", "://", "h00k") if word in text] == []
    return text


def manage_webhook_secrets(service: Service, folder: Path) -> str:
    """Run each command for webhook secrets, with all that it reads and writes."""
    kinds, hook = {"shared": (), "key": ("--asymmetric",)}, {"TEST_HOOK_SECRET": SECRET}
    command, text = ("webhooks", "secret"), ""
    for name, options in kinds.items():
        file = folder / name
        written = []
        for words in (("new", str(file), *options), ("rotate", str(file))):
            text += run_worker(service, *command, *words)
            written += [word.partition("_")[2] for word in file.read_text().split()]
        hook = {"TEST_HOOK_SECRET": f"{SECRET} {file.read_text()}"}
        text += run_worker(service, "webhooks", "key", "acme/hook", **hook)
        text += run_worker(service, *command, "check", "--all", **hook)
        text += run_worker(service, *command, "check", "--all", "--json", **hook)
        text += run_worker(service, *command, "rotate", str(file), "--overlap", "0")
        text += run_worker(service, *command, "check", "--all", TEST_HOOK_SECRET=SECRET[:-9])
        assert [word for word in written if word and word in text] == []
    return text


def show_webhooks(service: Service, _: Path) -> str:
    """Run each command that shows webhooks, and try the endpoint."""
    words = (("list",), ("list", "--json"), ("show", "1"), ("endpoints",), ("test", "acme/hook"))
    hook = {"TEST_HOOK_SECRET": SECRET}
    return "\n".join(run_worker(service, "webhooks", *each, **hook) for each in words)


def export_as(name: str) -> Callable[[Service, Path], str]:
    def export(service: Service, folder: Path) -> str:
        out = folder / "out"
        output = run_worker(service, "audit", "export", "--format", name, "--out", str(out))
        output += run_worker(service, "audit", "verify", "--export", str(out))
        output += (folder / "out.manifest.json").read_text()
        is_table = name == "parquet"
        return output + (str(pq.read_table(out).to_pylist()) if is_table else out.read_text())

    return export


# Where secrets must not be, how it is read, and what must be there.
PLACES: dict[str, tuple[Callable[[Service, Path], str], tuple[str, ...]]] = {
    "logs": (lambda service, _: service.logs, ('"answered"',)),
    "tables": (dump_tables, KEYS),
    "audit list and show": (list_and_show, KEYS),
    "audit report": (make_report, ("acme", "vault/secret.txt")),
    "checkpoints and proofs": (make_checkpoint_and_proofs, KEYS),
    "webhook secrets": (manage_webhook_secrets, ("acme/hook", "whpk_", '"v1a"', "valid")),
    "webhooks": (show_webhooks, ("grants.decided", "delivered", "acme/hook", "signature")),
    "spans": (read_spans, ("process valetkey", "webhook", "multipart", "hook", "commit")),
    "metrics": (show_metrics, ('kind="multipart"', 'tenant="acme"', 'tenant="vault')),
    **{f"{name} export": (export_as(name), KEYS) for name in ("csv", "jsonl", "ocsf", "parquet")},
}


@pytest.mark.parametrize("place", PLACES)
def test_no_place_has_a_signature_or_a_secret(
    service: Service, secrets: Secrets, place: str, tmp_path: Path
) -> None:
    read, expected = PLACES[place]
    text = read(service, tmp_path)
    assert [words for words in expected if words not in text] == []
    assert SIGNATURE.search(text) is None
    assert secrets.contained_in(text) == []


def test_a_terminal_that_shows_events_has_no_signature_or_secret(
    secrets: Secrets, listen: ListenProcess
) -> None:
    text = "\n".join([*listen.lines, listen.messages])
    assert {"grants.decided", "batch.completed", "upload.stored"} <= set(text.split())
    assert SIGNATURE.search(text) is None
    assert secrets.contained_in(text) == []


def test_whose_prints_no_secret(service: Service, secrets: Secrets) -> None:
    url, token = secrets.signed[0], secrets.signed[-2]
    for text in (url, f"{url} {url}", token, f"{url}&{token}"):
        for form in FORMS:
            output = run_worker(service, "audit", "whose", "-", *form, text=text)
            assert output
            assert secrets.contained_in(output) == []


def test_redis_has_only_sealed_results_of_a_signing_tenant(
    service: Service, secrets: Secrets
) -> None:
    info, words = service.stack.info, [*secrets.signed, "vault"]
    for url in (info.broker_url, info.result_url):
        with closing(redis.Redis.from_url(url, decode_responses=True)) as server:
            wait_until(
                lambda: not [word for word in words if word in dump_redis(server)],
                what="the messages are acknowledged",
            )


def dump_redis(server: Any) -> str:
    """Return the content of a Redis server as text."""
    readers = {
        "string": server.get,
        "hash": server.hgetall,
        "zset": lambda key: server.zrange(key, 0, -1),
        "list": lambda key: server.lrange(key, 0, -1),
        "set": server.smembers,
        "none": lambda _key: None,  # a message that was acknowledged meanwhile
    }
    return repr({key: readers[server.type(key)](key) for key in server.scan_iter()})
