"""Signed requests and sealed answers, through the real queue and the real workers."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import redis

from tests.acceptance.conftest import KEY, Service
from valetkey import Code, Grant
from valetkey.crypto.keys import dump_private_key

SECRETS = [key["d"] for key in json.loads(dump_private_key(KEY))["keys"]]


def in_redis(service: Service) -> dict[str, str]:
    """Everything that is text in the broker and in the result store."""
    found = {}
    for url in {service.up.running.broker_url, service.up.running.result_url}:
        with redis.Redis.from_url(url) as server:
            for name in server.scan_iter(_type="string"):
                found[name.decode()] = (server.get(name) or b"").decode()
    return found


def test_what_is_granted_to_a_key_is_in_nobody_elses_reach(service: Service) -> None:
    with service.signing_client() as client:
        batch = client.download_many("demo", [f"acme/{n}" for n in range(20)], chunk_size=10)
        grants = [answer for answer in batch if isinstance(answer, Grant)]
    kept = [text for name, text in in_redis(service).items() if batch.id in name]
    assert (len(grants), len(kept)) == (20, 2)
    for text in kept:
        assert not [word for word in ("http", "X-Amz", grants[0].key, *SECRETS) if word in text]
        assert json.loads(text)["result"].startswith("eyJ")  # a token's header, in base64
    assert not [word for word in (grants[0].url, *SECRETS) if word in service.written]


def test_a_batch_is_cancelled_and_what_is_used_is_told(service: Service) -> None:
    with service.signing_client() as client:
        batch = client.download_many("demo", [f"acme/{n}" for n in range(90)], chunk_size=1)
        assert isinstance(next(iter(batch)), Grant)
        cancelled = client.cancel(batch, "tests")
        usage = client.usage()
        list(batch)
    assert cancelled.issued + cancelled.released == 90
    assert batch.issued == cancelled.issued < 90
    assert batch.refusal is not None
    assert batch.refusal.code is Code.BATCH_CLOSED
    assert [(quota.metric, quota.window) for quota in usage if quota.used]


@pytest.mark.parametrize(("life", "status"), [("1h", 0), ("7d", 1)])
def test_a_dry_run_of_the_command_is_explained_by_the_service(
    service: Service, tmp_path: Path, life: str, status: int
) -> None:
    running = service.up.running
    (tmp_path / "acme.key").touch(0o600)
    (tmp_path / "acme.key").write_text(dump_private_key(KEY))
    command = [str(Path(sys.executable).with_name("valetkey")), "download", "demo", "acme/a"]
    done = subprocess.run(
        [*command, "--expires-in", life, "--dry-run", "--json"],
        env=dict(os.environ)
        | {
            "VALETKEY_BROKER_URL": running.broker_url,
            "VALETKEY_RESULT_URL": running.result_url,
            "VALETKEY_KEY_FILE": str(tmp_path / "acme.key"),
        },
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == status, done.stderr
    explanation = json.loads(done.stdout)
    codes = [rule["refusal"]["code"] for rule in explanation["rules"] if rule["refusal"]]
    assert codes == (["expiry_too_long"] if status else [])
