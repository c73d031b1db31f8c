"""`--manifest`: the service writes what is granted, and the command prints one link."""

import json
from pathlib import Path
from typing import Any

import pytest
import redis
from click.testing import CliRunner, Result

from tests.integration.client.test_client_manifest import KEY, KEYS, PENDING, WRITTEN, telling
from tests.support.fakes.fake_service import Act, refuse_outcome, running_fake_service
from valetkey.cli.main import main
from valetkey.wire.messages import DEFAULT_CHUNK_ITEMS

FAILED = {"key": KEY, "state": "failed", "problem": "storage did not take it: AccessDenied"}


@pytest.fixture
def broker(valkey_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    with redis.Redis.from_url(valkey_url) as server:
        server.flushall()
    monkeypatch.setattr("valetkey.manifests._FIRST_GAP", 0.01)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("VALETKEY_BROKER_URL", valkey_url)
    monkeypatch.setenv("VALETKEY_TENANT", "acme")
    Path("keys.txt").write_text("\n".join(KEYS))
    return valkey_url


def run(*words: str) -> Result:
    command = ["download", "reports", "--from", "keys.txt", "--manifest", KEY, *words]
    return CliRunner().invoke(main, command)


def test_one_link_is_printed_and_what_is_behind_it_explained(broker: str) -> None:
    with running_fake_service(broker, decide=telling(PENDING, WRITTEN)) as service:
        result = run()
    assert result.stdout == "http://127.0.0.1/reports/0\n"
    assert result.stderr == f"{KEY!r}: 24 granted, 1 refused; 7 bytes, sha256 ab\n"
    assert result.exit_code == 1
    assert service.arrived[0][1]["manifest"] == KEY


def test_all_of_it_is_one_object_for_programs(broker: str) -> None:
    with running_fake_service(
        broker, decide=telling(WRITTEN | {"issued": 25, "refused": 0})
    ) as service:
        result = run("--json")
    assert (result.exit_code, result.stderr) == (0, "")
    assert json.loads(result.stdout) == {
        "batch": service.arrived[0][1]["batch"],
        "key": KEY,
        "bytes": 7,
        "sha256": "ab",
        "issued": 25,
        "refused": 0,
        "url": "http://127.0.0.1/reports/0",
        "expires_at": "2099-01-01T00:00:00Z",
    }


def test_what_could_not_be_written_is_explained(broker: str) -> None:
    with running_fake_service(broker, decide=telling(FAILED)):
        result = run()
    assert (result.exit_code, result.stdout) == (4, "")
    assert "was not written: storage did not take it: AccessDenied" in result.stderr


def test_a_wait_for_the_file_that_ends_early_says_how_to_wait_on(
    broker: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("valetkey.cli.commands.manifest_output.PATIENCE", 0.2)
    with running_fake_service(broker, decide=telling(PENDING)) as service:
        result = run("--timeout", "3s")
    batch = service.arrived[0][1]["batch"]
    assert (result.exit_code, result.stdout) == (3, "")
    assert f"to wait on: Client().batch('{batch}').manifest()\n" in result.stderr


def test_a_batch_that_ends_early_is_cancelled_to_have_what_was_granted(broker: str) -> None:
    def lose_the_rest(message: dict[str, Any], _: int) -> Act:
        return "lose" if message.get("chunk") else "answer"

    Path("keys.txt").write_text("\n".join(f"k/{n}" for n in range(DEFAULT_CHUNK_ITEMS + 1)))
    with running_fake_service(broker, lose_the_rest) as service:
        result = run("--timeout", "3s")
    batch = service.arrived[0][1]["batch"]
    assert (result.exit_code, result.stdout) == (3, "")
    assert f"written, and no more: valetkey cancel {batch}\n" in result.stderr


def test_a_refused_batch_is_explained(broker: str) -> None:
    with running_fake_service(broker, decide=refuse_outcome):
        result = run()
    assert (result.exit_code, result.stdout) == (1, "")
    assert "quota_exceeded" in result.stderr


@pytest.mark.usefixtures("broker")
@pytest.mark.parametrize(
    ("words", "why"),
    [
        (["--out", "links.csv"], "there is only a link to print"),
        (["--csv"], "there is only a link to print"),
        (["--batch-size", "10"], "a manifest is of one batch"),
    ],
)
def test_what_does_not_go_with_a_manifest_is_said(words: list[str], why: str) -> None:
    result = run(*words)
    assert (result.exit_code, result.stdout) == (2, "")
    assert why in result.stderr.replace("\n", " ")


@pytest.mark.usefixtures("broker")
def test_a_manifest_goes_with_a_file() -> None:
    result = CliRunner().invoke(main, ["download", "reports", "a", "--manifest", KEY])
    assert (result.exit_code, "--manifest goes with --from" in result.stderr) == (2, True)
