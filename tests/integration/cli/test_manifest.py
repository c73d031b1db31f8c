"""`--manifest`: the service writes what is granted, and the command prints one link."""

import json
import time
from pathlib import Path
from typing import Any

import pytest
import redis
from click.testing import CliRunner, Result

from tests.integration.client.test_client_manifest import (
    KEY,
    KEYS,
    PENDING,
    WRITTEN,
    service_with_manifests,
)
from tests.support.fakes.fake_service import (
    Action,
    grant_outcome,
    refuse_outcome,
    running_fake_service,
)
from tests.support.fakes.http_storage import running_http_storage
from valetkey.cli.main import main
from valetkey.wire.messages import DEFAULT_CHUNK_ITEMS

DOWNLOAD = ["download", "reports", "--from", "keys.txt", "--manifest", KEY]
FAILED = {"key": KEY, "state": "failed", "problem": "storage did not take it: AccessDenied"}


@pytest.fixture
def broker(valkey_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    with redis.Redis.from_url(valkey_url) as server:
        server.flushall()
    monkeypatch.setattr("valetkey.manifests._FIRST_INTERVAL", 0.01)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("VALETKEY_BROKER_URL", valkey_url)
    monkeypatch.setenv("VALETKEY_TENANT", "acme")
    Path("keys.txt").write_text("\n".join(KEYS))
    return valkey_url


def run_download(*options: str) -> Result:
    arguments = [*DOWNLOAD, "--force", *options]
    return CliRunner().invoke(main, arguments)


def test_one_link_is_printed_and_the_manifest_is_described(broker: str) -> None:
    with running_fake_service(broker, decide=service_with_manifests(PENDING, WRITTEN)) as service:
        result = run_download()
    assert result.stdout == "http://127.0.0.1/reports/0\n"
    summary = f"{KEY!r}: 24 granted (charged), 1 refused (not charged), in "
    assert result.stderr.startswith(summary)
    assert result.stderr.endswith(" s; 7 bytes, sha256 ab\n")
    assert result.exit_code == 1
    assert service.received[0][1]["manifest"] == KEY


def test_json_is_one_object_with_the_link_and_the_description(broker: str) -> None:
    with running_fake_service(
        broker, decide=service_with_manifests(WRITTEN | {"issued": 25, "refused": 0})
    ) as service:
        result = run_download("--json")
    assert result.exit_code == 0
    assert f"{KEY!r}: 25 granted (charged), none refused, in " in result.stderr
    assert json.loads(result.stdout) == {
        "batch": service.received[0][1]["batch"],
        "key": KEY,
        "bytes": 7,
        "sha256": "ab",
        "issued": 25,
        "refused": 0,
        "url": "http://127.0.0.1/reports/0",
        "expires_at": "2099-01-01T00:00:00Z",
    }


def test_a_manifest_that_cannot_be_written_is_explained(broker: str) -> None:
    with running_fake_service(broker, decide=service_with_manifests(FAILED)):
        result = run_download()
    assert (result.exit_code, result.stdout) == (4, "")
    assert "was not written: storage did not take it: AccessDenied" in result.stderr


def test_a_timeout_for_the_manifest_explains_how_to_keep_waiting(
    broker: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("valetkey.cli.commands.manifest_output.DEFAULT_TIMEOUT", 0.2)
    with running_fake_service(broker, decide=service_with_manifests(PENDING)) as service:
        result = run_download("--timeout", "3s")
    batch = service.received[0][1]["batch"]
    assert (result.exit_code, result.stdout) == (3, "")
    assert f"to keep waiting: Client().batch('{batch}').manifest()\n" in result.stderr


def test_a_timeout_for_a_chunk_explains_how_to_get_the_results_so_far(broker: str) -> None:
    def lose_later_chunks(message: dict[str, Any], _: int) -> Action:
        return "lose" if message.get("chunk") else "answer"

    Path("keys.txt").write_text("\n".join(f"k/{n}" for n in range(DEFAULT_CHUNK_ITEMS + 1)))
    with running_fake_service(broker, lose_later_chunks) as service:
        result = run_download("--timeout", "3s")
    batch = service.received[0][1]["batch"]
    assert (result.exit_code, result.stdout) == (3, "")
    assert f"to have only the results so far written: valetkey cancel {batch}\n" in result.stderr


def test_a_refused_batch_is_explained(broker: str) -> None:
    with running_fake_service(broker, decide=refuse_outcome):
        result = run_download()
    assert (result.exit_code, result.stdout) == (1, "")
    assert "quota_exceeded" in result.stderr


@pytest.mark.usefixtures("broker")
@pytest.mark.parametrize(
    ("options", "error"),
    [
        (["--out", "links.csv"], "prints only a link"),
        (["--csv"], "prints only a link"),
        (["--batch-size", "10"], "a manifest covers exactly one batch"),
    ],
)
def test_options_that_exclude_a_manifest_are_refused(options: list[str], error: str) -> None:
    result = run_download(*options)
    assert (result.exit_code, result.stdout) == (2, "")
    assert error in result.stderr.replace("\n", " ")


@pytest.mark.usefixtures("broker")
def test_a_manifest_needs_a_file() -> None:
    result = CliRunner().invoke(main, ["download", "reports", "a", "--manifest", KEY])
    assert (result.exit_code, "--manifest needs --from" in result.stderr) == (2, True)


@pytest.mark.timeout(60)
def test_the_wait_for_a_manifest_ends_with_the_timeout(broker: str) -> None:
    with running_fake_service(broker, decide=service_with_manifests(*[PENDING] * 1_000)):
        begin = time.monotonic()
        result = run_download("--timeout", "2s")
        assert time.monotonic() - begin < 10
    assert result.exit_code == 3
    assert "the manifest was not written within 2 s" in result.stderr
    assert "to keep waiting" in result.stderr


def test_an_object_is_not_replaced_by_a_manifest(broker: str) -> None:
    with running_http_storage() as storage:

        def decide(message: dict[str, Any]) -> dict[str, Any]:
            outcome = grant_outcome(message)
            outcome["items"][0]["url"] = storage.url
            return outcome

        with running_fake_service(broker, decide=decide) as service:
            result = CliRunner().invoke(main, DOWNLOAD)
        (request,) = storage.received
    assert (result.exit_code, result.stdout, request.method) == (2, "", "HEAD")
    assert f"the object {KEY!r} exists" in result.stderr.replace("\n", " ")
    ((_, message),) = service.received
    assert message["items"] == [{"key": KEY}]


def test_a_manifest_is_requested_if_its_object_does_not_exist(broker: str) -> None:
    decide = service_with_manifests(WRITTEN)
    with running_fake_service(broker, decide=decide) as service:
        assert CliRunner().invoke(main, DOWNLOAD).exit_code == 1
    assert service.received[1][1]["manifest"] == KEY
