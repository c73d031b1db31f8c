"""The producer of docs/contract.md, which knows nothing but that page, and the real service."""

import ast
import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pytest
import redis

from tests.acceptance.conftest import ACME_KEY, ROOT, Service
from tests.support.servers.guide_sandbox import unused_database_url
from tests.support.servers.waiting import wait_until
from valetkey.client import new_id
from valetkey.crypto.keys import PrivateKey, dump_private_key, generate_key

PAGE = (ROOT / "docs" / "contract.md").read_text(encoding="utf-8")
(PROGRAM,) = re.findall(r"^```python\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)
NO_WORKERS = 6  # a database of the broker from which no worker consumes

Completed = subprocess.CompletedProcess[str]
Start = Callable[..., "subprocess.Popen[str]"]


@pytest.fixture(params=["unsigned", "signed"])
def start(request: pytest.FixtureRequest, service: Service, tmp_path: Path) -> Start:
    """A function that starts the program with object keys, unsigned and then signed."""
    is_signed = request.param == "signed"
    (tmp_path / "producer.py").write_text(PROGRAM, encoding="utf-8")

    def start_program(*keys: str, key: PrivateKey = ACME_KEY, **environ: str) -> Any:
        (tmp_path / "key").write_text(dump_private_key(key))
        sender = {"KEY_FILE": str(tmp_path / "key")} if is_signed else {"TENANT": "acme"}
        urls = {
            "BROKER_URL": service.stack.info.broker_url,
            "RESULT_URL": service.stack.info.result_url,
        }
        return subprocess.Popen(
            [sys.executable, "-W", "error", str(tmp_path / "producer.py"), *keys],
            env={"PATH": os.environ["PATH"]} | urls | sender | environ,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    return start_program


def finish(process: "subprocess.Popen[str]") -> list[Any]:
    """Wait for the program; return its exit code, the lines of stdout, and stderr."""
    stdout, stderr = process.communicate(timeout=100)
    return [process.returncode, stdout.splitlines(), stderr]


def used_grants(service: Service) -> int:
    with service.client() as client:
        return next(quota.used for quota in client.usage() if quota.metric == "grants")


def test_the_program_imports_a_redis_client_and_a_jose_library_only() -> None:
    tree = ast.walk(ast.parse(PROGRAM))
    names = {alias.name for node in tree if isinstance(node, ast.Import) for alias in node.names}
    tree = ast.walk(ast.parse(PROGRAM))
    names |= {str(node.module) for node in tree if isinstance(node, ast.ImportFrom)}
    packages = {name.partition(".")[0] for name in names}
    assert packages - sys.stdlib_module_names == {"redis", "joserfc"}


def test_a_single_request_gets_a_genuine_link(start: Start) -> None:
    code, (line,), stderr = finish(start("acme/none such"))
    assert (code, stderr) == (0, "")
    key, _, url = line.rpartition(" ")
    assert key == "acme/none such"
    assert httpx.get(url, timeout=60).status_code == 404  # an invalid signature gives 403


def test_a_batch_of_two_chunks_gets_its_items_in_order(start: Start) -> None:
    keys = [f"acme/{number}" for number in range(40)]
    code, lines, stderr = finish(start(*keys, CHUNK_SIZE="30"))  # its first reply is compressed
    assert (code, stderr) == (0, "")
    assert [line.partition(" ")[0] for line in lines] == keys
    assert all("X-Amz-Signature=" in line for line in lines)


def test_a_refused_item_does_not_keep_others_from_being_granted(start: Start) -> None:
    code, (granted, refused), _ = finish(start("acme/a", "globex/b"))
    assert code == 0
    assert granted.startswith("acme/a http")
    assert refused == "globex/b refused: key_outside_prefix"


def test_a_repeated_request_gets_the_same_links_and_is_charged_once(
    start: Start, service: Service
) -> None:
    before, batch_id = used_grants(service), new_id()
    first = finish(start("acme/a", "acme/b", CHUNK_SIZE="1", BATCH_ID=batch_id))
    with redis.Redis.from_url(service.stack.info.result_url) as store:
        assert store.delete(*(f"celery-task-meta-{batch_id}.{n}" for n in range(2))) == 2
    assert finish(start("acme/a", "acme/b", CHUNK_SIZE="1", BATCH_ID=batch_id)) == first
    assert first[0] == 0
    assert used_grants(service) - before == 2


def test_another_request_with_the_same_batch_id_is_refused(start: Start) -> None:
    batch_id = new_id()
    assert finish(start("acme/a", BATCH_ID=batch_id))[0] == 0
    code, lines, stderr = finish(start("acme/a", "acme/b", CHUNK_SIZE="1", BATCH_ID=batch_id))
    # The stored result of the first chunk is found; the second chunk is not of the same batch.
    assert code == 1
    assert lines[0].startswith("acme/a http")
    assert stderr.startswith(f"refused {batch_id}.1 batch_conflict ")


def test_the_stored_result_of_other_objects_is_not_taken_for_the_answer(start: Start) -> None:
    batch_id = new_id()
    assert finish(start("acme/a", BATCH_ID=batch_id))[0] == 0
    code, lines, stderr = finish(start("acme/b", BATCH_ID=batch_id))
    assert (code, lines) == (1, [])
    assert stderr.startswith(f"refused {batch_id}.0 batch_conflict ")


def test_a_message_that_is_lost_is_sent_again(start: Start, service: Service) -> None:
    broker_url, batch_id = unused_database_url(service, NO_WORKERS), new_id()
    process = start("acme/a", BATCH_ID=batch_id, BROKER_URL=broker_url)
    with (
        redis.Redis.from_url(broker_url) as lost,
        redis.Redis.from_url(service.stack.info.broker_url) as broker,
    ):
        wait_until(lambda: lost.llen("valetkey") == 2, what="message sent again")
        frames: Any = lost.lrange("valetkey", 0, -1)
        lost.delete("valetkey")
        before = used_grants(service)
        broker.lpush("valetkey", *frames)
    code, (line,), stderr = finish(process)
    assert (code, stderr) == (0, "")
    assert line.startswith("acme/a http")
    assert used_grants(service) - before == 1


def test_a_request_of_a_stranger_is_refused(start: Start) -> None:
    process = start("vault/a", TENANT="vault", key=generate_key("acme/tests"))
    code, lines, stderr = finish(process)
    assert (code, lines) == (1, [])
    assert re.match(r"refused \S+ signature_(required|invalid) ", stderr)
