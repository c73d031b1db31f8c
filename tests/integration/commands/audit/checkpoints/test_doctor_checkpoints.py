"""Tests the checks of `doctor` on checkpoints."""

from pathlib import Path

import pytest
from sqlalchemy import Engine

from tests.integration.commands.audit.checkpoints.conftest import Issue
from tests.support.cli.doctor import doctor_checks
from tests.support.cli.operator import run_audit as run
from tests.support.crypto.audit_proofs import tamper
from worker.commands.health.checkpoint_checks import checkpoint_checks
from worker.core.tenants.config import TenantConfig
from worker.core.tree.signed_note import SignerKey
from worker.settings import Settings

SECRET = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"
Found = list[tuple[str, str]]


def check() -> Found:
    """The state and message of each check, without the database."""
    found = checkpoint_checks(Settings(), TenantConfig(), (), {"AUDIT_SECRET": SECRET})
    return [(check.state, check.message) for check in found]


def audit_checks() -> Found:
    """The state and message of each check of `doctor` on the audit log."""
    checks = doctor_checks("audit", "--offline")
    return [(each["state"], each["message"]) for each in checks]


def test_a_service_without_a_key_signs_nothing_by_choice() -> None:
    assert check() == [("ok", "VALETKEY_AUDIT_KEY_FILE is not set, so no checkpoint is signed")]


def test_destinations_without_a_key_are_a_warning(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VALETKEY_AUDIT_CHECKPOINTS", "folder")
    assert [state for state, _ in check()] == ["warn"]


@pytest.mark.usefixtures("key")
def test_a_key_is_named_with_the_destinations(monkeypatch: pytest.MonkeyPatch) -> None:
    hook = "https://hooks.example.com/x?token=s3cret"
    monkeypatch.setenv("VALETKEY_AUDIT_CHECKPOINTS", f"folder, {hook}")
    monkeypatch.setenv("VALETKEY_AUDIT_WEBHOOK_SECRET", "env:AUDIT_SECRET")
    text = "signs checkpoints; published to: folder, webhook hooks.example.com"
    assert check() == [("ok", f"audit.example.com/valetkey {text}")]


@pytest.mark.parametrize(
    ("destination", "secret", "message"),
    [
        ("s3://nosuch/x", "env:AUDIT_SECRET", "s3://nosuch/x/: there is no bucket profile nosuch"),
        ("https://h.example/x", None, "VALETKEY_AUDIT_WEBHOOK_SECRET is not set"),
        ("https://h.example/x", "env:NOSUCH", "env:NOSUCH is not set in the environment"),
    ],
)
@pytest.mark.usefixtures("key")
def test_a_destination_that_cannot_work_fails(
    monkeypatch: pytest.MonkeyPatch, destination: str, secret: str | None, message: str
) -> None:
    monkeypatch.setenv("VALETKEY_AUDIT_CHECKPOINTS", destination)
    if secret is not None:
        monkeypatch.setenv("VALETKEY_AUDIT_WEBHOOK_SECRET", secret)
    (_, (state, text)) = check()
    assert state == "fail"
    assert message in text


def test_a_key_that_cannot_be_used_fails(
    key: SignerKey, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("VALETKEY_AUDIT_ORIGIN", "other")
    ((state, text),) = check()
    assert state == "fail"
    assert f"the key in {tmp_path / 'audit.key'} has the name {key.name}" in text
    (tmp_path / "audit.key").write_text(key.dump()[:-4])
    ((state, text),) = check()
    assert state == "fail"
    assert "is no key of checkpoints" in text
    assert key.dump()[-20:-4] not in text


def test_failures_are_reported_until_they_are_mended(
    issue: Issue, engine: Engine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "out"
    folder.write_text("a file")
    monkeypatch.setenv("VALETKEY_AUDIT_CHECKPOINTS", str(folder))
    issue()
    result = run("checkpoint")
    assert result.exit_code == 1
    assert f"not published: acme to {folder}" in result.stderr
    warnings = [text for state, text in audit_checks() if state == "warn"]
    assert len(warnings) == 2  # of acme and of the config
    assert warnings[0].startswith(f"checkpoints of acme do not reach {folder}: ")
    folder.unlink()
    assert run("checkpoint").exit_code == 0
    assert [state for state, _ in audit_checks()] == ["ok"]
    tamper(engine, "UPDATE tree_heads SET size = 0 WHERE tenant = 'acme'")
    assert run("checkpoint").exit_code == 1
    ((state, text),) = [each for each in audit_checks() if each[0] != "ok"]
    assert state == "fail"
    assert "the log of acme is not signed: the tree has 0 leaves" in text
