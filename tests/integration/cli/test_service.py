"""`valetkey service`, and the check of the service before a file is requested."""

import json
from pathlib import Path
from typing import Any

import pytest
import redis
from click.testing import CliRunner, Result

from tests.support.builders.replies import LIMITS
from tests.support.fakes.fake_service import describe_today, grant_outcome, running_fake_service
from valetkey.cli.main import main
from valetkey.wire.messages import RELEASE

WARNING = (
    "warning: 4 bytes of 5 bytes of archive per week used, 1 byte left; "
    "capacity becomes free as grants expire"
)
BULK = ("download", "reports", "--from", "keys.txt", "--json")


def run_cli(*arguments: str) -> Result:
    return CliRunner().invoke(main, arguments)


def refuse_description(_message: Any) -> dict[str, Any]:
    refusal = {"code": "signature_required", "field": "", "message": "no"}
    return {"batch": "", "chunk": 0, "status": "refused", "refusal": refusal}


def describe(**changes: Any) -> Any:
    """Return a function that describes a service with some changes to today's description."""
    return lambda message: describe_today(message) | changes


@pytest.fixture
def keys_txt(broker: str) -> Path:  # noqa: ARG001 - the broker's working directory
    path = Path("keys.txt")
    path.write_text("a\nb\n", encoding="utf-8")
    return path


def test_the_service_is_a_table(broker: str) -> None:
    with running_fake_service(broker):
        result = run_cli("service")
    assert (result.exit_code, result.stderr) == (0, "")
    lines = {line.split("  ")[0]: line.rstrip() for line in result.stdout.splitlines() if line}
    assert lines["release"].endswith(RELEASE)
    assert lines["wire versions"].endswith("1")
    assert lines["max_batch_items"].endswith(" 1,000,000")
    assert lines["max_object_bytes"].endswith(" 5 GiB (5,368,709,120 bytes)")
    assert lines["max_expires_in"].endswith(" 7 days")


def test_the_service_is_printed_as_json(broker: str) -> None:
    with running_fake_service(broker):
        result = run_cli("service", "--json")
    assert json.loads(result.stdout)["limits"]["max_chunk_items"] == 1_000


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
    broker: str, changes: dict[str, Any], refusal: str
) -> None:
    with running_fake_service(broker, describe=describe(**changes, release="0.0.9")) as service:
        result = run_cli(*BULK)
    assert (result.exit_code, result.stdout, service.received) == (1, "", [])
    assert refusal in result.stderr
    assert "it is release 0.0.9" in result.stderr


@pytest.mark.usefixtures("keys_txt")
def test_a_file_is_requested_although_the_service_refuses_to_describe_itself(broker: str) -> None:
    with running_fake_service(broker, describe=refuse_description):
        result = run_cli(*BULK)
    assert result.exit_code == 0
    assert len(result.stdout.splitlines()) == 2


@pytest.mark.usefixtures("keys_txt")
def test_a_file_asks_for_the_service_once_and_a_single_key_never(broker: str) -> None:
    with running_fake_service(broker) as service:
        run_cli(*BULK, "--batch-size", "1")
        assert (service.described, len(service.received)) == (1, 2)
        run_cli("download", "reports", "a")
        run_cli(*BULK, "--dry-run", "--timeout", "1s")
        assert service.described == 1


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
def test_results_of_a_later_service_are_printed(broker: str) -> None:
    with running_fake_service(broker, decide=later_outcome):
        as_json = run_cli(*BULK)
        as_csv = run_cli("download", "reports", "--from", "keys.txt", "--csv")
    grant, refusal = map(json.loads, as_json.stdout.splitlines())
    assert (grant["method"], grant["limited_by"], refusal["code"]) == (
        "QUERY",
        "weather",
        "storage_busy",
    )
    assert as_json.stderr.splitlines()[:-1] == [
        "refused 'b': storage_busy in key: later",
        WARNING,
    ]
    assert "QUERY" in as_csv.stdout
    assert "storage_busy" in as_csv.stdout


@pytest.mark.parametrize("output", ["--curl", "--js"])
def test_a_grant_of_an_unknown_method_is_no_command(broker: str, output: str) -> None:
    with running_fake_service(broker, decide=later_outcome_of_one):
        result = run_cli("download", "reports", "a", output)
    assert (result.exit_code, result.stdout) == (3, "")
    assert "cannot use a grant of the method 'QUERY': the service is newer" in result.stderr


def later_outcome_of_one(message: dict[str, Any]) -> dict[str, Any]:
    return later_outcome(message) | {"items": later_outcome(message)["items"][:1]}


def test_usage_and_explanations_of_a_later_service_are_printed(broker: str) -> None:
    quota = {"metric": "archive_bytes", "window": "week", "limit": 2048, "used": 1024}

    def decide(message: dict[str, Any]) -> dict[str, Any]:
        if message.get("ask") == "usage":
            return {"status": "told", "tenant": "acme", "quotas": [quota]}
        return {"status": "explained", "decision": "defer", "rules": []}

    with running_fake_service(broker, decide=decide):
        usage = run_cli("usage")
        explanation = run_cli("download", "reports", "a", "--dry-run")
    assert "archive_bytes.week" in usage.stdout
    assert "1 KiB" in usage.stdout or "1.0 KiB" in usage.stdout
    assert (explanation.exit_code, explanation.stdout.splitlines()[-1]) == (1, "It would be defer.")
