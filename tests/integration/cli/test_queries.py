"""Commands that ask about a service or a batch; client/uses has the real service."""

import json
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import pytest
from click.testing import Result

from tests.support.cli.interrupted_download import run_cli
from tests.support.cli.producer_commands import Cli
from tests.support.fakes.fake_service import grant_outcome

BATCH = "0199a000-0000-7000-8000-000000000000"
MIDNIGHT = "2026-11-25T00:00:00Z"
QUOTA = {"metric": "grants", "window": "day", "limit": 100, "used": 90, "resets_at": MIDNIGHT}
OVER = {"code": "expiry_too_long", "field": "grant.expires_in", "message": "long", "limit": 60}
WARNING = (
    "warning: 90 of 100 grants per day used, 10 left; the quota resets at 2026-11-25 00:00 UTC\n"
)
CANCELLED = {"status": "cancelled", "batch": BATCH, "issued": 1_500, "released": 8_500}


def reply_explanation(decision: str) -> Any:
    refusal = {"refusal": OVER} if decision == "refuse" else {}
    rules = [{"rule": "key", "found": "acme/"}, {"rule": "validity", "found": "1 h", **refusal}]
    return lambda _: {"status": "explained", "decision": decision, "rules": rules}


def test_usage_reports_a_tenant_without_quotas(cli: Cli) -> None:
    reply = {"status": "reported", "tenant": "acme", "quotas": []}
    result = cli("usage", decide=lambda _: reply)
    assert (result.exit_code, result.stdout) == (0, "")
    assert result.stderr == "the tenant has no quotas\n"


@pytest.mark.parametrize(
    ("options", "printed"),
    [
        ([], "cancelled: 1,500 granted before, 8,500 released\n"),
        (["--json"], f"{json.dumps(CANCELLED, separators=(',', ':'))}\n"),
    ],
)
def test_a_batch_is_cancelled(cli: Cli, options: list[str], printed: str) -> None:
    words = ("cancel", BATCH, "--reason", "wrong", "--requested-by", "me", *options)
    result = cli(*words, decide=lambda _: CANCELLED)
    assert (result.exit_code, result.stdout) == (0, printed)
    request = {"v": 1, "ask": "cancel", "tenant": "acme", "batch": BATCH}
    assert cli.messages[0] == request | {"requested_by": "me", "reason": "wrong"}


@pytest.mark.parametrize("options", [[], ["--json"]])
def test_cancelling_a_batch_that_the_service_does_not_know_is_exit_1(
    cli: Cli, options: list[str]
) -> None:
    reply = CANCELLED | {"issued": 0, "released": 0}
    unknown = {"code": "batch_unknown", "field": "batch", "message": "unknown"}
    refused = {"status": "refused", "batch": BATCH, "chunk": 0, "refusal": unknown}

    def decide(message: dict[str, Any]) -> dict[str, Any]:
        return reply if message["ask"] == "cancel" else refused

    result = cli("cancel", BATCH, *options, decide=decide)
    assert result.exit_code == 1
    assert result.stderr.startswith(f"no message of a batch {BATCH} of this tenant has reached")
    assert [json.loads(line) for line in result.stdout.splitlines()] == [reply] * len(options)


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
def test_a_dry_run_shows_the_rules_and_requests_no_grant(cli: Cli, kind: str) -> None:
    result = cli(*DRY_RUNS[kind], "--dry-run", decide=reply_explanation("issue"))
    lines = [line.rstrip() for line in result.stdout.splitlines()]
    assert lines[1:3] == ["key       ok       acme/", "validity  ok       1 h"]
    assert (lines[-1], result.exit_code) == ("It would be issued.", 0)
    (message,) = cli.messages
    assert (message["ask"], message["grant"]["kind"]) == ("explain", kind)


@pytest.mark.parametrize("kind", DRY_RUNS)
def test_a_dry_run_that_would_be_refused_is_exit_1(cli: Cli, kind: str) -> None:
    result = cli(*DRY_RUNS[kind], "--dry-run", "--json", decide=reply_explanation("refuse"))
    explanation = json.loads(result.stdout)
    assert (result.exit_code, explanation["decision"]) == (1, "refuse")
    assert explanation["rules"][1]["refusal"]["code"] == "expiry_too_long"


def test_a_dry_run_of_a_multipart_upload_sends_no_file(cli: Cli) -> None:
    Path("film").write_bytes(b"content")
    words = ("multipart", "inbox", "a", "--file", "film", "--dry-run")
    assert cli(*words, decide=reply_explanation("issue")).exit_code == 0
    assert [message["items"] for message in cli.messages] == [[{"key": "a", "size": 7}]]


@pytest.mark.parametrize("kind", ["download", "upload"])
def test_a_reached_soft_limit_is_one_line_on_stderr(cli: Cli, kind: str) -> None:
    quotas = [QUOTA | {"warn_at": 80}, QUOTA | {"window": "hour", "warn_at": 95}]
    result = cli(
        *DRY_RUNS[kind], decide=lambda message: grant_outcome(message) | {"quotas": quotas}
    )
    assert (result.exit_code, result.stderr) == (0, WARNING)


GRANT = f"{BATCH}.3"
STORED = {
    "item": 3,
    "state": "mismatched",
    "key": "acme/a\x1b[31m",
    "expires_at": "2026-11-24T12:00:00Z",
    "uses": 2,
    "size": 1_500,
    "etag": "0123",
    "version": "v1",
    "stored_at": "2026-11-24T11:59:00Z",
    "problem": "size: 1,500 bytes, granted 0 to 5",
}


def reply_states(*replies: dict[str, Any]) -> Any:
    """Return a service that gives these replies, one after the other, and then the last one."""
    left = list(replies)

    def decide(message: dict[str, Any]) -> dict[str, Any]:
        fields = {"status": "states", "batch": message["batch"], "kind": "upload"}
        reply = left.pop(0) if len(left) > 1 else left[0]
        return {**fields, "bucket": "inbox", "total": 5, **reply}

    return decide


def fresh(kind: str) -> Any:
    """Return a service that issues an object of some kind again, and tells the kind."""

    def decide(message: dict[str, Any]) -> dict[str, Any]:
        if message["ask"] == "status":
            state = {"item": message["items"][0], "state": "open"}
            states: dict[str, Any] = reply_states({"kind": kind, "items": [state]})(message)
            return states
        item = {"key": "acme/a", "size": 5}
        chunk = {"items": [item], "chunk": 0, "chunk_size": 1}
        return grant_outcome(message | chunk | {"grant": {"kind": kind, "bucket": "inbox"}})

    return decide


def test_the_status_of_a_grant_is_a_table(cli: Cli) -> None:
    result = cli("status", GRANT, decide=reply_states({"items": [STORED]}))
    assert (result.exit_code, result.stderr) == (0, "")
    lines = dict(line.split("  ", 1) for line in result.stdout.splitlines())
    values = {name: text.strip() for name, text in lines.items()}
    assert values.items() >= {
        ("state", "mismatched"),
        ("batch", "item 3 of 5, upload in inbox"),
        ("problem", "size: 1,500 bytes, granted 0 to 5"),
        ("stored", "2026-11-24T11:59:00Z, 1.5 KiB (1,500 bytes)"),
        ("version", "v1"),
    }
    assert "\x1b" not in result.stdout
    assert (cli.messages[0]["items"], cli.messages[0]["probe"]) == ([3], True)


def test_the_status_of_a_batch_counts_states(cli: Cli) -> None:
    counts = {"counts": {"open": 3, "used": 2}}
    lines = cli("status", BATCH, decide=reply_states(counts)).stdout.splitlines()
    assert [line.split() for line in lines] == [
        ["state", "of", "5", "items"],
        ["open", "3"],
        ["used", "2"],
    ]
    assert "items" not in cli.messages[0]
    as_json = cli("status", BATCH, "--json", decide=reply_states(counts))
    assert json.loads(as_json.stdout)["counts"] == counts["counts"]


def test_watching_shows_each_change_until_nothing_is_open(
    cli: Cli, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("valetkey.cli.commands.query_commands._WATCH_SECONDS", 0.01)
    replies = [{"counts": counts} for counts in ({"open": 5}, {"open": 5}, {"used": 5})]
    result = cli("status", BATCH, "--watch", "--json", decide=reply_states(*replies))
    shown = [json.loads(line)["counts"] for line in result.stdout.splitlines()]
    assert shown == [{"open": 5}, {"used": 5}]
    assert len(cli.messages) == 3


@pytest.mark.parametrize("words", [("status", BATCH), ("reissue", GRANT)])
def test_a_refusal_is_exit_1(cli: Cli, words: tuple[str, str]) -> None:
    refusal = {"code": "batch_unknown", "field": "batch", "message": "unknown"}
    reply = {"status": "refused", "chunk": 0, "refusal": refusal}
    result = cli(*words, decide=lambda message: reply | {"batch": message["batch"]})
    assert result.exit_code == 1
    assert "batch_unknown" in result.stderr
    assert "\nNext: check the id and the tenant." in result.stderr


def test_a_fresh_link_is_printed_alone(cli: Cli) -> None:
    words = ("reissue", GRANT, "--expires-in", "15m", "--reason", "late")
    result = cli(*words, decide=fresh("download"))
    assert (result.exit_code, result.stdout) == (0, "http://127.0.0.1/reports/0\n")
    (message,) = cli.messages
    assert (message["of"], message["expires_in"], message["reason"]) == (GRANT, 900, "late")
    assert "recipient" not in message


@pytest.mark.parametrize(
    ("kind", "option", "printed"),
    [
        ("upload", "--recipient=Ada", "POST http"),
        ("upload", "--curl", "curl "),
        ("upload", "--json", '"key":"acme/a"'),
        ("upload", "--html", "<form"),
        ("download", "--js", "fetch("),
    ],
)
def test_a_fresh_grant_is_printed_in_each_format(
    cli: Cli, kind: str, option: str, printed: str
) -> None:
    result = cli("reissue", GRANT, option, decide=fresh(kind))
    assert (result.exit_code, printed in result.stdout) == (0, True), result.stdout


def test_a_page_of_a_kind_that_has_none_is_wrong_usage_and_requests_nothing(cli: Cli) -> None:
    result = cli("reissue", GRANT, "--html", decide=fresh("download"))
    assert result.exit_code == 2
    assert "a grant of the kind download has no page: leave out --html" in result.stderr
    assert [message["ask"] for message in cli.messages] == ["status"]


def wait_with(cli: Cli, state: dict[str, Any], *options: str) -> tuple[Result, str]:
    """Run a command that waits for an object in this state; return the command to go on, too."""

    def decide(message: dict[str, Any]) -> Any:
        if message.get("ask") != "status":
            return grant_outcome(message)
        return reply_states({"items": [{"item": 0, "key": "acme/a", **state}]})(message)

    words = ("upload", "inbox", "acme/a", "--max-size", "5", "--wait", *options)
    result = cli(*words, decide=decide)
    return result, f"valetkey status {cli.messages[0]['batch']}.0 --watch\n"


@pytest.mark.parametrize("options", [(), ("--json",)])
def test_a_wait_that_takes_too_long_names_the_command_that_goes_on(
    options: tuple[str, ...], cli: Cli
) -> None:
    result, command = wait_with(cli, {"state": "open"}, "--timeout", "1s", *options)
    assert result.exit_code == 4
    assert result.stderr.endswith(command)
    assert "Error: 'acme/a' is not known to be stored yet\nNext: " in result.stderr
    assert "call again" not in result.stderr


def test_the_command_that_goes_on_is_for_the_same_tenant(cli: Cli) -> None:
    options = ("--timeout", "1s", "--tenant", "globex")
    result, command = wait_with(cli, {"state": "open"}, *options)
    assert result.stderr.endswith(command.replace("\n", " --tenant globex\n"))


def test_an_interrupted_wait_names_the_command_that_goes_on(
    cli: Cli, monkeypatch: pytest.MonkeyPatch
) -> None:
    interrupt = Mock(side_effect=KeyboardInterrupt)
    monkeypatch.setattr("valetkey.handles.BatchHandle.stored", interrupt)
    result, command = wait_with(cli, {"state": "open"})
    assert result.exit_code == 130
    assert result.stderr.startswith("interrupted\nNext: ")
    assert result.stderr.endswith(command)


def test_a_wait_for_an_object_that_never_comes_names_no_command(cli: Cli) -> None:
    result, _ = wait_with(cli, {"state": "unused"})
    assert (result.exit_code, "Next" in result.stderr) == (4, False)
