"""`valetkey service`, and the check of the service before a file is requested."""

import json
from pathlib import Path
from typing import Any

import pytest
import redis

from tests.support.builders.replies import LIMITS
from tests.support.cli.producer_commands import Cli, run_cli
from tests.support.fakes.fake_service import describe_today, grant_outcome
from valetkey.wire.messages import RELEASE

WARNING = (
    "warning: 4 bytes of 5 bytes of archive per week used, 1 byte left; "
    "capacity becomes free as grants expire"
)
BULK = ("download", "reports", "--from", "keys.txt", "--json")


def refuse_description(code: str, field: str) -> Any:
    refusal = {"code": code, "field": field, "message": "no"}
    return lambda _: {"batch": "", "chunk": 0, "status": "refused", "refusal": refusal}


def describe(**changes: Any) -> Any:
    """Return a function that describes a service with some changes to today's description."""
    return lambda message: describe_today(message) | changes


@pytest.fixture
def keys_txt(broker: str) -> Path:  # noqa: ARG001 - the broker's working directory
    path = Path("keys.txt")
    path.write_text("a\nb\n", encoding="utf-8")
    return path


def test_the_service_is_a_table(cli: Cli) -> None:
    result = cli("service")
    assert (result.exit_code, result.stderr) == (0, "")
    lines = {line.split("  ")[0]: line.rstrip() for line in result.stdout.splitlines() if line}
    ends = {
        "release": RELEASE,
        "wire versions": "1",
        "max_batch_items": " 1,000,000",
        "max_object_bytes": " 5 GiB (5,368,709,120 bytes)",
        "max_expires_in": " 7 days",
    }
    assert [name for name, end in ends.items() if not lines[name].endswith(end)] == []


def test_the_service_is_printed_as_json(cli: Cli) -> None:
    assert json.loads(cli("service", "--json").stdout)["limits"]["max_chunk_items"] == 1_000


def test_an_older_service_is_described_by_the_first_release(cli: Cli) -> None:
    result = cli("service", describe=refuse_description("malformed", "batch"))
    assert result.exit_code == 0
    assert "the service is older than this client" in result.stderr
    assert "not told" in result.stdout


@pytest.mark.usefixtures("keys_txt")
@pytest.mark.parametrize(
    ("changes", "refusal"),
    [
        ({"kinds": ["upload"]}, "kind_not_allowed in grant.kind"),
        ({"versions": [2, 3]}, "version_unknown in v"),
        ({"limits": LIMITS | {"max_chunk_items": 599}}, "chunk_invalid in chunk_size"),
        (
            {"limits": LIMITS | {"max_chunk_items": 600, "max_batch_items": 1}},
            "batch_too_large in total",
        ),
    ],
)
def test_a_file_that_the_service_cannot_read_is_refused_before_anything_is_sent(
    cli: Cli, changes: dict[str, Any], refusal: str
) -> None:
    result = cli(*BULK, describe=describe(**changes, release="0.0.9"))
    assert (result.exit_code, result.stdout, cli.messages) == (1, "", [])
    assert refusal in result.stderr
    assert "it is release 0.0.9" in result.stderr


@pytest.mark.usefixtures("keys_txt")
@pytest.mark.parametrize(("code", "field"), [("malformed", "batch"), ("signature_required", "")])
def test_a_file_is_requested_from_a_service_that_does_not_describe_itself(
    cli: Cli, code: str, field: str
) -> None:
    result = cli(*BULK, describe=refuse_description(code, field))
    assert (result.exit_code, len(result.stdout.splitlines())) == (0, 2)


@pytest.mark.usefixtures("keys_txt")
@pytest.mark.parametrize(
    ("words", "described", "sent"),
    [
        ((*BULK, "--batch-size", "1"), 1, 2),
        (("download", "reports", "a"), 0, 1),
        ((*BULK, "--dry-run", "--timeout", "1s"), 0, 1),
    ],
)
def test_a_file_asks_for_the_service_once_and_a_single_key_never(
    cli: Cli, words: tuple[str, ...], described: int, sent: int
) -> None:
    cli(*words)
    assert (cli.service.described, len(cli.messages)) == (described, sent)


@pytest.mark.usefixtures("keys_txt")
def test_a_file_is_put_into_the_queue_although_no_worker_answers(
    broker: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("valetkey.cli.commands.bulk_request.SERVICE_TIMEOUT", 0.5)
    assert run_cli(*BULK, "--timeout", "2s").exit_code == 3
    with redis.Redis.from_url(broker) as server:
        tasks = [json.loads(raw)["headers"]["id"] for raw in server.lrange("valetkey", 0, -1)]
    assert any(task.endswith(".0") for task in tasks)


def later_outcome(message: dict[str, Any]) -> dict[str, Any]:
    """Return an outcome of a later service: a grant of an unknown method, and an unknown code."""
    outcome = grant_outcome(message)
    grant = outcome["items"][0] | {"method": "QUERY", "limited_by": "weather"}
    refusal = {"code": "storage_busy", "field": "key", "message": "later", "key": "b"}
    quota = {"metric": "archive_bytes", "window": "week", "limit": 5, "used": 4, "warn_at": 3}
    return outcome | {"items": [grant, refusal], "quotas": [quota]}


@pytest.mark.usefixtures("keys_txt")
def test_results_of_a_later_service_are_printed(cli: Cli) -> None:
    as_json = cli(*BULK, decide=later_outcome)
    grant, refusal = map(json.loads, as_json.stdout.splitlines())
    words = (grant["method"], grant["limited_by"], refusal["code"])
    assert words == ("QUERY", "weather", "storage_busy")
    assert as_json.stderr.splitlines()[:-1] == ["refused 'b': storage_busy in key: later", WARNING]
    as_csv = cli("download", "reports", "--from", "keys.txt", "--csv", decide=later_outcome)
    assert "QUERY" in as_csv.stdout
    assert "storage_busy" in as_csv.stdout


@pytest.mark.parametrize("output", ["--curl", "--js"])
def test_a_grant_of_an_unknown_method_is_no_command(cli: Cli, output: str) -> None:
    def decide(message: dict[str, Any]) -> dict[str, Any]:
        outcome = later_outcome(message)
        return outcome | {"items": outcome["items"][:1]}

    result = cli("download", "reports", "a", output, decide=decide)
    assert (result.exit_code, result.stdout) == (3, "")
    assert "cannot use a grant of the method 'QUERY': the service is newer" in result.stderr


def test_a_decision_of_a_later_service_is_printed(cli: Cli) -> None:
    reply = {"status": "explained", "decision": "defer", "rules": []}
    result = cli("download", "reports", "a", "--dry-run", decide=lambda _: reply)
    assert (result.exit_code, result.stdout.splitlines()[-1]) == (1, "It would be defer.")
