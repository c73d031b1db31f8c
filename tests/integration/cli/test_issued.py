"""The commands status and reissue; tests/integration/client/uses has the real service."""

import json
from typing import Any

import pytest
from click.testing import CliRunner, Result

from tests.support.fakes.fake_service import FakeService, grant_outcome, running_fake_service
from valetkey.cli.main import main

BATCH = "0199a000-0000-7000-8000-000000000000"
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


def run_cli(*arguments: str) -> Result:
    return CliRunner().invoke(main, arguments)


def reply_states(*replies: dict[str, Any]) -> Any:
    """Return a service that gives these replies, one after the other, and then the last one."""
    left = list(replies)

    def decide(message: dict[str, Any]) -> dict[str, Any]:
        fields = {"status": "states", "batch": message["batch"], "kind": "upload"}
        reply = left.pop(0) if len(left) > 1 else left[0]
        return {**fields, "bucket": "inbox", "total": 5, **reply}

    return decide


def sent(service: FakeService) -> dict[str, Any]:
    return service.received[0][1]


def test_the_status_of_a_grant_is_a_table(broker: str) -> None:
    with running_fake_service(broker, decide=reply_states({"items": [STORED]})) as service:
        result = run_cli("status", GRANT)
    assert (result.exit_code, result.stderr) == (0, "")
    lines = dict(line.split("  ", 1) for line in result.stdout.splitlines())
    values = {name: text.strip() for name, text in lines.items()}
    assert values["state"] == "mismatched"
    assert values["batch"] == "item 3 of 5, upload in inbox"
    assert values["problem"] == "size: 1,500 bytes, granted 0 to 5"
    assert values["stored"] == "2026-11-24T11:59:00Z, 1.5 KiB (1,500 bytes)"
    assert values["version"] == "v1"
    assert "\x1b" not in result.stdout
    assert (sent(service)["items"], sent(service)["probe"]) == ([3], True)


def test_the_status_of_a_batch_counts_states(broker: str) -> None:
    counts = {"counts": {"open": 3, "used": 2}}
    with running_fake_service(broker, decide=reply_states(counts)) as service:
        result = run_cli("status", BATCH)
        as_json = run_cli("status", BATCH, "--json")
    assert [line.split() for line in result.stdout.splitlines()] == [
        ["state", "of", "5", "items"],
        ["open", "3"],
        ["used", "2"],
    ]
    assert json.loads(as_json.stdout)["counts"] == counts["counts"]
    assert "items" not in sent(service)


def test_watching_shows_each_change_until_nothing_is_open(
    broker: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("valetkey.cli.commands.issued.status._WATCH_SECONDS", 0.01)
    replies = [{"counts": counts} for counts in ({"open": 5}, {"open": 5}, {"used": 5})]
    with running_fake_service(broker, decide=reply_states(*replies)) as service:
        result = run_cli("status", BATCH, "--watch", "--json")
    shown = [json.loads(line)["counts"] for line in result.stdout.splitlines()]
    assert shown == [{"open": 5}, {"used": 5}]
    assert len(service.received) == 3


@pytest.mark.parametrize("command", ["status", "reissue"])
@pytest.mark.parametrize("name", ["", "x", f"{BATCH}.", f"{BATCH}.01", f"{BATCH}.x", "1.2"])
def test_an_argument_that_is_no_id_is_wrong_usage(command: str, name: str) -> None:
    result = run_cli(command, name)
    assert result.exit_code == 2
    assert "UUID of version 7" in result.stderr


def test_a_refusal_is_exit_1(broker: str) -> None:
    refusal = {"code": "batch_unknown", "field": "batch", "message": "unknown"}

    def refuse(message: dict[str, Any]) -> dict[str, Any]:
        reply = {"status": "refused", "batch": message["batch"], "chunk": 0}
        return reply | {"refusal": refusal}

    with running_fake_service(broker, decide=refuse):
        results = [run_cli("status", BATCH), run_cli("reissue", GRANT)]
    assert [result.exit_code for result in results] == [1, 1]
    assert all("batch_unknown" in result.stderr for result in results)
    assert all("\nNext: check the id and the tenant." in result.stderr for result in results)


def fresh(kind: str, **terms: Any) -> Any:
    """Return a service that issues an object of some kind again."""

    def decide(message: dict[str, Any]) -> dict[str, Any]:
        grant = {"kind": kind, "bucket": "inbox", **terms}
        item = {"key": "acme/a", "size": 5}
        return grant_outcome(
            message | {"grant": grant, "items": [item]} | {"chunk": 0, "chunk_size": 1}
        )

    return decide


def test_a_fresh_link_is_printed_alone(broker: str) -> None:
    with running_fake_service(broker, decide=fresh("download")) as service:
        result = run_cli("reissue", GRANT, "--expires-in", "15m", "--reason", "late")
    assert (result.exit_code, result.stdout) == (0, "http://127.0.0.1/reports/0\n")
    message = sent(service)
    assert (message["of"], message["expires_in"], message["reason"]) == (GRANT, 900, "late")
    assert "recipient" not in message


def test_a_fresh_form_is_printed_as_upload_prints_it(broker: str) -> None:
    with running_fake_service(broker, decide=fresh("upload")):
        form, curl = run_cli("reissue", GRANT), run_cli("reissue", GRANT, "--curl")
        as_json = run_cli("reissue", GRANT, "--json")
    assert "POST" in form.stdout
    assert curl.stdout.startswith("curl ")
    assert json.loads(as_json.stdout)["key"] == "acme/a"


def states_or(decide: Any, kind: str) -> Any:
    """Return a service that also tells the kind of the earlier grant."""

    def reply(message: dict[str, Any]) -> Any:
        if message["ask"] != "status":
            return decide(message)
        state = {"item": message["items"][0], "state": "open"}
        fields = {"status": "states", "batch": message["batch"], "kind": kind}
        return {**fields, "bucket": "inbox", "total": 5, "items": [state]}

    return reply


def test_a_page_of_a_kind_that_has_none_is_wrong_usage_and_requests_nothing(broker: str) -> None:
    with running_fake_service(broker, decide=states_or(fresh("download"), "download")) as service:
        result = run_cli("reissue", GRANT, "--html")
    assert result.exit_code == 2
    assert "a grant of the kind download has no page: leave out --html" in result.stderr
    assert [message["ask"] for _, message in service.received] == ["status"]


def test_a_fresh_form_is_printed_as_a_page_too(broker: str) -> None:
    with running_fake_service(broker, decide=states_or(fresh("upload"), "upload")):
        result = run_cli("reissue", GRANT, "--html")
    assert (result.exit_code, "<form" in result.stdout) == (0, True)


def test_a_fresh_link_is_printed_as_a_script_too(broker: str) -> None:
    with running_fake_service(broker, decide=fresh("download")):
        result = run_cli("reissue", GRANT, "--js")
    assert (result.exit_code, "fetch(" in result.stdout) == (0, True)


def wait_with(broker: str, state: dict[str, Any], *options: str) -> tuple[Result, str]:
    """Run a command that waits for an object in this state; return the id of its grant, too."""

    def decide(message: dict[str, Any]) -> Any:
        if message.get("ask") != "status":
            return grant_outcome(message)
        return reply_states({"items": [{"item": 0, "key": "acme/a", **state}]})(message)

    with running_fake_service(broker, decide=decide) as service:
        result = run_cli("upload", "inbox", "acme/a", "--max-size", "5", "--wait", *options)
    return result, f"{sent(service)['batch']}.0"


@pytest.mark.parametrize("options", [(), ("--json",)])
def test_a_wait_that_takes_too_long_names_the_command_that_goes_on(
    options: tuple[str, ...], broker: str
) -> None:
    result, name = wait_with(broker, {"state": "open"}, "--timeout", "1s", *options)
    assert result.exit_code == 4
    assert result.stderr.endswith(f"valetkey status {name} --watch\n")
    assert "Error: 'acme/a' is not known to be stored yet\nNext: " in result.stderr
    assert "call again" not in result.stderr


def test_an_interrupted_wait_names_the_command_that_goes_on(
    broker: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupt(*_: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("valetkey.handles.BatchHandle.stored", interrupt)
    result, name = wait_with(broker, {"state": "open"})
    assert result.exit_code == 130
    assert result.stderr.startswith("interrupted\nNext: ")
    assert result.stderr.endswith(f"valetkey status {name} --watch\n")


def test_a_wait_for_an_object_that_never_comes_names_no_command(broker: str) -> None:
    result, _ = wait_with(broker, {"state": "unused"})
    assert (result.exit_code, "Next" in result.stderr) == (4, False)


def test_waiting_excludes_rows_and_dry_runs(broker: str) -> None:  # noqa: ARG001 - configures
    options = ("--max-size", "5", "--wait")
    dry = run_cli("upload", "inbox", "acme/a", *options, "--dry-run")
    rows = run_cli("upload", "inbox", "--from", "-", *options)
    assert (dry.exit_code, rows.exit_code) == (2, 2)
    assert "--wait" in dry.stderr
    assert "--wait" in rows.stderr
