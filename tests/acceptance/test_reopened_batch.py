"""A batch requested in an event loop, whose results another process reads by the batch's id."""

import asyncio
import os
import subprocess
import sys
from pathlib import Path

from tests.acceptance.conftest import ACME_KEY, Service
from valetkey import AsyncClient, Grant, QuotaState
from valetkey.crypto.keys import dump_private_key

READER = """
import sys, valetkey
with valetkey.Client() as client:
    batch = client.batch(sys.argv[1])
    print(batch.total, batch.issued, batch.refused, batch.remaining)
    for item in batch:
        print(item.key, item.url)
    quota = client.usage()[0]
    print(quota.used, quota.resets_at)
"""


async def request_grants(service: Service) -> tuple[str, list[Grant], QuotaState]:
    """Request a batch and single grants concurrently; return the batch's id and grants."""
    info = service.stack.info
    async with AsyncClient(
        info.broker_url, info.result_url, key=dump_private_key(ACME_KEY)
    ) as client:
        batch = client.download_many("demo", [f"acme/{n}" for n in range(60)], chunk_size=25)
        singles = await asyncio.gather(*(client.download("demo", f"acme/{n}") for n in range(20)))
        assert [grant.key for grant in singles] == [f"acme/{n}" for n in range(20)]
        grants = [result async for result in batch if isinstance(result, Grant)]
        (quota, *_) = await client.usage()
    return batch.id, grants, quota


def test_a_batch_requested_in_an_event_loop_is_read_by_another_process(
    service: Service, tmp_path: Path
) -> None:
    batch, grants, quota = asyncio.run(request_grants(service))
    assert len(grants) == 60
    (tmp_path / "acme.key").touch(0o600)
    (tmp_path / "acme.key").write_text(dump_private_key(ACME_KEY))
    info = service.stack.info
    completed = subprocess.run(
        [sys.executable, "-W", "error", "-c", READER, batch],
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
    assert completed.returncode == 0, completed.stderr
    counts, *lines, usage_line = completed.stdout.splitlines()
    assert counts == "60 60 0 0"
    assert lines == [f"{grant.key} {grant.url}" for grant in grants]
    used, _, resets_at = usage_line.partition(" ")
    assert int(used) == quota.used or resets_at != str(quota.resets_at)  # or the hour has changed
