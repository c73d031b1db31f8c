import json
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from tests.support.fakes.fake_service import grant_outcome, running_fake_service
from valetkey.cli.main import main

BATCH = "0199a000-0000-7000-8000-000000000000"
MIDNIGHT = "2026-11-25T00:00:00Z"
QUOTA = {"metric": "grants", "window": "day", "limit": 100, "used": 90, "resets_at": MIDNIGHT}
OVER = {"code": "expiry_too_long", "field": "grant.expires_in", "message": "long", "limit": 60}
WARNING = (
    "warning: 90 of 100 grants per day used, 10 left; the quota resets at 2026-11-25 00:00 UTC\n"
)


def run_cli(*arguments: str) -> Result:
    return CliRunner().invoke(main, arguments)


def reply_usage(*quotas: dict[str, Any]) -> Any:
    return lambda message: {"status": "told", "tenant": message["tenant"], "quotas": list(quotas)}


def reply_explanation(decision: str) -> Any:
    refusal = {"refusal": OVER} if decision == "refuse" else {}
    rules = [{"rule": "key", "found": "acme/"}, {"rule": "validity", "found": "1 h", **refusal}]
    return lambda _: {"status": "explained", "decision": decision, "rules": rules}


def test_usage_is_a_table(broker: str) -> None:
    with running_fake_service(broker, decide=reply_usage(QUOTA)):
        result = run_cli("usage")
    assert (result.exit_code, result.stderr) == (0, "")
    assert "grants.day" in result.stdout
    assert "2026-11-25 00:00" in result.stdout


def test_usage_prints_json(broker: str) -> None:
    with running_fake_service(broker, decide=reply_usage(QUOTA, QUOTA)):
        result = run_cli("usage", "--json")
    assert [json.loads(line)["left"] for line in result.stdout.splitlines()] == [10, 10]


def test_usage_reports_a_tenant_without_quotas(broker: str) -> None:
    with running_fake_service(broker, decide=reply_usage()):
        result = run_cli("usage")
    assert (result.exit_code, result.stdout) == (0, "")
    assert result.stderr == "the tenant has no quotas\n"


@pytest.mark.parametrize("options", [[], ["--json"]])
def test_a_batch_is_cancelled(broker: str, options: list[str]) -> None:
    reply = {"status": "cancelled", "batch": BATCH, "issued": 1_500, "released": 8_500}
    with running_fake_service(broker, decide=lambda _: reply) as service:
        result = run_cli("cancel", BATCH, "--reason", "wrong", "--requested-by", "me", *options)
    assert result.exit_code == 0
    assert service.received[0][1] == {
        "v": 1,
        "ask": "cancel",
        "tenant": "acme",
        "batch": BATCH,
        "requested_by": "me",
        "reason": "wrong",
    }
    if options:
        assert json.loads(result.stdout) == reply
    else:
        assert result.stdout == "cancelled: 1,500 granted before, 8,500 released\n"


@pytest.mark.parametrize("options", [[], ["--json"]])
def test_cancelling_a_batch_that_the_service_does_not_know_is_exit_1(
    broker: str, options: list[str]
) -> None:
    reply = {"status": "cancelled", "batch": BATCH, "issued": 0, "released": 0}
    unknown = {"code": "batch_unknown", "field": "batch", "message": "unknown"}

    def decide(message: dict[str, Any]) -> dict[str, Any]:
        if message["ask"] == "cancel":
            return reply
        return {"status": "refused", "batch": BATCH, "chunk": 0, "refusal": unknown}

    with running_fake_service(broker, decide=decide):
        result = run_cli("cancel", BATCH, *options)
    assert result.exit_code == 1
    assert result.stderr.startswith(f"no message of a batch {BATCH} of this tenant has reached")
    assert result.stdout == (
        "" if options == [] else f"{json.dumps(reply, separators=(',', ':'))}\n"
    )


@pytest.mark.usefixtures("broker")
def test_without_a_response_usage_is_exit_3() -> None:
    result = run_cli("usage", "--timeout", "1s")
    assert (result.exit_code, result.stdout) == (3, "")
    assert "no answer within 1 s: no worker takes it from" in result.stderr


DRY_RUNS = {
    "download": ("download", "reports", "a", "b", "--expires-in", "1h"),
    "upload": ("upload", "inbox", "a", "--max-size", "5MB"),
    "put": ("put", "inbox", "a", "--size", "5"),
    "multipart": ("multipart", "inbox", "a", "--size", "1GiB"),
}


@pytest.mark.parametrize("kind", DRY_RUNS)
def test_a_dry_run_shows_the_rules_and_requests_no_grant(broker: str, kind: str) -> None:
    with running_fake_service(broker, decide=reply_explanation("issue")) as service:
        result = run_cli(*DRY_RUNS[kind], "--dry-run")
    lines = [line.rstrip() for line in result.stdout.splitlines()]
    assert lines[1:3] == ["key       ok       acme/", "validity  ok       1 h"]
    assert (lines[-1], result.exit_code) == ("It would be issued.", 0)
    ((_, message),) = service.received
    assert (message["ask"], message["grant"]["kind"]) == ("explain", kind)


@pytest.mark.parametrize("kind", DRY_RUNS)
def test_a_dry_run_that_would_be_refused_is_exit_1(broker: str, kind: str) -> None:
    with running_fake_service(broker, decide=reply_explanation("refuse")):
        result = run_cli(*DRY_RUNS[kind], "--dry-run", "--json")
    explanation = json.loads(result.stdout)
    assert (result.exit_code, explanation["decision"]) == (1, "refuse")
    assert explanation["rules"][1]["refusal"]["code"] == "expiry_too_long"


def test_a_dry_run_of_a_multipart_upload_sends_no_file(broker: str) -> None:
    Path("film").write_bytes(b"content")
    with running_fake_service(broker, decide=reply_explanation("issue")) as service:
        result = run_cli("multipart", "inbox", "a", "--file", "film", "--dry-run")
    assert (result.exit_code, len(service.received)) == (0, 1)
    assert service.received[0][1]["items"] == [{"key": "a", "size": 7}]


@pytest.mark.parametrize("arguments", [DRY_RUNS["download"], DRY_RUNS["upload"]])
def test_a_reached_soft_limit_is_one_line_on_stderr(
    broker: str, arguments: tuple[str, ...]
) -> None:
    quotas = [QUOTA | {"warn_at": 80}, QUOTA | {"window": "hour", "warn_at": 95}]
    with running_fake_service(
        broker, decide=lambda message: grant_outcome(message) | {"quotas": quotas}
    ):
        result = run_cli(*arguments)
    assert (result.exit_code, result.stderr) == (0, WARNING)
