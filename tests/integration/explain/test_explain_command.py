import json
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from tests.integration.conftest import ApplyConfig
from tests.support.builders.messages import (
    download_message,
    grant_message,
    tenant_config,
    upload_message,
)
from tests.support.cli.operator import Run
from tests.support.crypto.tokens import sign_message, tenant_keys
from tests.support.servers.databases import migrated_file
from valetkey.crypto.keys import generate_key
from valetkey.wire.replies import Explanation
from worker.clock import now
from worker.explain.explain_command import explain
from worker.rules.tenant_config import Quota, TenantConfig

KEY = generate_key("acme/main")
CONFIG = tenant_config(Quota("grants", "day", 3), keys=tenant_keys(KEY))


@pytest.fixture
def database_url(tmp_path: Path) -> str:
    return migrated_file(tmp_path / "valetkey.db")


@pytest.fixture
def run(apply_config: ApplyConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    """A function that runs the command on a file with the given content."""
    apply_config(CONFIG)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "AKIDEXAMPLE")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "not-a-secret")
    monkeypatch.setenv("VALETKEY_S3_ENDPOINT", "http://127.0.0.1:9")

    def run(content: str, *options: str, from_stdin: bool = False) -> Result:
        file = tmp_path / "message.json"
        file.write_text(content)
        path = "-" if from_stdin else str(file)
        return CliRunner().invoke(explain, [path, *options], input=content)

    return run


def test_a_message_that_would_be_granted_shows_each_rule_and_exits_with_0(run: Run) -> None:
    result = run(json.dumps(grant_message()))
    assert result.exit_code == 0, result.output
    lines = result.output.splitlines()
    assert lines[0].split() == ["rule", "verdict", "detail"]
    assert " ".join(lines[1].split()) == "identity ok not signed: the tenant trusts the queue"
    assert lines[-1] == "It would be issued."
    assert len(lines) > 8


def test_a_message_that_would_be_refused_names_the_limit_and_exits_with_1(run: Run) -> None:
    result = run(json.dumps(download_message(expires_in=90_000)))
    assert result.exit_code == 1
    (line,) = [line for line in result.output.splitlines() if line.startswith("grant.expires_in")]
    assert " ".join(line.split()) == (
        "grant.expires_in refused 1 day 1 hour of at most 1 day; "
        "expiry_too_long: longer than the tenant's policy allows: at most 1 day"
    )
    assert result.output.endswith("It would be refused.\n")


def test_the_command_reads_stdin_and_prints_json(run: Run) -> None:
    result = run(json.dumps(grant_message()), "--json", from_stdin=True)
    assert result.exit_code == 0
    assert Explanation.model_validate_json(result.stdout).decision == "issue"


def test_an_unsigned_message_of_a_tenant_with_keys_is_explained_as_if_it_were_signed(
    run: Run, apply_config: ApplyConfig
) -> None:
    acme = replace(CONFIG.tenants["acme"], trust="keys")
    apply_config(TenantConfig(CONFIG.buckets, {"acme": acme}))
    result = run(json.dumps(grant_message()))
    assert result.exit_code == 0
    assert "not signed: explained as if it were" in result.output


def test_a_token_is_authenticated_as_the_worker_does(run: Run) -> None:
    fresh = run(sign_message(grant_message(), KEY, now()) + "\n")
    assert (fresh.exit_code, "signed by acme/main" in fresh.output) == (0, True)
    quoted = run(json.dumps(sign_message(grant_message(), KEY, now())))
    assert quoted.exit_code == 0
    old = run(sign_message(grant_message(), KEY, datetime(2020, 1, 1, tzinfo=UTC)))
    assert (old.exit_code, "message_expired in iat: " in old.output) == (1, True)


@pytest.mark.parametrize(
    ("content", "error"),
    [
        ("{", "neither a token nor a message"),
        ("[" * 100_000, "neither a token nor a message"),
        (json.dumps({"v": 1, "ask": "usage", "tenant": "acme"}), "asks for no grants"),
        (json.dumps(grant_message(v=9)), "version_unknown in v: "),
        (json.dumps(grant_message(tenant="nobody")), "tenant_unknown: "),
        ("text", "token_invalid: "),
    ],
)
def test_input_that_is_no_readable_authenticated_grant_message_is_refused(
    run: Run, content: str, error: str
) -> None:
    result = run(content)
    assert (result.exit_code, error in result.output) == (1, True)


def test_an_operator_is_told_the_precise_cause_that_the_sender_is_not_told(run: Run) -> None:
    unknown = run(sign_message(grant_message(), generate_key("acme/none"), now())).output
    assert "counted as key_unknown; signature_invalid: " in unknown
    forged = run(sign_message(grant_message(), generate_key(KEY.id), now())).output
    assert "counted as" not in forged
    assert "signature_invalid: " in forged


def test_control_characters_of_a_message_are_escaped(run: Run) -> None:
    result = run(json.dumps(upload_message(metadata={"\u202e\x9b": "a"})))
    assert "grant.metadata" in result.output
    assert not {"\u202e", "\x9b"} & set(result.output)


def test_a_missing_file_is_named() -> None:
    result = CliRunner().invoke(explain, ["nowhere.json"])
    assert (result.exit_code, "nowhere.json" in result.output) == (1, True)
