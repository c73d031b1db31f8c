"""Whole jobs with the files of examples/production: users.acl, redis.conf, and TLS."""

import asyncio
import json
import os
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.acceptance.conftest import ROOT, read_logs
from tests.acceptance.production.conftest import Production
from tests.support.cli.listening import listening
from tests.support.servers.programs import run_program
from valetkey import AsyncClient, Client, Grant
from valetkey.wire import BULK_QUEUE, INTERACTIVE_QUEUE

KEYS = {INTERACTIVE_QUEUE: ["acme/a", "acme/b"], BULK_QUEUE: [f"acme/{n}" for n in range(50)]}
PAGE = (ROOT / "docs" / "contract.md").read_text(encoding="utf-8")
PLAIN_PROGRAM = next(
    program
    for program in re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)
    if "send_task" in program
)

Identity = dict[str, Any]
GetKeys = Callable[[Production, Identity, str], list[str]]


def run(command: list[str], **environ: str) -> str:
    """Run a program that must succeed; return its output."""
    completed = run_program(command, cwd=ROOT, env=dict(os.environ) | environ)
    assert completed.returncode == 0, completed.stderr
    return completed.stdout


def get_with_client(production: Production, identity: Identity, queue: str) -> list[str]:
    with Client(*production.urls(), **identity) as client:
        batch = client.download_many("demo", KEYS[queue], chunk_size=20)
        assert client.usage()
        return [item.key for item in batch if isinstance(item, Grant)]


def get_with_async_client(production: Production, identity: Identity, queue: str) -> list[str]:
    async def download() -> list[str]:
        async with AsyncClient(*production.urls(), **identity) as client:
            batch = client.download_many("demo", KEYS[queue], chunk_size=20)
            return [item.key async for item in batch if isinstance(item, Grant)]

    return asyncio.run(download())


def get_with_command(production: Production, identity: Identity, queue: str) -> list[str]:
    valetkey = str(Path(sys.executable).with_name("valetkey"))
    keys = production.data / "keys.csv"
    keys.write_text("key\n" + "\n".join(KEYS[queue]) + "\n")
    broker, results = production.urls()
    names = {"key": "VALETKEY_KEY_FILE", "tenant": "VALETKEY_TENANT"}
    output = run(
        [valetkey, "download", "demo", "--from", str(keys), "--json"],
        VALETKEY_BROKER_URL=broker,
        VALETKEY_RESULT_URL=results,
        **{names[name]: str(value) for name, value in identity.items()},
    )
    return [json.loads(line)["key"] for line in output.splitlines()]


def test_the_user_of_a_producer_may_listen_to_webhooks(
    production: Production, tmp_path: Path
) -> None:
    broker, results = production.urls()
    environ = {
        "PATH": os.environ["PATH"],
        "VALETKEY_BROKER_URL": broker,
        "VALETKEY_RESULT_URL": results,
        "VALETKEY_KEY_FILE": str(production.key_file),
    }
    with production.redis.client("admin") as admin:
        admin.acl_log_reset()
        with listening(tmp_path, environ) as listen:
            assert listen.interrupt() == 130
        assert [entry["username"] for entry in admin.acl_log()] == []


@pytest.mark.parametrize(
    ("get_keys", "is_signed", "queue"),
    [
        pytest.param(get_with_client, True, BULK_QUEUE, id="client, signed, bulk"),
        pytest.param(get_with_client, False, INTERACTIVE_QUEUE, id="client, unsigned, interactive"),
        pytest.param(get_with_async_client, True, INTERACTIVE_QUEUE, id="async, signed"),
        pytest.param(get_with_async_client, False, BULK_QUEUE, id="async, unsigned, bulk"),
        pytest.param(get_with_command, True, BULK_QUEUE, id="command, signed, bulk"),
    ],
)
def test_a_producer_gets_its_grants(
    production: Production, get_keys: GetKeys, *, is_signed: bool, queue: str
) -> None:
    identity = {"key": production.key_file} if is_signed else {"tenant": "acme"}
    assert get_keys(production, identity, queue) == KEYS[queue]


def test_plain_celery_gets_its_grants(production: Production) -> None:
    authority = str(production.authority.file)
    broker, results = production.urls(ssl_cert_reqs="required", ssl_ca_certs=authority)
    urls = {"VALETKEY_BROKER_URL": broker, "VALETKEY_RESULT_URL": results}
    output = run([sys.executable, "-c", PLAIN_PROGRAM], **urls)
    assert output.startswith("issued ['acme/a.bin'")


def test_workers_and_producers_are_refused_nothing(production: Production) -> None:
    with Client(*production.urls(), tenant="acme") as client:
        client.download("demo", "acme/a").result()
    with production.redis.client("admin") as server:
        assert {entry["username"] for entry in server.acl_log()} <= {"operator"}
    assert "NOPERM" not in read_logs(production.data)
