"""The commands against the real service: upload --wait, status and reissue."""

import json
from pathlib import Path
from threading import Thread

import pytest
from click.testing import CliRunner, Result

from tests.integration.client.uses.test_stored import asks, new_key, store
from tests.support.fakes.fake_service import FakeService
from tests.support.s3.http_requests import get, put, send
from tests.support.servers.waiting import wait_until
from valetkey import Client, Grant
from valetkey.cli.main import main

BODY = b"hello"


@pytest.fixture(autouse=True)
def environment(
    broker: str,
    key_file: Path,
    worker: FakeService,  # noqa: ARG001 - it answers
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("VALETKEY_BROKER_URL", broker)
    monkeypatch.setenv("VALETKEY_KEY_FILE", str(key_file))


def run_cli(*arguments: str) -> Result:
    return CliRunner().invoke(main, arguments)


def test_a_command_waits_until_its_object_is_stored(worker: FakeService, tmp_path: Path) -> None:
    key, out = new_key(), tmp_path / "grant.jsonl"

    def use_grant() -> None:
        wait_until(lambda: asks(worker) >= 1)
        store(Grant(**json.loads(out.read_text())), BODY)

    thread = Thread(target=use_grant)
    thread.start()
    arguments = ("upload", "demo", key, "--max-size", "9", "--wait")
    result = run_cli(*arguments, "--json", "--out", str(out))
    thread.join()
    assert result.exit_code == 0, result.output
    assert result.stderr.startswith(f"stored '{key}': 5 bytes, etag ")
    stored = json.loads(result.stdout)
    assert (stored["key"], stored["size"], stored["version"]) == (key, 5, None)


def test_a_slot_that_nobody_uses_in_time_is_exit_4() -> None:
    key = new_key()
    result = run_cli("upload", "demo", key, "--max-size", "9", "--wait", "--timeout", "1s")
    assert result.exit_code == 4
    assert "POST" in result.stdout
    assert f"'{key}' is not known to be stored yet" in result.stderr


def test_the_status_and_a_fresh_link_of_a_stored_object(keyed: Client) -> None:
    slot = keyed.put("demo", new_key(), size=5).result()
    assert send(put(slot, BODY)).is_success
    status = run_cli("status", slot.id)
    assert status.exit_code == 0, status.output
    assert status.stdout.splitlines()[0].split() == ["state", "used"]
    link = keyed.download("demo", slot.key).result()
    fresh = run_cli("reissue", link.id)
    assert send(get(fresh.stdout.strip())).body == BODY
    assert "signature" not in status.output.lower()
