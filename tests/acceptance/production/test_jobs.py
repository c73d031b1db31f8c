"""Whole jobs with the files of examples/production: users.acl, redis.conf, and TLS."""

import asyncio
import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.acceptance.conftest import ROOT
from tests.acceptance.production.conftest import Production
from valetkey import AsyncClient, Client, Grant
from valetkey.wire.messages import BULK_QUEUE, INTERACTIVE_QUEUE

KEYS = {INTERACTIVE_QUEUE: ["acme/a", "acme/b"], BULK_QUEUE: [f"acme/{n}" for n in range(50)]}
PLAIN_PROGRAM = next(
    program
    for program in re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)
    if "send_task" in program
)


@pytest.fixture(params=["signed", "unsigned"])
def identity(request: pytest.FixtureRequest, production: Production) -> dict[str, Any]:
    """Arguments of a client, with a key or with a tenant that trusts the queue."""
    return {"key": production.key_file} if request.param == "signed" else {"tenant": "acme"}


def identity_variables(identity: dict[str, Any]) -> dict[str, str]:
    names = {"key": "VALETKEY_KEY_FILE", "tenant": "VALETKEY_TENANT"}
    return {names[name]: str(value) for name, value in identity.items()}


def run(command: list[str], **environ: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command,
        cwd=ROOT,
        env=dict(os.environ) | environ,
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.mark.parametrize("queue", KEYS)
def test_a_client_gets_its_grants(
    production: Production, identity: dict[str, Any], queue: str
) -> None:
    with Client(*production.urls(), **identity) as client:
        batch = client.download_many("demo", KEYS[queue], chunk_size=20)
        granted = [item.key for item in batch if isinstance(item, Grant)]
        usage = client.usage()
    assert granted == KEYS[queue]
    assert usage


@pytest.mark.parametrize("queue", KEYS)
def test_an_async_client_gets_its_grants(
    production: Production, identity: dict[str, Any], queue: str
) -> None:
    async def download() -> list[str]:
        async with AsyncClient(*production.urls(), **identity) as client:
            batch = client.download_many("demo", KEYS[queue], chunk_size=20)
            return [item.key async for item in batch if isinstance(item, Grant)]

    assert asyncio.run(download()) == KEYS[queue]


@pytest.mark.parametrize("queue", KEYS)
def test_the_command_line_gets_its_grants(
    production: Production, identity: dict[str, Any], queue: str, tmp_path: Path
) -> None:
    (tmp_path / "keys.csv").write_text("key\n" + "\n".join(KEYS[queue]) + "\n")
    valetkey = str(Path(sys.executable).with_name("valetkey"))
    broker, results = production.urls()
    completed = run(
        [valetkey, "download", "demo", "--from", str(tmp_path / "keys.csv"), "--json"],
        VALETKEY_BROKER_URL=broker,
        VALETKEY_RESULT_URL=results,
        **identity_variables(identity),
    )
    assert completed.returncode == 0, completed.stderr
    assert [json.loads(line)["key"] for line in completed.stdout.splitlines()] == KEYS[queue]


def test_plain_celery_gets_its_grants(production: Production) -> None:
    broker, results = production.urls(
        ssl_cert_reqs="required", ssl_ca_certs=str(production.authority.file)
    )
    completed = run([sys.executable, "-c", PLAIN_PROGRAM], BROKER_URL=broker, RESULT_URL=results)
    assert (completed.returncode, completed.stderr) == (0, "")
    assert completed.stdout.startswith("issued ['acme/a.bin'")


def test_plain_celery_with_a_key_gets_its_grants(production: Production) -> None:
    broker, results = production.urls(
        ssl_cert_reqs="required", ssl_ca_certs=str(production.authority.file)
    )
    completed = run(
        [sys.executable, "examples/producers/signed.py", *KEYS[INTERACTIVE_QUEUE]],
        VALETKEY_BROKER_URL=broker,
        VALETKEY_RESULT_URL=results,
        VALETKEY_KEY_FILE=str(production.key_file),
    )
    assert completed.returncode == 0, completed.stderr
    assert [line.split()[0] for line in completed.stdout.splitlines()] == KEYS[INTERACTIVE_QUEUE]


def test_workers_and_producers_are_refused_nothing(production: Production) -> None:
    with Client(*production.urls(), tenant="acme") as client:
        client.download("demo", "acme/a").result()
    with production.redis.client("admin") as server:
        refusals = [
            (entry["username"], entry["object"])
            for entry in server.acl_log()
            if entry["username"] != "operator"
        ]
    assert refusals == []
    assert "NOPERM" not in production.logs
