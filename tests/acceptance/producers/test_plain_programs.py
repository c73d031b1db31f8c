"""Producers without this project's code: those of docs/contract.md and of examples/producers.

The last program of the page knows nothing but the page.
"""

import ast
import json
import re
import sqlite3
import subprocess
import sys
import zlib
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import httpx
import pytest
import redis
from joserfc import jwe

from tests.acceptance.conftest import ACME_KEY, ROOT, Service
from tests.acceptance.producers.conftest import PRODUCERS
from tests.support.crypto.tokens import public_key
from tests.support.docs.python_imports import imported_packages
from tests.support.servers.programs import run_program
from tests.support.servers.waiting import wait_until
from valetkey.crypto.jose import JWE_REGISTRY
from valetkey.crypto.keys import PrivateKey, generate_key
from valetkey.session import new_id
from worker.issue import dispatch

PAGE = (ROOT / "docs" / "contract.md").read_text(encoding="utf-8")
CELERY_PROGRAM, PROGRAM = re.findall(r"^```python\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)
NO_WORKERS = 6  # a database of the broker from which no worker consumes
MAX_MEMORY = 512 * 1024  # KiB of data in a program's process

Start = Callable[..., "subprocess.Popen[str]"]


@pytest.fixture(params=["contract, unsigned", "contract, signed", "signed.py", "signed.mjs"])
def start(request: pytest.FixtureRequest, service: Service, tmp_path: Path) -> Start:
    """A function that starts each program with object keys."""
    (tmp_path / "contract").write_text(PROGRAM, encoding="utf-8")
    name, _, form = request.param.partition(", ")
    path = PRODUCERS / name if not form else tmp_path / name
    python = [sys.executable, "-W", "error"]
    command = [request.getfixturevalue("node")] if name == "signed.mjs" else python
    command = ["sh", "-c", f'ulimit -d {MAX_MEMORY} && exec "$@"', "sh", *command]

    def start_program(*keys: str, key: PrivateKey = ACME_KEY, **environ: str) -> Any:
        variables = service.producer_environ(tmp_path, key)
        if form == "unsigned":
            variables = variables | {"VALETKEY_TENANT": "acme"}
            del variables["VALETKEY_KEY_FILE"]
        return subprocess.Popen(
            [*command, str(path), *keys],
            env=variables | environ,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    return start_program


NO_REPLY = "the stored result is no reply to this request"  # signed.py ends with it
WITH_CHUNKS = pytest.mark.parametrize(
    "start", ["contract, unsigned", "contract, signed", "signed.mjs"], indirect=True
)


def finish(process: "subprocess.Popen[str]") -> list[Any]:
    """Wait for the program; return its exit code, the lines of stdout, and stderr but progress."""
    stdout, stderr = process.communicate(timeout=100)
    return [process.returncode, stdout.splitlines(), re.sub(r"(?m)^batch .*\n", "", stderr)]


def used_grants(service: Service) -> int:
    # Of all hours: one may end during the test.
    path = service.stack.info.database_url.removeprefix("sqlite:///")
    with closing(sqlite3.connect(path)) as connection:
        (used,) = connection.execute("SELECT sum(grants) FROM usage WHERE \"window\" = 'hour'")
    return int(used[0] or 0)


def foreign_packages(program: str) -> set[str]:
    """Return the packages that a program imports, without those of the standard library."""
    return {*imported_packages(ast.parse(program))} - sys.stdlib_module_names


def test_the_program_imports_a_redis_client_and_a_jose_library_only() -> None:
    assert foreign_packages(PROGRAM) == {"redis", "joserfc"}


def test_the_plain_producer_imports_no_valetkey_package() -> None:
    assert foreign_packages(CELERY_PROGRAM) == {"celery"}


def test_the_program_for_plain_celery_gets_its_grants(service: Service, tmp_path: Path) -> None:
    command = [sys.executable, "-c", CELERY_PROGRAM]
    completed = run_program(command, cwd=tmp_path, env=service.producer_environ(tmp_path))
    assert (completed.returncode, completed.stderr) == (0, "")
    assert completed.stdout == "issued ['acme/a.bin', 'acme/b.bin']\n"


def test_one_item_gets_a_genuine_link_and_another_its_refusal(start: Start) -> None:
    code, (granted, refused), stderr = finish(start("acme/none %s such", "globex/b"))
    assert (code, stderr) == (0, "")
    key, _, url = granted.rpartition(" ")
    assert key == "acme/none %s such"
    assert httpx.get(url, timeout=60).status_code == 404  # an invalid signature gives 403
    assert refused == "globex/b refused: key_outside_prefix"


def test_a_long_and_therefore_compressed_result_is_read_in_its_order(start: Start) -> None:
    keys = [f"acme/{number}" for number in range(30)]
    code, lines, stderr = finish(start(*keys))
    assert (code, stderr) == (0, "")
    assert len("".join(lines)) > dispatch._MIN_COMPRESSED_BYTES
    links = [line.split(" ") for line in lines]
    assert [key for key, url in links if f"/{key}?" in url and "X-Amz-Signature=" in url] == keys


@pytest.mark.parametrize("start", ["signed.py"], indirect=True)
def test_the_program_for_one_message_refuses_more_than_600_keys(start: Start) -> None:
    code, lines, stderr = finish(start(*map(str, range(601))))
    assert (code, lines) == (1, [])
    assert "one message of up to 600 keys" in stderr


def test_the_examples_import_nothing_of_this_project() -> None:
    imported = re.compile(r"\b(?:import|from)\b\W+(?:valetkey|worker|models)\b")
    programs = sorted(PRODUCERS.glob("signed.*"))
    assert [path.suffix for path in programs] == [".mjs", ".py"]
    assert not [path for path in programs if imported.search(path.read_text(encoding="utf-8"))]


@WITH_CHUNKS
def test_a_batch_of_two_chunks_gets_its_items_in_order(start: Start) -> None:
    keys = [f"acme/{number}" for number in range(40)]
    code, lines, stderr = finish(start(*keys, CHUNK_SIZE="30"))  # its first reply is compressed
    assert (code, stderr) == (0, "")
    assert [line.partition(" ")[0] for line in lines] == keys
    assert all("X-Amz-Signature=" in line for line in lines)


@WITH_CHUNKS
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


@WITH_CHUNKS
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
    assert stderr.startswith((f"refused {batch_id}.0 batch_conflict ", NO_REPLY))


@pytest.mark.parametrize("start", ["contract, signed", "signed.py", "signed.mjs"], indirect=True)
def test_a_result_that_would_fill_the_memory_is_removed_unread(
    start: Start, service: Service
) -> None:
    batch_id = new_id()
    gzip = zlib.compressobj(1, wbits=31)
    parts = [gzip.compress(bytes(2**20)) for _ in range(2 * MAX_MEMORY // 2**10)]
    bomb = b"".join([*parts, gzip.flush()])  # anyone can seal it
    header = {"alg": "ECDH-ES", "enc": "A256GCM", "kid": ACME_KEY.id, "cty": "gzip"}
    recipient = public_key(ACME_KEY).encryption_key
    result = {
        "status": "SUCCESS",
        "task_id": f"{batch_id}.0",
        "result": jwe.encrypt_compact(header, bomb, recipient, registry=JWE_REGISTRY),
    }
    with redis.Redis.from_url(service.stack.info.result_url) as store:
        store.set(f"celery-task-meta-{batch_id}.0", json.dumps(result), ex=900)
    first, second = (finish(start("acme/a", BATCH_ID=batch_id)) for _ in range(2))
    assert first[0] == 0 or (first[0] == 1 and first[2].startswith(NO_REPLY))
    code, (line,), stderr = second
    assert (code, stderr) == (0, "")
    assert line.startswith("acme/a http")


@pytest.mark.parametrize("start", ["contract, signed", "signed.py", "signed.mjs"], indirect=True)
def test_a_stored_result_that_says_nothing_is_no_reply(start: Start, service: Service) -> None:
    batch_id = new_id()
    result = {"status": "SUCCESS", "task_id": f"{batch_id}.0", "result": {}}
    with redis.Redis.from_url(service.stack.info.result_url) as store:
        store.set(f"celery-task-meta-{batch_id}.0", json.dumps(result), ex=900)
    first, second = (finish(start("acme/a", BATCH_ID=batch_id)) for _ in range(2))
    assert first[0] == 0 or (first[0] == 1 and first[2].startswith(NO_REPLY))
    assert first[0] == 1 or first[1][0].startswith("acme/a http")
    assert second[0] == 0


def test_a_message_that_is_lost_is_sent_again(start: Start, service: Service) -> None:
    broker_url, batch_id = service.unused_database_url(NO_WORKERS), new_id()
    process = start("acme/a", BATCH_ID=batch_id, VALETKEY_BROKER_URL=broker_url)
    before = used_grants(service)
    with (
        redis.Redis.from_url(broker_url) as lost,
        redis.Redis.from_url(service.stack.info.broker_url) as broker,
    ):
        wait_until(lambda: lost.llen("valetkey") == 2, what="message sent again")
        frames: Any = lost.lrange("valetkey", 0, -1)
        lost.delete("valetkey")
        broker.lpush("valetkey", *frames)
    assert [json.loads(frame)["headers"]["id"] for frame in frames] == [f"{batch_id}.0"] * 2
    copy, first = (json.loads(frame)["properties"]["delivery_info"] for frame in frames)
    assert (copy["redelivered"], first["redelivered"]) == (True, False)
    code, (line,), stderr = finish(process)
    assert (code, stderr) == (0, "")
    assert line.startswith("acme/a http")
    assert used_grants(service) - before == 1


@WITH_CHUNKS
def test_what_nobody_waits_for_any_more_is_removed_from_the_queue(
    start: Start, service: Service
) -> None:
    broker_url = service.unused_database_url(NO_WORKERS)
    process = start(*"abcd", CHUNK_SIZE="1", VALETKEY_BROKER_URL=broker_url, TIMEOUT="1")
    with redis.Redis.from_url(broker_url) as broker:
        wait_until(lambda: broker.llen("valetkey") == 3, what="messages")
        code, lines, stderr = finish(process)
        assert (code, lines, broker.llen("valetkey")) == (1, [], 0)
    assert "no reply" in stderr


def test_a_request_of_a_stranger_is_refused(start: Start) -> None:
    process = start("vault/a", VALETKEY_TENANT="vault", key=generate_key("acme/tests"))
    code, lines, stderr = finish(process)
    assert (code, lines) == (1, [])
    assert re.match(r"refused.* signature_(required|invalid)\W", stderr)
