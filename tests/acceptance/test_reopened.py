"""An event loop asks, and another process reads on by nothing but the batch's id."""

import asyncio
import os
import subprocess
import sys
from pathlib import Path

from tests.acceptance.conftest import KEY, Service
from valetkey import AsyncClient, Grant, QuotaState
from valetkey.crypto.keys import dump_private_key

READER = """
import sys, valetkey
with valetkey.Client() as client:
    batch = client.batch(sys.argv[1])
    print(batch.total, batch.issued, batch.refused, batch.remaining)
    for answer in batch:
        print(answer.key, answer.url)
    quota = client.usage()[0]
    print(quota.used, quota.resets_at)
"""


async def asked(service: Service) -> tuple[str, list[Grant], QuotaState]:
    """Ask for a batch and for single grants at once; return what the batch's became."""
    running = service.up.running
    async with AsyncClient(
        running.broker_url, running.result_url, key=dump_private_key(KEY)
    ) as client:
        batch = client.download_many("demo", [f"acme/{n}" for n in range(60)], chunk_size=25)
        singles = await asyncio.gather(*(client.download("demo", f"acme/{n}") for n in range(20)))
        assert [grant.key for grant in singles] == [f"acme/{n}" for n in range(20)]
        grants = [answer async for answer in batch if isinstance(answer, Grant)]
        (quota, *_) = await client.usage()
    return batch.id, grants, quota


def test_a_batch_asked_for_in_a_loop_is_read_by_another_process(
    service: Service, tmp_path: Path
) -> None:
    batch, grants, quota = asyncio.run(asked(service))
    assert len(grants) == 60
    (tmp_path / "acme.key").touch(0o600)
    (tmp_path / "acme.key").write_text(dump_private_key(KEY))
    running = service.up.running
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", READER, batch],
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
    assert done.returncode == 0, done.stderr
    counts, *lines, after = done.stdout.splitlines()
    assert counts == "60 60 0 0"
    assert lines == [f"{grant.key} {grant.url}" for grant in grants]
    used, _, resets_at = after.partition(" ")
    assert int(used) == quota.used or resets_at != str(quota.resets_at)  # another hour
