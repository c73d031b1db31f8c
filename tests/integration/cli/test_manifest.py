"""`--manifest`: the service writes what is granted, and the command prints one link."""

import json
import time
from pathlib import Path
from typing import Any

import pytest

from tests.integration.client.test_client_manifest import (
    KEY,
    KEYS,
    PENDING,
    WRITTEN,
    service_with_manifests,
)
from tests.support.cli.interrupted_download import lose_chunk
from tests.support.cli.producer_commands import Cli
from tests.support.fakes.fake_service import grant_outcome, refuse_outcome
from tests.support.fakes.http_storage import running_http_storage
from valetkey.cli.terminal_text import program_command
from valetkey.wire.messages import DEFAULT_CHUNK_ITEMS

DOWNLOAD = ("download", "reports", "--from", "keys.txt", "--manifest", KEY)
ANEW = (*DOWNLOAD, "--force")
FAILED = {"key": KEY, "state": "failed", "problem": "storage did not take it: AccessDenied"}


@pytest.fixture(autouse=True)
def keys(broker: str, monkeypatch: pytest.MonkeyPatch) -> None:  # noqa: ARG001 - its folder
    monkeypatch.setattr("valetkey.waits._FIRST_INTERVAL", 0.01)
    Path("keys.txt").write_text("\n".join(KEYS))


def test_one_link_is_printed_and_the_manifest_is_described(cli: Cli) -> None:
    result = cli(*ANEW, decide=service_with_manifests(PENDING, WRITTEN))
    assert (result.exit_code, result.stdout) == (1, "http://127.0.0.1/reports/0\n")
    summary = f"{KEY!r}: 24 granted (charged), 1 refused (not charged), in "
    assert result.stderr.startswith(summary)
    assert result.stderr.endswith(" s; 7 bytes, sha256 ab\n")
    assert cli.messages[0]["manifest"] == KEY


def test_json_is_one_object_with_the_link_and_the_description(cli: Cli) -> None:
    written = WRITTEN | {"issued": 25, "refused": 0}
    result = cli(*ANEW, "--json", decide=service_with_manifests(written))
    assert result.exit_code == 0
    assert f"{KEY!r}: 25 granted (charged), none refused, in " in result.stderr
    assert json.loads(result.stdout) == {
        "batch": cli.messages[0]["batch"],
        "key": KEY,
        "bytes": 7,
        "sha256": "ab",
        "issued": 25,
        "refused": 0,
        "url": "http://127.0.0.1/reports/0",
        "expires_at": "2099-01-01T00:00:00Z",
    }


@pytest.mark.parametrize(
    ("decide", "exit_code", "error"),
    [
        (service_with_manifests(FAILED), 4, "was not written: storage did not take it: AccessDen"),
        (refuse_outcome, 1, "quota_exceeded"),
    ],
)
def test_a_manifest_that_is_not_written_is_explained(
    cli: Cli, decide: Any, exit_code: int, error: str
) -> None:
    result = cli(*ANEW, decide=decide)
    assert (result.exit_code, result.stdout) == (exit_code, "")
    assert error in result.stderr


def test_a_timeout_for_a_chunk_explains_how_to_get_the_results_so_far(cli: Cli) -> None:
    Path("keys.txt").write_text("\n".join(f"k/{n}" for n in range(DEFAULT_CHUNK_ITEMS + 1)))
    result = cli(*ANEW, "--timeout", "2s", plan=lose_chunk(1))
    batch = cli.messages[0]["batch"]
    assert (result.exit_code, result.stdout) == (3, "")
    command = f"{program_command('valetkey')} cancel {batch}"
    assert f"to have only the results so far written: {command}\n" in result.stderr


def test_a_manifest_of_several_batches_is_refused(cli: Cli) -> None:
    assert "a manifest covers exactly one batch" in cli.refuses(*ANEW, "--batch-size", "10")


@pytest.mark.timeout(60)
def test_the_wait_for_a_manifest_ends_with_the_timeout(cli: Cli) -> None:
    begin = time.monotonic()
    result = cli(*ANEW, "--timeout", "2s", decide=service_with_manifests(*[PENDING] * 1_000))
    assert time.monotonic() - begin < 10
    batch = cli.messages[0]["batch"]
    assert (result.exit_code, result.stdout) == (3, "")
    assert "the manifest was not written within 2 s" in result.stderr
    assert f"to keep waiting: Client().batch('{batch}').manifest()\n" in result.stderr


def test_an_object_is_not_replaced_by_a_manifest(cli: Cli) -> None:
    with running_http_storage() as storage:

        def decide(message: dict[str, Any]) -> dict[str, Any]:
            outcome = grant_outcome(message)
            outcome["items"][0]["url"] = storage.url
            return outcome

        result = cli(*DOWNLOAD, decide=decide)
        (request,) = storage.received
    assert (result.exit_code, result.stdout, request.method) == (2, "", "HEAD")
    assert f"the object {KEY!r} exists" in result.stderr.replace("\n", " ")
    assert [message["items"] for message in cli.messages] == [[{"key": KEY}]]


def test_a_manifest_is_requested_if_its_object_does_not_exist(cli: Cli) -> None:
    assert cli(*DOWNLOAD, decide=service_with_manifests(WRITTEN)).exit_code == 1
    assert cli.messages[1]["manifest"] == KEY
