"""Signed requests and sealed results, through the real queue and the real workers."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import redis

from tests.acceptance.conftest import ACME_KEY, Service
from valetkey import Code, Grant
from valetkey.crypto.keys import dump_private_key

SECRETS = [key["d"] for key in json.loads(dump_private_key(ACME_KEY))["keys"]]


def redis_texts(service: Service) -> dict[str, str]:
    """Return all strings in the broker and in the result store, by key."""
    texts = {}
    for url in {service.stack.info.broker_url, service.stack.info.result_url}:
        with redis.Redis.from_url(url) as server:
            for name in server.scan_iter(_type="string"):
                texts[name.decode()] = (server.get(name) or b"").decode()
    return texts


def test_only_the_key_that_signed_a_request_can_read_its_grants(service: Service) -> None:
    with service.signing_client() as client:
        batch = client.download_many("demo", [f"acme/{n}" for n in range(20)], chunk_size=10)
        grants = [item for item in batch if isinstance(item, Grant)]
    results = [text for name, text in redis_texts(service).items() if batch.id in name]
    assert (len(grants), len(results)) == (20, 2)
    for text in results:
        assert not [word for word in ("http", "X-Amz", grants[0].key, *SECRETS) if word in text]
        assert json.loads(text)["result"].startswith("eyJ")  # a token's header, in base64
    assert not [word for word in (grants[0].url, *SECRETS) if word in service.logs]


def test_a_batch_is_cancelled_and_usage_is_reported(service: Service) -> None:
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


@pytest.mark.parametrize(("lifetime", "status"), [("1h", 0), ("7d", 1)])
def test_a_dry_run_of_the_command_is_explained_by_the_service(
    service: Service, tmp_path: Path, lifetime: str, status: int
) -> None:
    info = service.stack.info
    (tmp_path / "acme.key").touch(0o600)
    (tmp_path / "acme.key").write_text(dump_private_key(ACME_KEY))
    command = [str(Path(sys.executable).with_name("valetkey")), "download", "demo", "acme/a"]
    completed = subprocess.run(
        [*command, "--expires-in", lifetime, "--dry-run", "--json"],
        env=dict(os.environ)
        | {
            "VALETKEY_BROKER_URL": info.broker_url,
            "VALETKEY_RESULT_URL": info.result_url,
            "VALETKEY_KEY_FILE": str(tmp_path / "acme.key"),
        },
        capture_output=True,
        text=True,
        check=False,
    )
    assert completed.returncode == status, completed.stderr
    explanation = json.loads(completed.stdout)
    codes = [rule["refusal"]["code"] for rule in explanation["rules"] if rule["refusal"]]
    assert codes == (["expiry_too_long"] if status else [])
